"""Slicing: every op is on exactly one host, whatever the split, and streams are never split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit.replayer.mapping import parse_rules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import COLUMNS
from tracekit.replayer.planning import build_plan
from tracekit.scale.part import changed_elsewhere, part_of
from tracekit.scale.slicing import by_file, copies, slices
from tracekit.store.reader import open_reader
from tracekit.store.streams import StreamOps, stream_files, streams_of
from tracekit.store.writer import TraceWriter

STREAMS = st.lists(
    st.builds(StreamOps, st.integers(0, 6), st.integers(0, 4), st.integers(1, 1000), st.integers(0, 100)),
    max_size=20,
    unique_by=lambda each: (each.rank, each.worker),
)
SPLITS = ("rank", "file", "stream", "time-hash")


@examples(100)
@given(streams=STREAMS, hosts=st.integers(1, 8), split=st.sampled_from(SPLITS), data=st.data())
def test_every_stream_is_on_exactly_one_host(
    streams: list[StreamOps], hosts: int, split: str, data: st.DataObject
) -> None:
    uses = [
        ((each.rank, each.worker), uri)
        for each in streams
        for uri in data.draw(st.sets(st.sampled_from("abcdef"), min_size=1, max_size=2))
    ]
    found = slices(streams, hosts, split, by_file(uses))
    assert Counter(stream for part in found for stream in part) == Counter(
        (s.rank, s.worker) for s in streams
    )
    assert len(found) <= hosts and all(found)
    host_of = {stream: host for host, part in enumerate(found) for stream in part}
    if split == "rank":
        assert all(
            len({host for (rank, _), host in host_of.items() if rank == mine}) == 1 for mine, _ in host_of
        )
    if split == "file":
        for uri in "abcdef":
            assert len({host_of[stream] for stream, used in uses if used == uri}) <= 1
    if split in ("rank", "stream") and found:
        ops = {(each.rank, each.worker): each.ops for each in streams}
        units = Counter[tuple[int, ...]]()
        for (rank, worker), n in ops.items():
            units[(rank,) if split == "rank" else (rank, worker)] += n
        loads = [sum(ops[stream] for stream in part) for part in found]
        if len(found) == hosts:
            assert max(loads) - min(loads) <= max(units.values())


@examples(30)
@given(streams=STREAMS, hosts=st.integers(1, 5))
def test_a_hash_puts_a_stream_on_the_same_host_whatever_the_others_are(
    streams: list[StreamOps], hosts: int
) -> None:
    for each in streams:
        alone = slices([each], hosts, "time-hash")
        assert len(alone) == 1
        assert any(alone[0] <= part for part in slices(streams, hosts, "time-hash"))


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    kinds = {"uri": pa.string(), "op": pa.string(), "to_uri": pa.string()}
    names = sorted({name for row in rows for name in row})
    arrays = {name: pa.array([row.get(name) for row in rows], kinds.get(name, pa.int64())) for name in names}
    with TraceWriter(path, source="import:test", epoch_unix_ns=0, segment_ops=7) as writer:
        writer.write(pa.RecordBatch.from_pydict(arrays))
    return path


def op(t: int, uri: str, rank: int, worker: int, **more: object) -> dict[str, object]:
    return {"t_submit": t, "uri": f"file:///d/{uri}", "op": "read", "offset": None, "len": 10, "bytes": 10, "latency": 5,
            "sample_id": t, "rank": rank, "worker": worker, **more}  # fmt: skip


@examples(10)
@given(
    ops=st.lists(
        st.tuples(st.integers(0, 300), st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 2)),
        min_size=1,
        max_size=40,
    ),
    hosts=st.integers(1, 4),
    split=st.sampled_from(SPLITS),
    clients=st.integers(1, 3),
)
def test_the_parts_of_all_hosts_are_the_plan(
    tmp_path_factory: pytest.TempPathFactory,
    ops: list[tuple[int, str, int, int]],
    hosts: int,
    split: str,
    clients: int,
) -> None:
    reader = open_reader(write(tmp_path_factory.mktemp("p") / "t", [op(*each) for each in ops]))
    options = ReplayOptions(clients=clients, stagger=40 if clients > 1 else 0, loop=2, speed=2)
    whole = build_plan(reader, parse_rules(()), options)
    ranks = max(each[2] for each in ops) + 1
    uses = [
        ((rank + client * ranks, worker), uri)
        for client in range(clients)
        for rank, worker, uri in stream_files(reader)
    ]
    streams = copies(streams_of(reader), clients, ranks, 80)
    parts = [
        part_of(reader, parse_rules(()), options, part)
        for part in slices(streams, hosts, split, by_file(uses))
    ]
    numbers = np.concatenate([part.numbers for part in parts])
    assert sorted(numbers.tolist()) == list(range(whole.ops))
    for part in parts:
        for name in COLUMNS:
            mine = part.plan.column(name)
            theirs = whole.column(name)[part.numbers]
            if name == "file":
                assert [part.plan.uris[code] for code in mine] == [whole.uris[code] for code in theirs]
            elif name != "to_file":
                assert mine.tolist() == theirs.tolist(), name
        assert part.whole.ops == whole.ops and part.whole.assumed_offsets == whole.assumed_offsets


def test_an_object_that_hosts_would_have_to_share_is_named(tmp_path: Path) -> None:
    put = {"op": "put", "offset": None, "len": 5, "bytes": 5}
    rows = [
        op(1, "a", 0, 0, **put),
        op(2, "b", 1, 0, offset=0),
        op(3, "a", 1, 0, offset=0),
        op(4, "b", 0, 0, offset=0),
    ]
    reader = open_reader(write(tmp_path / "t", rows))
    options, rules = ReplayOptions(allow_writes=True, map="/d=/e"), parse_rules(["/d=/e"])
    one, other = frozenset({(0, 0)}), frozenset({(1, 0)})
    assert changed_elsewhere(reader, rules, options, [one, other]) == "file:///d/a"
    assert changed_elsewhere(reader, rules, options, [one | other]) is None
    reads = ReplayOptions()
    assert changed_elsewhere(reader, parse_rules(()), reads, [one, other]) is None
