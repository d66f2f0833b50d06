"""Measure how closely a replay matches: every sample trace and a foreign log, on each of the four schemes.

Each recording is materialized on the target and replayed at its recorded times for at least
`--seconds` (looped), slowed down where the server could not keep up (Azurite is JavaScript). The
limits are tighter than those of a replay's own verdict: duration 2 %, bytes per step 1 %, bytes in
each whole window of 1 s 5 %. `s3` is nginx and `az` is Azurite, both on this machine.

    python analysis/benchmarks/bench_parity.py [--seconds 5] [--foreign LOG.tsv.zst]
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(REPO / "tests")]
from results import Table
from servers import Unavailable, azurite_server, nginx_bucket

from tracekit.formats.registry import import_trace
from tracekit.replayer.materialize import materialize
from tracekit.replayer.run import replay
from tracekit.store.reader import TraceReader, open_reader

SCHEMES = ("file", "direct", "s3", "az")
MOST_A_SECOND = {"file": 1e9, "direct": 1e9, "s3": 1e9, "az": 120.0}
"""The most ops per second that the target is asked for."""


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--seconds", type=float, default=5.0)
    arguments.add_argument("--foreign", type=Path, help="an s3dlio op log to replay as well")
    chosen = arguments.parse_args()
    table = Table(
        "parity",
        [
            "recording",
            "on",
            "speed",
            "ops",
            "duration %",
            "bytes a step %",
            "worst window %",
            "late p99 us",
            "holds",
        ],
    )
    with tempfile.TemporaryDirectory(prefix="bench-parity-") as name:
        folder = Path(name)
        recordings = {p.stem: open_reader(p) for p in sorted((REPO / "sample_traces").glob("*.trace"))}
        if chosen.foreign is not None:
            import_trace("s3dlio", chosen.foreign, folder / "foreign.trace")
            recordings["foreign (s3dlio)"] = open_reader(folder / "foreign.trace")
        for label, reader in recordings.items():
            for scheme in SCHEMES:
                place = folder / f"{label.split()[0]}-{scheme}"
                try:
                    with target(scheme, reader, place) as rules:
                        table.add(label, scheme, *one(reader, scheme, rules, place, chosen.seconds))
                except Unavailable as reason:
                    print(f"{label} on {scheme}: {reason}", file=sys.stderr)
    table.finish()


@contextmanager
def target(scheme: str, reader: TraceReader, place: Path) -> Iterator[tuple[str, ...]]:
    """Make the objects of the recording on a target of this scheme; return the mapping rules."""
    found = reader.query(
        "SELECT DISTINCT regexp_extract(uri, '^[a-z0-9]+://[^/]*/') AS root FROM ops WHERE uri <> ''"
    )
    roots = found.column("root").to_pylist()
    place.mkdir()
    with ExitStack() as stack:
        made = f"{scheme}://{place / 'data'}"
        if scheme == "az":
            azurite = stack.enter_context(azurite_server(place / "log"))
            azurite.make_container("bench")
            os.environ.update(azurite.env)
            made = "az://bench"
        at = made if scheme != "s3" else f"file://{place / 'data'}"  # nginx serves the files that are there.
        materialize(reader, tuple(f"{root}={at}/{i}/" for i, root in enumerate(roots)))
        if scheme == "s3":
            os.environ.update(stack.enter_context(nginx_bucket(place / "data", place / "nginx")).env)
            made = "s3://bucket"
        yield tuple(f"{root}={made}/{i}/" for i, root in enumerate(roots))


def one(
    reader: TraceReader, scheme: str, rules: tuple[str, ...], place: Path, seconds: float
) -> tuple[float, int, float, float, float, float, str]:
    """Return the row: speed, ops, differences in per cent, lateness, and whether it is within the limits."""
    facts = reader.query(
        "SELECT count(*) AS n, (max(t_submit) - min(t_submit)) / 1e9 AS s FROM ops WHERE op IN ('read', 'get')"
    ).to_pylist()[0]
    rate = facts["n"] / facts["s"]
    speed = float(f"{min(1.0, MOST_A_SECOND[scheme] / rate):.2g}")
    loops = max(math.ceil(seconds * speed / facts["s"]), 1)
    out = place / "replay.trace"
    result = replay(reader, map=rules, speed=speed, loop=loops, out=out, tolerance=1e9)
    if result.failed_ops:
        raise SystemExit(f"{scheme}: {result.failures}")
    found = {row.metric: row.difference for row in result.parity.rows}
    duration, step = (found.get(name) for name in ("duration_ns", "bytes_per_step"))
    window = worst_window(open_reader(out))
    holds = (duration or 0) <= 0.02 and (step or 0) <= 0.01 and window <= 0.05
    late = (result.timing["lateness_p99_ns"] or 0) / 1e3
    return (
        speed,
        result.ops,
        (duration or 0) * 100,
        (step or 0) * 100,
        window * 100,
        late,
        "yes" if holds else "NO",
    )


def worst_window(done: TraceReader) -> float:
    """Return the largest relative difference between the bytes of a whole window of 1 s and those due in it."""
    rows = done.query("SELECT t_submit, t_due, bytes FROM ops WHERE t_due IS NOT NULL")
    submit, due = rows.column("t_submit").to_numpy(), rows.column("t_due").to_numpy()
    moved = rows.column("bytes").to_numpy()
    first = due.min()
    wanted, got = (np.bincount((t - first).clip(0) // 1_000_000_000, weights=moved) for t in (due, submit))
    whole = min(len(wanted), len(got)) - 1
    if whole < 1:
        return 0.0
    busy = wanted[:whole] > 0
    return float(np.max(np.abs(got[:whole][busy] / wanted[:whole][busy] - 1)))


if __name__ == "__main__":
    main()
