"""Traces of hosts whose wall clocks are wrong: measured offsets, and the monotonic clock of one boot, give the order that was."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
from true_order import take_turns

import tracekit
from tracekit.recorder import Recorder
from tracekit.store.clocks import clock_of
from tracekit.store.manifest import Manifest, new_manifest, read_manifest, write_manifest
from tracekit.store.writer import TraceWriter

TURNS = 30
HOST = """if True:
    import sys, time
    real, ahead, boot = time.time_ns, int(sys.argv[3]), sys.argv[4]
    time.time_ns = lambda: real() + ahead  # the wall clock of this host

    from tracekit import Recorder
    from tracekit.store import labels, manifest

    if boot:
        labels.boot_id = manifest.boot_id = lambda: boot

    with Recorder(sys.argv[1], source="test", rank=int(sys.argv[2])) as recorder:
        print("ready", flush=True)
        for turn in sys.stdin:
            recorder.record("file:///x", 0, 1, time.monotonic_ns(), 1, bytes=1, sample_id=int(turn))
            print(turn.strip(), flush=True)
"""


def recorded(folder: Path, ahead_ns: tuple[int, ...], boots: tuple[str, ...]) -> list[Path]:
    """Traces of ops that really were one after the other, from hosts whose wall clocks are `ahead_ns` ahead."""
    paths = [folder / f"h{rank}" for rank in range(len(ahead_ns))]
    commands = [
        [sys.executable, "-c", HOST, str(path), str(rank), str(ahead), boot]
        for rank, (path, ahead, boot) in enumerate(zip(paths, ahead_ns, boots, strict=True))
    ]
    take_turns(commands, [(turn * 5 + turn // 4) % len(paths) for turn in range(TURNS)])
    return paths


def turns(trace: Path) -> list[tuple[int, int]]:
    found = tracekit.open_trace(trace).query(
        "SELECT sample_id, t_submit FROM ops ORDER BY t_submit, sample_id"
    )
    return [(row["sample_id"], row["t_submit"]) for row in found.to_pylist()]


def test_given_offsets_put_hosts_with_wrong_wall_clocks_in_the_true_order(tmp_path: Path) -> None:
    ahead = (0, 7_500_000_000, -250_000_000)
    traces = recorded(tmp_path, ahead, ("boot-a", "boot-b", "boot-c"))
    as_they_are = tracekit.merge(traces, tmp_path / "wrong")
    assert [turn for turn, _ in turns(as_they_are.out)] != list(range(TURNS))
    offsets = [f"h{rank}={-ns}ns" for rank, ns in enumerate(ahead) if ns]
    merged = tracekit.merge(traces, tmp_path / "all", offset=offsets, clock_error="20us")
    assert [host.offset_ns for host in merged.hosts] == [-ns for ns in ahead]
    assert sorted(turn for turn, _ in turns(merged.out)) == list(range(TURNS))
    for (earlier, at), (later, then) in pairwise(turns(merged.out)):
        assert (
            earlier < later or then - at <= 2 * 20_000
        )  # further apart than both errors, the order is certain


def test_traces_of_one_boot_are_placed_by_its_monotonic_clock(tmp_path: Path) -> None:
    traces = recorded(
        tmp_path, (0, 3_600_000_000_000, -40_000_000), ("", "", "")
    )  # the wall clock was set in between
    merged = tracekit.merge(traces, tmp_path / "all")
    assert [turn for turn, _ in turns(merged.out)] == list(range(TURNS))
    how = [clock_of(segment).how for segment in tracekit.open_trace(merged.out).reader.segments]
    assert sorted(how) == ["boot", "boot", "wall"]
    assert sum(host.offset_ns != 0 for host in merged.hosts) == 2
    moved = tracekit.merge(
        traces, tmp_path / "moved", offset="h1=-5s"
    )  # a given offset is from its own wall clock
    assert moved.hosts[1].offset_ns == -5_000_000_000


def write(path: Path, manifest: Manifest, t_submit: int, rank: int) -> Path:
    """A trace of one op, whose manifest is `manifest`."""
    path.mkdir()
    write_manifest(path, manifest)
    with Recorder(path, rank=rank) as recorder:
        recorder.record("file:///x", 0, 1, recorder.epoch_mono_ns + t_submit, 1, bytes=1, sample_id=rank)
    return path


def test_the_shift_between_traces_of_one_boot_is_exact_and_knows_time_namespaces(tmp_path: Path) -> None:
    first = new_manifest()
    assert first.epoch_mono_ns is not None
    ns = 1_000_000_000
    later = (
        replace(  # 3 s later, in a namespace whose clock is 1,000 s ahead, by a wall clock that is 9 s ahead
            first,
            trace_id="0" * 16,
            epoch_unix_ns=first.epoch_unix_ns + (3 + 9) * ns,
            epoch_mono_ns=first.epoch_mono_ns + (3 + 1000) * ns,
            mono_shift_ns=(first.mono_shift_ns or 0) + 1000 * ns,
        )
    )
    traces = [write(tmp_path / "a", first, 0, 0), write(tmp_path / "b", later, 17, 1)]
    merged = tracekit.merge(traces, tmp_path / "all")
    assert turns(merged.out) == [(0, 0), (1, 3 * ns + 17)]
    assert [host.offset_ns for host in merged.hosts] == [0, -9 * ns]
    elsewhere = replace(later, trace_id="1" * 16, boot_id="another boot")
    traces[1] = write(tmp_path / "c", elsewhere, 17, 1)
    by_wall = tracekit.merge(traces, tmp_path / "by-wall")
    assert [host.offset_ns for host in by_wall.hosts] == [0, 0]
    assert read_manifest(tmp_path / "c") == elsewhere


def lone(path: Path, rank: int, ops: int, version: str | None = None) -> Path:
    with TraceWriter(path, source="import:test", epoch_unix_ns=1000) as writer:
        if ops:
            columns = {"t_submit": list(range(ops)), "uri": ["a"] * ops, "rank": [rank] * ops}
            kinds = {"t_submit": pa.int64(), "uri": pa.string(), "rank": pa.int32()}
            writer.write(pa.RecordBatch.from_pydict({k: pa.array(v, kinds[k]) for k, v in columns.items()}))
    return path


def test_an_empty_trace_is_part_of_a_merge_and_alone_gives_an_empty_one(tmp_path: Path) -> None:
    empty, full = lone(tmp_path / "empty", 0, 0), lone(tmp_path / "full", 3, 5)
    both = tracekit.merge([empty, full], tmp_path / "both")
    assert (both.ops, [host.ops for host in both.hosts]) == (5, [5]) or [host.ops for host in both.hosts] == [
        0,
        5,
    ]
    assert tracekit.merge([empty], tmp_path / "alone").ops == 0
    assert tracekit.open_trace(tmp_path / "alone").ops == 0
