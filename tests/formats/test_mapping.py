"""Mappings and presets: alternatives, constants, JSON keys, ragged and space-padded lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit.errors import TraceFormatError, UsageError
from tracekit.formats.registry import import_trace
from tracekit.formats.text.presets import PRESETS
from tracekit.store.reader import open_reader


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_reader(path).query("SELECT * FROM ops ORDER BY t_submit").to_pylist()
    return found


def brought(folder: Path, format: str, text: str, **options: Any) -> list[dict[str, Any]]:
    (folder / "log").write_text(text)
    import_trace(format, folder / "log", folder / "t", overwrite=True, strict=True, **options)
    return rows(folder / "t")


IBM = """1219008 REST.PUT.OBJECT 8d4f 1056
1221974 REST.HEAD.OBJECT 39d1 528
1232488 REST.GET.OBJECT 95d3 1168 0 1167
1234545 REST.GET.OBJECT 95d3 1168 100 199
1256364 REST.DELETE.OBJECT 8d4f
"""


def test_fields_that_some_lines_lack_and_the_last_byte_instead_of_a_length(tmp_path: Path) -> None:
    found = [
        (row["op"], row["uri"], row["offset"], row["len"], row["object_size"])
        for row in brought(tmp_path, "csv", IBM, map_columns="ibm-cos")
    ]
    assert found == [
        ("put", "s3://ibm-cos/8d4f", None, 1056, 1056),
        ("stat", "s3://ibm-cos/39d1", None, None, 528),
        ("read", "s3://ibm-cos/95d3", 0, 1168, 1168),
        ("read", "s3://ibm-cos/95d3", 100, 100, 1168),
        ("delete", "s3://ibm-cos/8d4f", None, None, None),
    ]


@pytest.mark.parametrize(
    ("preset", "text", "expected"),
    [
        ("cloudphysics", "version,time,op,size,obj\n0,5633898,2,4096,42\n", ("read", "block://cloudphysics/42", None, 4096)),
        ("baleen", "# a comment\n310 262144 4325376 1572074461.57806 1 24 3 5\n",
         ("read", "block://tectonic/310", 262144, 4325376)),
        ("baleen", "310 0 10 1572074461.5 4 24 3 5 1 host\n", ("write", "block://tectonic/310", 0, 10)),
        ("tectonic", "op_time,block_id,block_id_size,io_size,io_offset,user_name,op_name,rs_shard_id\n"
         "1572074461,77,40,131072,8192,u1,getChunkData.Permanent,3\n", ("read", "block://tectonic/77/3", 8192, 131072)),
        ("mlperf-kv", "Timestamp,Operation,Object_Size_Bytes,Tier,Key,Phase\n1.5,Write,4096,Tier-2,user_1,Prefill\n",
         ("put", "kv://mlperf/Tier-2/user_1", None, 4096)),
    ],
)  # fmt: skip
def test_each_preset_reads_a_line_of_its_traces(
    tmp_path: Path, preset: str, text: str, expected: tuple[str, str, int | None, int]
) -> None:
    (row,) = brought(tmp_path, "csv", text, map_columns=preset)
    assert (row["op"], row["uri"], row["offset"], row["len"]) == expected


def test_what_the_user_says_goes_before_the_preset(tmp_path: Path) -> None:
    text = "Timestamp,Operation,Object_Size_Bytes,Tier,Key,Phase\n1,Read,9,Tier-2,a,Decode\n2,Evict,9,Tier-2,a,Evict\n"
    found = brought(
        tmp_path, "csv", text, map_columns="mlperf-kv", base="s3://cache/", map_ops="read=stat,evict=none"
    )
    assert [(row["op"], row["uri"], row["Phase"]) for row in found] == [
        ("stat", "s3://cache/Tier-2/a", "Decode")
    ]


def test_a_preset_of_another_format_says_which(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="import them as csv"):
        brought(tmp_path, "jsonl", "{}\n", map_columns="msr")


def test_the_first_source_that_holds_a_value_counts_and_a_constant_fills_the_rest(tmp_path: Path) -> None:
    text = "when,path,asked,got,kind\n1,/a,10,,\n2,/b,,20,Write\n3,/c,,,\n"
    found = brought(
        tmp_path, "csv", text, map_columns="t_submit=when:s,uri=path,len=asked|got|'7',op=kind|'get',rank='3'"
    )
    assert [(row["len"], row["op"], row["rank"]) for row in found] == [
        (10, "get", 3), (20, "write", 3), (7, "get", 3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "spec", ["uri=", "uri=a,uri=b", "len='x'", "t_submit=a:parsecs", "fly=a", "len=a+b", "op=a:us", "uri=a|"]
)
def test_an_invalid_item_is_named(tmp_path: Path, spec: str) -> None:
    with pytest.raises(UsageError, match="map_columns"):
        brought(tmp_path, "csv", "a,b\n1,2\n", map_columns=spec)


def test_keys_inside_json_objects_are_named_with_dots_and_decimals_are_exact(tmp_path: Path) -> None:
    line = {"ts": 0, "ev": {"file": {"path": "/d/x"}, "size": 3}, "kind": "2A", "vol": 9, "tags": [1]}
    text = json.dumps(line).replace('"ts": 0', '"ts": 1700000000.123456789')
    (row,) = brought(
        tmp_path, "jsonl", text + "\n",
        map_columns="t_submit=ts:s,uri=ev.file.path,len=ev.size:pages,op=kind,rank=vol", map_ops="2a=write",
    )  # fmt: skip
    assert (row["uri"], row["len"], row["op"], row["rank"], row["tags"]) == (
        "file:///d/x",
        12288,
        "write",
        9,
        "[1]",
    )
    assert open_reader(tmp_path / "t").epoch_unix_ns == 1700000000123456789


def test_each_bad_line_of_a_mapped_json_log_is_known_by_its_number(tmp_path: Path) -> None:
    bad = [
        "{",
        "[]",
        '{"t": "x", "p": "/a"}',
        '{"p": "/a"}',
        '{"t": 1}',
        '{"t": 1, "p": "\\ud800"}',
        '{"t": true, "p": "/a"}',
    ]
    log = tmp_path / "log"
    log.write_text("\n".join(['{"t": 1, "p": "/\\ud83d\\ude00"}', *bad]))
    done = import_trace("jsonl", log, tmp_path / "t", map_columns="t_submit=t,uri=p")
    assert (done.ops, done.skipped) == (1, len(bad))
    for line in bad:
        log.write_text(line)
        with pytest.raises(TraceFormatError, match="line 1:"):
            import_trace("jsonl", log, tmp_path / "s", map_columns="t_submit=t,uri=p", strict=True)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**12), st.integers(0, 10**9), st.sampled_from("RW")),
        min_size=1,
        max_size=20,
    ),
    st.data(),
)
def test_columns_padded_with_blanks_are_the_same_as_with_commas(
    tmp_path_factory: pytest.TempPathFactory, ops: list[tuple[int, int, str]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("padded")
    blanks = st.integers(1, 4).map(lambda n: " " * n)
    padded = "".join(
        data.draw(st.sampled_from(["", "  "])) + data.draw(blanks).join([str(t), "v", kind, str(n)]) + "\n"
        for t, n, kind in ops
    )
    commas = "".join(f"{t},v,{kind},{n}\n" for t, n, kind in ops)
    spec = "t_submit=#1,uri=#2,op=#3,len=#4"
    first = brought(folder, "csv", padded, map_columns=spec, separator="space")
    assert first == brought(folder, "csv", commas, map_columns=spec)


def test_presets_name_their_format_and_parse() -> None:
    from tracekit.formats.text.mapping import parse_mapping

    for preset in PRESETS.values():
        assert preset.format in ("csv", "jsonl")
        assert {"uri", "t_submit"} <= {column.name for column in parse_mapping(preset.columns)}


def test_the_time_of_an_end_becomes_a_latency_and_names_become_numbers(tmp_path: Path) -> None:
    text = "at,until,first,host,thread,status,dev\n1.5,2.25,1.75,b,t9,200,x\n1.6,1.7,1.65,a,t9,ok,x\n1.7,1.9,,b,t1,404,y\n"
    spec = ("t_submit=at:s,latency=until:end-s,ttfb=first:end-s,rank=host:name,worker=thread:name,error=status,uri=dev,op='read'")  # fmt: skip
    found = [
        (r["latency"], r["ttfb"], r["rank"], r["worker"], r["error"])
        for r in brought(tmp_path, "csv", text, map_columns=spec)
    ]
    assert found == [
        (750_000_000, 250_000_000, 0, 0, None),
        (100_000_000, 50_000_000, 1, 0, None),
        (200_000_000, None, 0, 1, "not_found"),
    ]
    lines = "at,end\n2026-01-01T00:00:00Z,2026-01-01T00:00:00.25Z\n"
    (row,) = brought(
        tmp_path, "csv", lines, map_columns="t_submit=at:iso,latency=end:end-iso,uri='/x',op='get'"
    )
    assert row["latency"] == 250_000_000
    with pytest.raises(UsageError, match="unknown unit for latency"):
        brought(tmp_path, "csv", lines, map_columns="t_submit=at:iso,latency=end:until,uri='/x'")


def test_a_named_host_is_one_rank_in_all_logs(tmp_path: Path) -> None:
    for name, hosts in (("a", "ab"), ("b", "bc")):
        (tmp_path / name).write_text("at,host\n" + "".join(f"{at},{host}\n" for at, host in enumerate(hosts)))
    spec = "t_submit=at,rank=host:name,uri='/x',op='read'"
    import_trace("csv", [tmp_path / "a", tmp_path / "b"], tmp_path / "t", map_columns=spec)
    assert sorted(row["rank"] for row in rows(tmp_path / "t")) == [0, 1, 1, 2]


def test_a_word_that_an_earlier_source_covers_is_not_looked_up(tmp_path: Path) -> None:
    text = "at,a,b\n1,read,nonsense\n2,,write\n"
    found = brought(tmp_path, "csv", text, map_columns="t_submit=at,op=a|b,uri='/x'")
    assert [row["op"] for row in found] == ["read", "write"]


def test_a_header_names_columns_in_any_case(tmp_path: Path) -> None:
    (row,) = brought(tmp_path, "csv", "URI,T_Submit_ms,Len_KiB,Op\n/x,5,4,READ\n")
    assert (row["uri"], row["len"], row["op"]) == ("file:///x", 4096, "read")


def test_kvikios_reads_have_their_threads_latencies_and_errors(tmp_path: Path) -> None:
    common = {
        "level": "trace",
        "source": "https://b.example/k.parquet",
        "start": 1_785_255_603_191_754_437,
        "status": "ok",
    }
    read = {**common, "event": "read", "end": 1_785_255_603_272_868_402, "offset": 1024, "size": 512, "bytesRead": 512,
            "threadId": 14_621_804_004_366_526_777, "backend": "remote", "isDeviceBuffer": True, "requestId": 7, "method": "GET"}  # fmt: skip
    lines = [
        {"event": "log", "timestamp": 5, "threadId": 5, "level": "info", "message": "hello"},
        {**common, "event": "http", "end": common["start"], "threadId": 5, "method": "HEAD", "purpose": "metadata"},
        read,
        {**read, "source": "/d/x", "status": "error", "bytesRead": 0},
    ]  # fmt: skip
    found = brought(
        tmp_path, "jsonl", "".join(json.dumps(line) + "\n" for line in lines), map_columns="kvikio"
    )
    names = ("op", "uri", "offset", "len", "bytes", "latency", "worker", "error")
    assert sorted((tuple(row[name] for name in names) for row in found), key=str) == [
        ("read", "file:///d/x", 1024, 512, 0, 81_113_965, 1, "unknown"),
        ("read", "https://b.example/k.parquet", 1024, 512, 512, 81_113_965, 1, None),
        ("stat", "https://b.example/k.parquet", None, None, None, 0, 0, None),
    ]


def test_a_range_that_moved_more_than_it_asked_for_is_a_bad_line(tmp_path: Path) -> None:
    lines = ["t_submit,uri,op,offset,len,bytes,latency"]
    lines += [
        f"{i},/a,{op},0,10,{moved},5"
        for i, (op, moved) in enumerate([("read", 11), ("write", 99), ("read", 9)])
    ]
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    done = import_trace("csv", tmp_path / "log", tmp_path / "t")
    assert (done.ops, done.skipped) == (1, 2)
    assert done.examples[0] == "line 2: it moved more bytes than were asked for"


def test_a_public_trace_that_is_a_format_of_its_own_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"map_columns='mooncake' is a format") as raised:
        brought(tmp_path, "jsonl", "{}\n", map_columns="mooncake")
    assert raised.value.hint == "import it as mooncake"
