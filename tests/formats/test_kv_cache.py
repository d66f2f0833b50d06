"""Traces of KV caches: each is counted by hand, independently of the reader."""

from __future__ import annotations

import csv
import gzip
import json
import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit.errors import TraceFormatError
from tracekit.formats.msgpack import unpack
from tracekit.formats.registry import import_trace
from tracekit.store.reader import open_reader


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_reader(path).query("SELECT * FROM ops ORDER BY t_submit").to_pylist()
    return found


def test_an_mlperf_kv_trace_has_the_counts_and_bytes_of_its_rows(tmp_path: Path) -> None:
    random.seed(5)
    log = tmp_path / "kv.csv"
    expected: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    with log.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Timestamp", "Operation", "Object_Size_Bytes", "Tier", "Key", "Phase"])
        for number in range(2000):
            word, size = random.choice(["Read", "Write"]), random.randrange(1, 2**24)
            tier = f"Tier-{random.randrange(3)}"
            writer.writerow(
                [f"{1700000000 + number / 1000:.6f}", word, size, tier, f"user_{number % 7}", "Decode"]
            )
            expected[{"Read": "get", "Write": "put"}[word]] += 1
            sizes[tier] += size
    import_trace("csv", log, tmp_path / "t", map_columns="mlperf-kv", strict=True)
    found = rows(tmp_path / "t")
    assert Counter(row["op"] for row in found) == expected
    by_tier: Counter[str] = Counter()
    for row in found:
        by_tier[row["uri"].split("/")[3]] += row["len"]
    assert by_tier == sizes
    assert found[-1]["t_submit"] == 1_999_000_000


def test_a_mooncake_block_is_put_by_the_first_request_and_read_by_later_ones(tmp_path: Path) -> None:
    requests = [(0, [0, 1, 2]), (500, [0, 1, 3]), (27482, [0, 1, 3, 4, 5])]
    log = tmp_path / "trace.jsonl"
    log.write_text(
        "".join(
            json.dumps({"timestamp": at, "input_length": 512 * len(ids), "output_length": 9, "hash_ids": ids})
            + "\n"
            for at, ids in requests
        )
    )
    done = import_trace("mooncake", log, tmp_path / "t", block_bytes="1MiB", strict=True)
    puts = len({one for _, ids in requests for one in ids})
    gets = sum(len(ids) for _, ids in requests) - puts
    found = rows(tmp_path / "t")
    assert Counter(row["op"] for row in found) == {"put": puts, "get": gets} == {"put": 6, "get": 5}
    assert {row["len"] for row in found} == {1 << 20}
    assert [row["t_submit"] for row in found if row["sample_id"] == 2] == [27_482_000_000] * 5
    assert found[0]["uri"] == "kv://mooncake/0"
    assert any("6 blocks of 1 MiB" in note for note in done.notes)


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"timestamp": 1}', '{"hash_ids": [1]}', '{"timestamp": "1", "hash_ids": []}',
             '{"timestamp": 1, "hash_ids": [1.5]}', '{"timestamp": -1, "hash_ids": []}', '{"timestamp": NaN, "hash_ids": []}']
)  # fmt: skip
def test_a_line_that_is_no_request_is_bad(tmp_path: Path, line: str) -> None:
    (tmp_path / "log").write_text('{"timestamp": 1, "hash_ids": ["a"]}\n' + line + "\n")
    assert import_trace("mooncake", tmp_path / "log", tmp_path / "t").skipped == 1


def packed(value: Any) -> bytes:
    """MessagePack of `value`, by the book: always the widest form."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return b"\xd3" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        raw = value.encode()
        return b"\xdb" + struct.pack(">I", len(raw)) + raw
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, list):
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(packed(one) for one in value)
    pairs = b"".join(packed(key) + packed(one) for key, one in value.items())
    return b"\xdf" + struct.pack(">I", len(value)) + pairs


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")) | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(_json)
def test_every_value_is_unpacked(value: Any) -> None:
    assert unpack(packed(value)) == value


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"\x05", 5), (b"\xff", -1), (b"\xcc\xff", 255), (b"\xcd\x01\x00", 256), (b"\xd1\xff\xfe", -2), (b"\xa2hi", "hi"),
     (b"\x92\x01\x02", [1, 2]), (b"\x81\xa1a\x01", {"a": 1}), (b"\xc4\x01\x09", b"\t"), (b"\xca\x3f\x80\x00\x00", 1.0)],
)  # fmt: skip
def test_short_forms_are_unpacked(data: bytes, value: Any) -> None:
    assert unpack(data) == value


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_value_or_a_value_error(data: bytes) -> None:
    try:
        unpack(data)
    except ValueError:
        return


def lct(path: Path, records: list[tuple[float, str, dict[str, Any]]]) -> None:
    header = {"type": "header", "magic": b"LMCT", "format_version": 1, "level": "storage", "lmcache_version": "0.4",
              "t_mono_start": 5.0, "t_wall_start": 1700000000.5, "sm_config_json": "", "sm_config_digest": ""}  # fmt: skip
    frames = [header] + [
        {"type": "record", "t_mono": at, "t_wall": 0.0, "args": args,
         "qualname": f"lmcache.v1.distributed.storage_manager.StorageManager.{name}"}
        for at, name, args in records
    ]  # fmt: skip
    path.write_bytes(b"".join(struct.pack(">I", len(packed(one))) + packed(one) for one in frames))


def key(digest: bytes) -> dict[str, Any]:
    value = {"chunk_hash": digest, "model_name": "llama", "kv_rank": 0, "object_group_id": 0}
    return {"__t__": "ObjectKey", "v": value}


LAYOUT = {"__t__": "MemoryLayoutDesc", "v": {"shapes": [[2, 4, 256, 8]], "dtypes": ["torch.bfloat16"]}}
CALLS: list[tuple[float, str, dict[str, Any]]] = [
    (1.0, "reserve_write", {"keys": [key(b"\x01"), key(b"\x02")], "layout_desc": LAYOUT, "mode": "new"}),
    (1.5, "finish_write", {"keys": [key(b"\x01"), key(b"\x02")]}),
    (1.6, "reserve_write", {"keys": [key(b"\x03")], "layout_desc": LAYOUT, "mode": "new"}),
    (2.0, "submit_prefetch_task", {"keys": [key(b"\x01")]}),
    (2.5, "read_prefetched_results.__enter__", {"keys": [key(b"\x01")]}),
    (2.75, "finish_read_prefetched", {"keys": [key(b"\x01")], "extra_count": 0}),
    (2.8, "read_prefetched_results.__exit__", {"keys": [key(b"\x01")]}),
    (3.0, "read_prefetched_results.__enter__", {"keys": [key(b"\x09")]}),
]


def test_an_lmcache_trace_has_a_put_for_each_finished_write_and_a_get_for_each_read(tmp_path: Path) -> None:
    lct(tmp_path / "run.lct", CALLS)
    done = import_trace("lmcache", tmp_path / "run.lct", tmp_path / "t", strict=True)
    size = 2 * 4 * 256 * 8 * 2
    assert [(r["op"], r["uri"], r["len"], r["latency"], r["t_submit"]) for r in rows(tmp_path / "t")] == [
        ("put", "kv://lmcache/llama/0/01", size, None, 0),
        ("put", "kv://lmcache/llama/0/02", size, None, 0),
        ("get", "kv://lmcache/llama/0/01", size, 250_000_000, 1_000_000_000),
        ("get", "kv://lmcache/llama/0/09", None, None, 1_500_000_000),
    ]
    assert open_reader(tmp_path / "t").epoch_unix_ns == 1700000002_000000000
    said = " ".join(done.notes)
    assert "submit_prefetch_task 1" in said
    assert "1 objects were reserved" in said
    assert "1 gets have no length" in said


def test_an_lmcache_trace_that_is_cut_short_says_so(tmp_path: Path) -> None:
    lct(tmp_path / "run.lct", CALLS)
    whole = (tmp_path / "run.lct").read_bytes()
    (tmp_path / "cut.lct").write_bytes(whole[:-7])
    done = import_trace("lmcache", tmp_path / "cut.lct", tmp_path / "t")
    assert done.skipped == 1
    assert "cut short here, after 7 records" in done.examples[0]
    with pytest.raises(TraceFormatError, match="cut short"):
        import_trace("lmcache", tmp_path / "cut.lct", tmp_path / "s", strict=True)
    (tmp_path / "packed.lct").write_bytes(
        gzip.compress(whole)[:-4]
    )  # all of its frames, but not the end of the stream
    done = import_trace("lmcache", tmp_path / "packed.lct", tmp_path / "p")
    assert (done.ops, done.skipped) == (len(rows(tmp_path / "p")), 1)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"hello, world", struct.pack(">I", 1) + b"\xc0", b"\xff" * 64]
)
def test_a_file_that_is_no_lmcache_trace_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(TraceFormatError, match="not an LMCache trace"):
        import_trace("lmcache", tmp_path / "x", tmp_path / "t")
