"""Random traces, replayed: the replay passes, and every kind of altered copy of it fails.

docs/replay.md, "What passes all the same", says which alterations pass and why; the last test holds it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from traces import FILE_BYTES, Rows, altered, make_files, random_rows, recording, rows_of

from tracekit.comparison.table import Parity
from tracekit.replayer.compare import compare
from tracekit.replayer.run import replay

Alter = Callable[[Rows, random.Random], object]
MACHINE = {"lateness_p99_ns", "lateness_max_ns", "duration_ns", "throughput_bytes_per_s"}
"""What a busy machine may fail in a faithful replay."""
MS = 1_000_000


def drop(rows: Rows, rng: random.Random) -> None:
    del rows[rng.randrange(len(rows))]


def duplicate(rows: Rows, rng: random.Random) -> None:
    rows.append(dict(rng.choice(rows)))


def other_file(rows: Rows, rng: random.Random) -> None:
    row = rng.choice(rows)
    row["uri"] = row["uri"][:-1] + ("1" if row["uri"].endswith("0") else "0")


def other_offset(rows: Rows, rng: random.Random) -> None:
    row = rng.choice(rows)
    row["offset"] = (row["offset"] + rng.randrange(1, FILE_BYTES)) % FILE_BYTES


def larger(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        row["len"] = row["bytes"] = row["len"] + row["len"] // 10


def other_kind(rows: Rows, rng: random.Random) -> None:
    rng.choice(rows)["op"] = rng.choice(["get", "put", "write", "stat"])


def other_failure(rows: Rows, rng: random.Random) -> None:
    row = rng.choice(rows)
    row["error"] = "permission" if row["error"] != "permission" else None


def other_step(rows: Rows, rng: random.Random) -> None:
    rng.choice(rows)["step"] += rng.choice([-1, 1, 1000])


def other_worker(rows: Rows, rng: random.Random) -> None:
    rng.choice(rows)["worker"] += 1


def reverse(rows: Rows, rng: random.Random) -> None:
    """Issue the plan from its end, on time: the machine's own lateness would excuse some of it."""
    rows.sort(key=lambda row: row["plan_op"])
    times = sorted((row["t_submit"], row["latency"]) for row in rows)
    for row, (submit, latency) in zip(reversed(rows), times, strict=True):
        row["t_submit"], row["latency"] = submit, latency
        row["t_due"] = None if row["t_due"] is None else submit


ANY_PACE: list[Alter] = [
    drop, duplicate, other_file, other_offset, larger, other_kind, other_failure, other_step, other_worker, reverse,
]  # fmt: skip


def shift(rows: Rows, rng: random.Random) -> None:
    rng.choice(rows)["t_submit"] += 3_000 * MS


def early(rows: Rows, rng: random.Random) -> None:
    row = rng.choice(rows)
    row["t_submit"] = row["t_due"] - rng.randrange(2, 50) * MS


def shift_half(rows: Rows, rng: random.Random) -> None:
    rows.sort(key=lambda row: row["plan_op"])
    for row in rows[len(rows) // 2 :]:
        row["t_submit"] += 2_000 * MS
        row["t_due"] += 2_000 * MS


def burst(rows: Rows, rng: random.Random) -> None:
    """Squeeze what went within each 50 ms to its begin."""
    first = min(row["t_due"] for row in rows)
    for row in rows:
        row["t_submit"] = first + (row["t_due"] - first) // (50 * MS) * 50 * MS


RECORDED: list[Alter] = [shift, early, shift_half, burst]


class Copies:
    """A random recording, a replay of it, and altered copies of that."""

    def __init__(self, folder: Path, seed: int, pace: str) -> None:
        make_files(folder / "data")
        self.folder = folder
        self.recording = recording(
            folder / "a.parquet", random_rows(folder / "data", seed, 100, failing=0.1 * (seed % 2))
        )
        self.result = replay(self.recording, pace=pace, out=folder / "r.trace")

    def judged(self, alter: Alter, seed: int) -> Parity:
        rng = random.Random(seed)
        copy = altered(self.folder / "r.trace", self.folder / "copy.parquet", lambda rows: alter(rows, rng))
        return compare(self.recording, copy)


def differences(parity: Parity) -> set[str]:
    return {row.metric for row in parity.failed} - MACHINE


@pytest.mark.parametrize("pace", ["recorded", "closed", "asap"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_replay_passes_and_every_altered_copy_of_it_fails(pace: str, seed: int, tmp_path: Path) -> None:
    copies = Copies(tmp_path, seed, pace)
    assert not differences(copies.result.parity), copies.result.parity.to_dict()
    assert not differences(copies.judged(lambda rows, rng: rng.shuffle(rows), seed))
    for alter in ANY_PACE:
        assert differences(copies.judged(alter, seed)), alter.__name__
    if pace == "recorded":
        for alter in RECORDED:
            assert not copies.judged(alter, seed).ok, alter.__name__


@pytest.mark.soak
@pytest.mark.parametrize("pace", ["recorded", "closed", "asap"])
def test_a_hundred_replays_of_random_traces_pass(pace: str, tmp_path: Path) -> None:
    make_files(tmp_path / "data")
    for seed in range(100):
        made = recording(
            tmp_path / "a.parquet", random_rows(tmp_path / "data", seed, 100, failing=0.1 * (seed % 2))
        )
        parity = replay(made, pace=pace).parity
        assert not differences(parity), (seed, parity.to_dict())


def all_later(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        row["t_submit"] += 10_000 * MS
        row["t_due"] += 10_000 * MS


def slower_target(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        row["latency"] *= 100


def a_little_late(rows: Rows, rng: random.Random) -> None:
    row = rng.choice(rows)
    row["t_submit"] = row["t_due"] + MS // 2


def recovered_from_a_timeout(rows: Rows, rng: random.Random) -> None:
    """Nothing: the recording of this test has one op that timed out, and it succeeds in the replay."""


@pytest.mark.parametrize("alter", [all_later, slower_target, a_little_late, recovered_from_a_timeout])
def test_what_the_page_says_passes_does_pass(tmp_path: Path, alter: Alter) -> None:
    make_files(tmp_path / "data")
    rows = random_rows(tmp_path / "data", 6, 60)
    rows[7]["error"], rows[7]["bytes"] = "timeout", 0
    made = recording(tmp_path / "a.parquet", rows)
    replay(made, out=tmp_path / "r.trace")
    parity = compare(
        made,
        altered(tmp_path / "r.trace", tmp_path / "b.parquet", lambda rows: alter(rows, random.Random(1))),
    )
    assert parity.kind == "replay"
    assert not differences(parity), parity.to_dict()
    assert len(rows_of(tmp_path / "r.trace")[0]) == 60
