"""Delimited text: mappings, units, presets of public block traces, extras, clear refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given
from hypothesis import strategies as st
from properties import examples

from tracekit.errors import TraceFormatError, TracekitError, UsageError
from tracekit.formats.registry import export_trace, import_trace
from tracekit.store.reader import open_reader


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_reader(path).query("SELECT * FROM ops ORDER BY t_submit").to_pylist()
    return found


def brought(tmp_path: Path, text: str, **options: Any) -> list[dict[str, Any]]:
    (tmp_path / "log.csv").write_text(text)
    import_trace("csv", tmp_path / "log.csv", tmp_path / "t", overwrite=True, strict=True, **options)
    return rows(tmp_path / "t")


@pytest.mark.parametrize(
    ("preset", "line", "uri", "op", "offset", "length", "epoch", "latency"),
    [
        ("alibaba", "419,W,8792731648,16384,1577808000000046", "block://alibaba/419", "write", 8792731648, 16384,
         1577808000000046000, None),
        ("tencent", "1538323200,12910952,128,0,1063", "block://tencent/1063", "read", 12910952 * 512, 65536,
         1538323200000000000, None),
        ("msr", "128166372003061629,hm,1,Read,383496192,32768,58000", "block://msr/hm/1", "read", 383496192, 32768,
         1172163600306162900, 5_800_000),
        ("mqsim", "48513000 0 1 8 1", "block://mqsim/0", "read", 512, 4096, 48513000, None),
    ],
)  # fmt: skip
def test_public_block_traces_come_in_by_preset(
    tmp_path: Path,
    preset: str,
    line: str,
    uri: str,
    op: str,
    offset: int,
    length: int,
    epoch: int,
    latency: int | None,
) -> None:
    (row,) = brought(tmp_path, line + "\n", map_columns=preset)
    assert (row["uri"], row["op"], row["offset"], row["len"]) == (uri, op, offset, length)
    assert (open_reader(tmp_path / "t").epoch_unix_ns, row["latency"]) == (epoch, latency)


def test_columns_are_mapped_by_name_with_units_and_the_rest_are_extras(tmp_path: Path) -> None:
    text = "when,dev,kb,took_ms,colour,sample_id\n2.5,sda,4,1.000001,red,7\n2.500000001,sdb,8,,blue,\n"
    spec = "t_submit=when:s,uri=dev,len=kb:KiB,latency=took_ms:ms"
    first, second = brought(tmp_path, text, map_columns=spec, base="block://")
    assert (first["uri"], first["len"], first["latency"], first["colour"]) == (
        "block://sda",
        4096,
        1_000_001,
        "red",
    )
    assert (second["t_submit"], second["latency"], second["sample_id"]) == (1, None, None)
    assert first["sample_id"] == 7


def test_a_header_of_schema_names_needs_no_mapping_and_may_carry_units(tmp_path: Path) -> None:
    first, second = brought(tmp_path, "uri;t_submit_us;len_kib;offset\n/d/a;1.5;2;0\n/d/b;2;1;\n")
    assert (first["uri"], first["len"], first["offset"]) == ("file:///d/a", 2048, 0)
    assert (second["t_submit"], second["offset"]) == (500, None)


def test_an_rfc3339_time_and_a_tab_are_understood(tmp_path: Path) -> None:
    text = "start\tpath\n2026-01-01T00:00:00+01:00\t/a\n"
    brought(tmp_path, text, map_columns="t_submit=start:iso,uri=path")
    assert open_reader(tmp_path / "t").epoch_unix_ns == 1767222000 * 10**9


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("t_submit=a:parsec,uri=b", "an unknown unit"),
        ("nonsense", "not a mapping"),
        ("colour=a", "not a mapping"),
        ("len=a:ms", "an unknown unit"),
        ("op=a:us", "an unknown unit"),
        ("len=a+b", "joins columns"),
        ("t_submit=a,t_submit=b", "not a mapping"),
    ],
)
def test_a_wrong_mapping_is_named(tmp_path: Path, spec: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        brought(tmp_path, "a,b\n1,2\n", map_columns=spec)


def test_missing_columns_are_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match="no column for t_submit; its first line has uri, size"):
        brought(tmp_path, "uri,size\n/a,1\n")
    with pytest.raises(TraceFormatError, match="no column when"):
        brought(tmp_path, "uri,size\n/a,1\n", map_columns="t_submit=when")
    with pytest.raises(UsageError, match="separator"):
        brought(tmp_path, "uri,t_submit\n/a,1\n", separator="::")


def test_times_too_large_in_their_unit_are_bad_lines_not_wrapped(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(
        "uri,t_submit_s,len_mib\n/a,1,1\n/a,9999999999999,1\n/a,1,9999999999999999\n/a,-1,1\n"
    )
    done = import_trace("csv", tmp_path / "l.csv", tmp_path / "t")
    assert (done.ops, done.skipped) == (1, 3)


_numbers = st.none() | st.integers(0, 2**50)


@examples(40, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    table=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=12),
            st.sampled_from(["read", "get", "put", "list", "stat", "delete", "hint"]),
            _numbers, _numbers, _numbers, _numbers, st.sampled_from([None, "not_found", "timeout"]),
        ),
        min_size=1, max_size=20,
    ),
    name=st.sampled_from(["csv", "jsonl"]), suffix=st.sampled_from(["", ".zst", ".gz"]),
)  # fmt: skip
def test_a_trace_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[Any, ...]], name: str, suffix: str
) -> None:
    import pyarrow as pa

    from tracekit.store.writer import TraceWriter

    folder = tmp_path_factory.mktemp("round")
    uri, op, offset, length, latency, sample, error = zip(*table, strict=True)
    with TraceWriter(folder / "a", source="test", epoch_unix_ns=10**18) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {"t_submit": list(range(len(table))), "uri": ["file:///" + u for u in uri], "op": list(op),
                 "offset": pa.array(offset, pa.int64()), "len": pa.array(length, pa.int64()),
                 "latency": pa.array(latency, pa.int64()), "sample_id": pa.array(sample, pa.int64()),
                 "error": pa.array(error, pa.string())}
            )
        )  # fmt: skip
    log = folder / f"log.{name}{suffix}"
    export_trace(name, folder / "a", log)
    import_trace(name, log, folder / "b", strict=True)
    assert rows(folder / "a") == rows(folder / "b")


def test_an_existing_output_is_not_touched(tmp_path: Path) -> None:
    brought(tmp_path, "uri,t_submit\n/a,1\n")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(TracekitError, match="exists"):
        export_trace("csv", tmp_path / "t", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("name", ["csv", "s3dlio", "warp"])
def test_what_is_exported_can_be_read_back_and_names_of_two_lines_are_left_out_and_reported(
    tmp_path: Path, name: str
) -> None:
    uris = ["/d/a\nb", "/d/a\rb", "/d/a\tb", '/d/"a", b', "/d/é"]
    ops = [{"uri": uri, "t_submit": at, "latency": 5, "bytes": 3} for at, uri in enumerate(uris)]
    (tmp_path / "log").write_text("".join(json.dumps(op) + "\n" for op in ops))
    import_trace("jsonl", tmp_path / "log", tmp_path / "a", strict=True)
    done = export_trace(name, tmp_path / "a", tmp_path / "out")
    assert done.ops == 3 and any(
        "2 ops left out: a name that holds a line end" in note for note in done.notes
    )
    import_trace(name, tmp_path / "out", tmp_path / "b", strict=True)
    assert [row["uri"] for row in rows(tmp_path / "b")] == [f"file://{uri}" for uri in uris[2:]]


def test_extra_columns_of_any_shape_go_out_as_text(tmp_path: Path) -> None:
    columns = {
        "uri": ["file:///a"], "offset": [0], "len": [1], "t_submit": [0], "sample_id": [0], "latency": [1],
        "tags": [["x", "y"]], "raw": [b"\xff"],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    export_trace("csv", tmp_path / "t.parquet", tmp_path / "out.csv")
    (row,) = csv.DictReader((tmp_path / "out.csv").open())
    assert json.loads(row["tags"]) == ["x", "y"]
    assert row["raw"] == "\\xFF"


@pytest.mark.parametrize("bad", ["", "/z,x,1,1\n"], ids=["whole", "with a bad line"])
def test_numbers_of_other_tools_are_read_alike_with_and_without_a_bad_line_beside_them(
    tmp_path: Path, bad: str
) -> None:
    lines = "/a,1,0x1000,5.0\n/b,2,NaN,NA\n/c,3,+7,null\n/d,4,4096.00,\\N\n/e,5,1e3,2.5E+1\n"
    (tmp_path / "log").write_text("uri,t_submit,len,latency\n" + lines + bad)
    done = import_trace("csv", tmp_path / "log", tmp_path / "t")
    assert done.skipped == bool(bad)
    assert [(r["len"], r["latency"]) for r in rows(tmp_path / "t")] == [
        (4096, 5),
        (None, None),
        (7, None),
        (4096, None),
        (1000, 25),
    ]


def test_a_number_with_a_fraction_or_out_of_range_is_a_bad_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        "uri,t_submit,len\n/a,1,1.5e0\n/a,2,1e99\n/a,3,1e-3\n/a,4,1_000\n/a,5,7e0\n"
    )
    assert import_trace("csv", tmp_path / "log", tmp_path / "t").skipped == 4
    assert [r["len"] for r in rows(tmp_path / "t")] == [7]


def test_logs_that_were_put_together_with_their_headers_are_one_log(tmp_path: Path) -> None:
    text = "uri|t_submit\n/a|1\n"
    assert [r["uri"] for r in brought(tmp_path, text + text)] == ["file:///a", "file:///a"]


def test_columns_of_the_logs_own_lose_their_secrets(tmp_path: Path) -> None:
    url = "https://b.example/k?X-Amz-Signature=abcdef"
    (row,) = brought(tmp_path, f"uri,t_submit,url,api_key,host\n{url},1,{url},kk-secret-kk,h1\n")
    assert (row["uri"], row["url"], row["api_key"], row["host"]) == (
        "https://b.example/k",
        "https://b.example/k",
        "***",
        "h1",
    )


def test_a_trace_without_ops_is_a_log_with_a_header_that_reads_back(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("uri,t_submit\n")
    assert import_trace("csv", tmp_path / "log", tmp_path / "t", strict=True).ops == 0
    assert open_reader(tmp_path / "t").schema_versions == (2,)
    export_trace("csv", tmp_path / "t", tmp_path / "o.csv")
    assert import_trace("csv", tmp_path / "o.csv", tmp_path / "s", strict=True).ops == 0
