"""Every macro against plain Python over the same rows."""

from __future__ import annotations

import cmath
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit.metrics.library import install

Row = dict[str, Any]
STRINGS = ("uri", "op", "error")

ops = st.lists(
    st.fixed_dictionaries(
        {
            "t_submit": st.integers(0, 3000), "uri": st.sampled_from(["s3://b/x/y/1", "file:///d/a", "/d/b"]),
            "op": st.sampled_from(["read", "read", "read", "get", "write", "hint"]),
            "offset": st.none() | st.integers(0, 5).map(lambda n: n * 4096),
            "len": st.none() | st.integers(0, 9000), "bytes": st.none() | st.integers(0, 9000),
            "latency": st.none() | st.integers(0, 1500), "tries": st.none() | st.integers(1, 3),
            "wait_ns": st.none() | st.integers(0, 700), "sample_id": st.none() | st.integers(0, 4),
            "step": st.none() | st.integers(0, 11), "rank": st.integers(0, 1), "worker": st.integers(0, 1),
            "t_due": st.none() | st.integers(0, 3000), "error": st.sampled_from([None, None, None, "timeout"]),
        }
    ),
    max_size=40,
)  # fmt: skip


def quantile(values: list[int], q: float) -> int | None:
    """The discrete quantile: the least value that at least a share `q` does not exceed."""
    return sorted(values)[max(math.ceil(q * len(values)) - 1, 0)] if values else None


def us(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e3


def grouped(rows: list[Row], *names: str) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    yield from groups.items()


def real(rows: list[Row]) -> list[Row]:
    return [r for r in rows if r["op"] != "hint"]


def ended(rows: list[Row]) -> list[Row]:
    return [r for r in real(rows) if r["latency"] is not None]


def end(r: Row) -> int:
    return int(r["t_submit"] + (0 if r["latency"] is None else response(r)))


def response(r: Row) -> int:
    return int(r["latency"] + (r["wait_ns"] or 0))


def stream(r: Row) -> str:
    return f"{r['rank']}/{r['worker']}"


def latency_hist(rows: list[Row]) -> list[Row]:
    return time_hist(rows, lambda r: int(r["latency"]))


def response_hist(rows: list[Row]) -> list[Row]:
    return time_hist(rows, response)


def time_hist(rows: list[Row], of: Callable[[Row], int]) -> list[Row]:
    def bucket(ns: int) -> tuple[int, int]:
        shift = max(ns.bit_length() - 7, 0)
        return ns >> shift << shift, ((ns >> shift) + 1) << shift

    found = Counter((stream(r), *bucket(of(r))) for r in ended(rows))
    return [{"key": k, "lo": lo, "hi": hi, "counts": n} for (k, lo, hi), n in sorted(found.items())]


def req_bytes_hist(rows: list[Row]) -> list[Row]:
    def bucket(n: int) -> tuple[int, int]:
        return (0, 1) if n == 0 else (1 << n.bit_length() - 1, 1 << n.bit_length())

    found = Counter((r["op"], *bucket(r["len"])) for r in real(rows) if r["len"] is not None)
    return [{"key": k, "lo": lo, "hi": hi, "counts": n} for (k, lo, hi), n in sorted(found.items())]


def round_window(span: int, windows: int) -> int:
    least = -(-span // windows)
    return next(int(m * 10**k) for k in range(20) for m in (1, 2, 5) if m * 10**k >= least)


def extent(rows: list[Row]) -> tuple[int, int]:
    t0 = min((r["t_submit"] for r in real(rows)), default=0)
    return t0, max(max(map(end, real(rows)), default=0) - t0, 1)


def step_period(rows: list[Row]) -> int | None:
    first: dict[int, int] = {}
    for r in real(rows):
        if r["step"] is not None:
            first[r["step"]] = min(r["t_submit"], first.get(r["step"], r["t_submit"]))
    times = sorted(first.values())
    if len(times) < 8 or 2 * (times[-1] - times[0]) < extent(rows)[1]:
        return None
    apart = min(16, len(times) // 2)
    # Half away from zero, as SQL rounds.
    median = statistics.median((b - a) / apart for a, b in zip(times, times[apart:], strict=False))
    return math.floor(median + 0.5) or None


def time_window(rows: list[Row], windows: int) -> tuple[int, int]:
    """The length of a window, and how far before the first submit the first one begins."""
    t0, span = extent(rows)
    width, period = round_window(span, windows), step_period(rows)
    if period is None or 4 * width <= period or width >= 50 * period:
        return width, 0
    steps = max(-(-round_window(span + period, windows) // period), min(4, span // (12 * period)))
    turns = [
        cmath.exp(2j * cmath.pi * ((r["t_submit"] - t0) % period * 64 // period) / 64) for r in real(rows)
    ]
    lull = round((cmath.pi - cmath.phase(sum(turns))) / (2 * cmath.pi) * period)
    return steps * period, lull if abs(sum(turns)) > 0.01 * len(turns) else 0


def over_time(rows: list[Row]) -> list[Row]:
    data = real(rows)
    if not data:
        return []
    t0, span = extent(rows)
    width, before = time_window(rows, 4)
    t0, span = t0 - before, span + before
    count = max(-(-span // width), 1)
    has_ends, has_bytes = bool(ended(rows)), any(r["bytes"] is not None for r in data)
    made = []
    for w in range(count):
        lo, hi = t0 + w * width, t0 + min((w + 1) * width, span)
        mine = [r for r in data if min((r["t_submit"] - t0) // width, count - 1) == w]
        lats = [r["latency"] for r in mine if r["latency"] is not None]
        moved, written, op_ns, byte_ns = 0, 0, 0, 0
        for r in data:
            a, b, n = r["t_submit"], end(r), r["bytes"] or 0
            inside = max(min(b, hi) - max(a, lo), 0)
            op_ns += inside
            byte_ns += inside * (r["len"] if r["len"] is not None else n)
            here = n * (r in mine) if a == b else 0
            if a < b and inside:
                here = n * (min(b, hi) - a) // (b - a) - n * (max(a, lo) - a) // (b - a)
            moved += here
            written += here * (r["op"] == "write")
        made.append(
            {"win": w, "start_s": (w * width - before) / 1e9, "s": ((lo + hi) / 2 - t0 - before) / 1e9, "window_s": (hi - lo) / 1e9,
             "ops": len(mine), "bytes": moved if has_bytes else None,
             "bytes_per_s": moved / ((hi - lo) / 1e9) if has_bytes else None,
             "read_bytes_per_s": (moved - written) / ((hi - lo) / 1e9) if has_bytes else None,
             "write_bytes_per_s": written / ((hi - lo) / 1e9) if has_bytes else None, "ops_per_s": len(mine) / ((hi - lo) / 1e9),
             "p50_us": us(quantile(lats, 0.5)), "p90_us": us(quantile(lats, 0.9)), "p99_us": us(quantile(lats, 0.99)),
             "max_us": us(max(lats, default=None)), "failed": sum(r["error"] is not None for r in mine),
             "mean_qd": op_ns / (hi - lo) if has_ends else None,
             "mean_inflight_bytes": byte_ns / (hi - lo) if has_ends else None}
        )  # fmt: skip
    return made


def in_flight(rows: list[Row]) -> list[Row]:
    def weight(r: Row) -> int:
        return int(r["len"] if r["len"] is not None else r["bytes"] or 0)

    data = real(rows)
    ends = [(r, r["t_submit"] + max(response(r), 1)) for r in ended(rows)]
    made = []
    for t in sorted({r["t_submit"] for r in data} | {at for _, at in ends}):
        now = [r for r in data if r["t_submit"] <= t]
        gone = [r for r, at in ends if at <= t]
        made.append(
            {"t": t, "qd": len(now) - len(gone) if ends else None,
             "inflight_bytes": sum(map(weight, now)) - sum(map(weight, gone)) if ends else None}
        )  # fmt: skip
    return made


def total(rows: list[Row], name: str) -> int | None:
    values = [r[name] for r in rows if r[name] is not None]
    return int(sum(values)) if values else None


def totals(rows: list[Row]) -> list[Row]:
    data, done = real(rows), ended(rows)
    lats, responses = [r["latency"] for r in done], [response(r) for r in done]
    reads, writes = ([r for r in data if (r["op"] == "write") == w] for w in (False, True))
    tried = [r["tries"] for r in data if r["tries"] is not None]
    return [
        {"ops": len(data), "failed_ops": sum(r["error"] is not None for r in data), "ended_ops": len(done),
         "bytes": total(data, "bytes"), "unknown_bytes_ops": sum(r["bytes"] is None for r in data),
         "requested_bytes": total(data, "len"), "first_submit_ns": min((r["t_submit"] for r in data), default=None),
         "last_submit_ns": max((r["t_submit"] for r in data), default=None), "last_end_ns": max(map(end, done), default=None),
         "step_bytes": total([r for r in data if r["step"] is not None], "bytes"), "latency_sum_ns": total(data, "latency"),
         "latency_max_ns": max(lats, default=None), "latency_min_ns": min(lats, default=None),
         "read_ops": len(reads), "write_ops": len(writes), "read_bytes": total(reads, "bytes"),
         "write_bytes": total(writes, "bytes"), "retried_ops": sum(n > 1 for n in tried) if tried else None,
         "wait_sum_ns": total(data, "wait_ns"), "response_sum_ns": sum(responses) if responses else None,
         "response_max_ns": max(responses, default=None), "response_min_ns": min(responses, default=None)}
    ]  # fmt: skip


def by_op(rows: list[Row]) -> list[Row]:
    def key(r: Row) -> tuple[str, str, str]:
        return (r["uri"].partition("://")[0] if "://" in r["uri"] else "file", r["op"], r["error"] or "")

    return [
        {"scheme": scheme, "op": op, "error": error or None, "ops": len(mine), "bytes": total(mine, "bytes"),
         "requested_bytes": total(mine, "len")}
        for scheme, op, error in sorted(set(map(key, rows)))
        for mine in [[r for r in rows if key(r) == (scheme, op, error)]]
    ]  # fmt: skip


def sequentiality(rows: list[Row]) -> list[Row]:
    moving = [r for r in rows if r["op"] in ("read", "write") and r["offset"] is not None]
    moves: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for _, mine in grouped(moving, "rank", "worker", "uri", "op"):
        mine.sort(key=lambda r: (r["t_submit"], r["offset"]))
        for a, b in pairwise(mine):
            size = a["bytes"] if a["bytes"] is not None else a["len"] or 0
            moves[stream(b)].append((b["offset"] - a["offset"], b["offset"] - a["offset"] - size))
    made = []
    for key, found in sorted(moves.items()):
        n, jumps = len(found), Counter(jump for jump, _ in found)
        most = max(jumps.values())
        made.append(
            {"key": key, "ops": n, "sequential": sum(g == 0 for _, g in found) / n,
             "forward": sum(g != 0 and j > 0 for j, g in found) / n, "backward": sum(g != 0 and j < 0 for j, g in found) / n,
             "same": sum(g != 0 and j == 0 for j, g in found) / n, "stride": min(j for j, c in jumps.items() if c == most)}
        )  # fmt: skip
    return made


def interarrival(rows: list[Row]) -> list[Row]:
    made = []
    for (_, _), mine in sorted(grouped(real(rows), "rank", "worker")):
        gaps = [b - a for a, b in pairwise(sorted(r["t_submit"] for r in mine))]
        if gaps:
            mean = sum(gaps) / len(gaps)
            deviation = math.sqrt(sum((g - mean) ** 2 for g in gaps) / len(gaps))
            made.append(
                {"key": stream(mine[0]), "ops": len(gaps), "mean_us": mean / 1e3, "p50_us": us(quantile(gaps, 0.5)),
                 "p99_us": us(quantile(gaps, 0.99)), "max_us": max(gaps) / 1e3, "cv": deviation / mean if mean else None,
                 "burstiness": (deviation - mean) / (deviation + mean) if deviation + mean else None}
            )  # fmt: skip
    return made


def per_file(rows: list[Row]) -> list[Row]:
    made = []
    for (uri,), mine in grouped([r for r in rows if r["op"] in ("read", "get", "write")], "uri"):
        moved = total(mine, "bytes")
        extent = max(
            (r["offset"] or 0) + (r["bytes"] if r["bytes"] is not None else r["len"] or 0) for r in mine
        )
        lats = [r["latency"] for r in mine if r["latency"] is not None]
        made.append(
            {"uri": uri, "ops": len(mine), "bytes": moved, "extent_bytes": extent, "reuse": moved / extent if extent and moved is not None else None,
             "p99_us": us(quantile(lats, 0.99)), "failed": sum(r["error"] is not None for r in mine)}
        )  # fmt: skip
    return sorted(made, key=lambda r: (r["bytes"] is None, -(r["bytes"] or 0), r["uri"]))


def per_sample(rows: list[Row]) -> list[Row]:
    made = [
        {"sample_id": sample, "ops": len(mine), "steps": len({r["step"] for r in mine} - {None}),
         "bytes": total(mine, "bytes"), "latency_sum_us": us(total(mine, "latency"))}
        for (sample,), mine in grouped(real(rows), "sample_id") if sample is not None
    ]  # fmt: skip
    return sorted(made, key=lambda r: (-r["ops"], r["sample_id"]))


def hot_set(rows: list[Row]) -> list[Row]:
    ranked = sorted(per_file(rows), key=lambda r: (-r["ops"], r["uri"]))
    total, so_far, hot = sum(r["ops"] for r in ranked), 0, []
    for row in ranked:
        if so_far < 0.5 * total:
            hot.append(row)
        so_far += row["ops"]
    return [{"files": len(hot), "of_files": len(ranked), "ops": sum(r["ops"] for r in hot),
             "extent_bytes": sum(r["extent_bytes"] for r in hot)}]  # fmt: skip


def per_step(rows: list[Row]) -> list[Row]:
    made = []
    for (rank, step), mine in grouped([r for r in real(rows) if r["step"] is not None], "rank", "step"):
        made.append(
            {"rank": rank, "step": step, "ops": len(mine), "bytes": total(mine, "bytes"),
             "first_s": (min(r["t_submit"] for r in mine) - extent(rows)[0]) / 1e9,
             "wall_ms": (max(map(end, mine)) - min(r["t_submit"] for r in mine)) / 1e6 if ended(mine) else None,
             "latency_sum_ms": (total(mine, "latency") or 0) / 1e6 if ended(mine) else None,
             "failed": sum(r["error"] is not None for r in mine),
             "slowest_us": us(max((r["latency"] for r in mine if r["latency"] is not None), default=None)),
             "slowest": {(r["uri"], r["offset"], r["sample_id"]) for r in slowest(mine)} or {(None, None, None)}}
        )  # fmt: skip
    return sorted(made, key=lambda r: (r["rank"], r["step"]))


def slowest(rows: list[Row]) -> list[Row]:
    longest = max((r["latency"] for r in rows if r["latency"] is not None), default=None)
    return [r for r in rows if longest is not None and r["latency"] == longest]


def edge(rows: list[Row]) -> int:
    slowest = sorted((r["latency"] for r in ended(rows)), reverse=True)
    return int(slowest[max(math.ceil(0.1 * len(slowest)), 1) - 1])


def tail_by(rows: list[Row]) -> list[Row]:
    data = ended(rows)
    tail = [r for r in data if r["latency"] >= edge(rows)]
    made = []
    for (uri,), mine in grouped(data, "uri"):
        slow, share = sum(r["latency"] >= edge(rows) for r in mine), len(mine) / len(data)
        made.append({"key": uri, "tail_ops": slow, "tail_share": slow / len(tail), "ops": len(mine), "all_share": share,
                     "lift": slow / len(tail) / share, "worst_us": max(r["latency"] for r in mine) / 1e3})  # fmt: skip
    return sorted(made, key=lambda r: (-r["tail_ops"], r["key"]))


def windows_of(rows: list[Row], those: list[Row]) -> Iterator[tuple[int, float, list[Row]]]:
    t0, span = extent(rows)
    width, before = time_window(rows, 3)
    t0, span = t0 - before, span + before
    for win in range(max(-(-span // width), 1)):
        mine = [r for r in those if min((r["t_submit"] - t0) // width, max(-(-span // width), 1) - 1) == win]
        if mine:
            yield win, ((win + 0.5) * width - before) / 1e9, mine


def tail_windows(rows: list[Row]) -> list[Row]:
    return [
        {"win": win, "s": s, "tail_ops": sum(r["latency"] >= edge(rows) for r in mine),
         "worst_us": max(r["latency"] for r in mine) / 1e3}
        for win, s, mine in windows_of(rows, ended(rows))
    ]  # fmt: skip


def lateness(rows: list[Row]) -> list[Row]:
    made = []
    for win, s, mine in windows_of(rows, [r for r in real(rows) if r["t_due"] is not None]):
        late = [r["t_submit"] - r["t_due"] for r in mine]
        made.append({"win": win, "s": s, "ops": len(mine), "p50_us": us(quantile(late, 0.5)),
                     "p99_us": us(quantile(late, 0.99)), "max_us": max(late) / 1e3})  # fmt: skip
    return made


BRUTE: dict[str, Callable[[list[Row]], list[Row]]] = {
    "latency_hist('worker')": latency_hist, "response_hist('worker')": response_hist, "req_bytes_hist('op')": req_bytes_hist, "over_time(4)": over_time,
    "in_flight()": in_flight, "totals()": totals, "by_op()": by_op,
    "sequentiality('worker')": sequentiality, "interarrival('worker')": interarrival, "per_file()": per_file,
    "per_sample()": per_sample, "hot_set(0.5)": hot_set, "per_step()": per_step, "tail_by(0.1, 'uri')": tail_by,
    "tail_windows(0.1, 3)": tail_windows, "lateness(3)": lateness,
}  # fmt: skip


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with closing(duckdb.connect()) as made:
        yield made


@given(rows=ops)
@examples(20)
def test_each_macro_equals_plain_python(connection: duckdb.DuckDBPyConnection, rows: list[Row]) -> None:
    names = ("t_submit", "uri", "op", "offset", "len", "bytes", "latency", "tries", "wait_ns", "sample_id",
             "step", "rank", "worker",
             "t_due", "error")  # fmt: skip
    table = pa.table(
        {
            name: pa.array([r[name] for r in rows], pa.string() if name in STRINGS else pa.int64())
            for name in names
        }
    )
    connection.register("given_ops", table)
    connection.execute("CREATE OR REPLACE VIEW ops AS FROM given_ops")
    install(connection)
    for call, brute in BRUTE.items():
        expected = brute(rows)
        found = connection.sql(f"FROM {call}").to_arrow_table().to_pylist()
        assert len(found) == len(expected), call
        for row, want in zip(found, expected, strict=True):
            if "slowest" in want:  # of equally slow ops any, but all of it
                assert tuple(row[f"slowest_{what}"] for what in ("uri", "offset", "sample")) in want.pop(
                    "slowest"
                )
            for name, value in want.items():
                got = float(row[name]) if isinstance(value, float) and row[name] is not None else row[name]
                fitting = pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value
                assert got == fitting, (call, name, want)
