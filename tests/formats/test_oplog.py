"""warp's and s3dlio's op logs: real ones' facts, all header versions, what they cannot say stays null."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tracekit.errors import TraceFormatError
from tracekit.formats.registry import export_trace, import_trace
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
WARP = SHARED / "warp-benchdata-get.csv.zst"
S3DLIO = SHARED / "s3dlio_oplog.tsv.zst"
here = pytest.mark.skipif(not WARP.exists(), reason="the shared real logs are not beside this checkout")

HEADER_15 = (
    "idx\tthread\top\tclient_id\tn_objects\tbytes\tendpoint\tfile\terror\tstart\tfirst_byte\tlast_byte\tend\t"
    "duration_ns\tcat"
)


def rows(path: Path, sql: str = "SELECT * FROM ops ORDER BY t_submit") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_reader(path).query(sql).to_pylist()
    return found


def line_15(
    op: str = "GET", size: str = "10", start: str = "2026-01-02T03:04:05.000000001Z", error: str = ""
) -> str:
    return f"0\t3\t{op}\tc1\t1\t{size}\thttp://u:pw@h:9000\tp/o.rnd\t{error}\t{start}\t\t\t2026-01-02T03:04:06Z\t5000\t0"


@here
def test_a_real_warp_log_comes_in_with_its_known_facts(tmp_path: Path) -> None:
    done = import_trace("warp", WARP, tmp_path / "t", strict=True)
    assert (done.ops, done.skipped) == (21948, 0)
    assert any("names no bucket" in note for note in done.notes)
    first = rows(tmp_path / "t")[0]
    assert (first["op"], first["bytes"], first["latency"], first["worker"]) == ("put", 10485760, 76998700, 12)
    assert first["uri"] == "s3://warp-benchmark-bucket/jDquNn4L/6DMbFzH4FRa(Q(DR.rnd"
    (facts,) = rows(
        tmp_path / "t",
        "SELECT count(*) FILTER (op = 'get') AS gets, sum(bytes)::BIGINT AS moved, count(\"offset\") AS placed,"
        " count(ttfb) FILTER (op = 'get') AS with_ttfb, max(t_submit + latency) / 1e9 AS span_s FROM ops",
    )
    assert facts["moved"] == 21948 * 10485760
    assert facts["placed"] == 0
    assert facts["gets"] == facts["with_ttfb"] > 18_000
    assert facts["span_s"] == pytest.approx(68.2, abs=0.2)
    assert open_reader(tmp_path / "t").epoch_unix_ns == 1573661226317343100


@here
def test_a_real_s3dlio_log_comes_in_with_its_known_facts(tmp_path: Path) -> None:
    done = import_trace("s3dlio", S3DLIO, tmp_path / "t", strict=True)
    assert done.ops == 267
    assert done.notes == ("the log has no offsets: 64 range reads have none",)
    counts = rows(
        tmp_path / "t", "SELECT op, count(*) AS n, count(error) AS failed FROM ops GROUP BY op ORDER BY op"
    )
    assert [(r["op"], r["n"], r["failed"]) for r in counts] == [
        ("get", 201, 1), ("list", 1, 0), ("read", 64, 0), ("stat", 1, 0)
    ]  # fmt: skip
    ranges = rows(tmp_path / "t", "SELECT DISTINCT \"offset\", len, bytes FROM ops WHERE op = 'read'")
    assert ranges == [{"offset": None, "len": None, "bytes": 262144}]
    (failed,) = rows(tmp_path / "t", "SELECT * FROM ops WHERE error IS NOT NULL")
    assert (failed["error"], failed["bytes"], failed["uri"]) == (
        "not_found",
        0,
        "file:///tmp/h1/data/missing.bin",
    )
    times = [row["t_submit"] for row in rows(tmp_path / "t", "SELECT t_submit FROM ops")]
    assert times == sorted(times)
    (stat,) = rows(tmp_path / "t", "SELECT bytes FROM ops WHERE op = 'stat'")
    assert stat == {"bytes": 0}


@here
@pytest.mark.parametrize("name", ["s3dlio", "warp"])
def test_an_exported_op_log_reads_back_as_it_was_but_for_what_the_format_lacks(
    tmp_path: Path, name: str
) -> None:
    import_trace("s3dlio", S3DLIO, tmp_path / "a")
    done = export_trace(name, tmp_path / "a", tmp_path / "log.tsv.zst")
    assert done.ops == 267
    assert import_trace(name, tmp_path / "log.tsv.zst", tmp_path / "b", strict=True).ops == 267
    sql = "SELECT t_submit, uri, bytes, latency, ttfb, worker, rank, error FROM ops ORDER BY t_submit"
    assert rows(tmp_path / "a", sql) == rows(tmp_path / "b", sql)
    assert open_reader(tmp_path / "a").epoch_unix_ns == open_reader(tmp_path / "b").epoch_unix_ns


def test_todays_warp_columns_comments_and_zones_are_read_and_secrets_are_not_kept(tmp_path: Path) -> None:
    log = tmp_path / "w.csv"
    lines = [HEADER_15, line_15(), line_15(start="2026-01-02T04:04:05+01:00", error='"a ""quoted"" 503 Slow Down"'),
             "# warp get --host=h --secret-key=x"]  # fmt: skip
    log.write_text("\r\n".join(lines) + "\r\n")
    import_trace("warp", log, tmp_path / "t", strict=True, base="s3://b/")
    first, second = rows(tmp_path / "t")
    assert (first["t_submit"], second["t_submit"]) == (0, 1)
    assert (first["error"], second["error"]) == ("throttled", None)
    assert (first["uri"], first["worker"], first["endpoint"]) == ("s3://b/p/o.rnd", 3, "http://h:9000")
    assert second["latency"] == 5000


def test_a_list_or_a_delete_of_many_is_one_of_the_bucket_and_a_get_of_nothing_a_bad_line(
    tmp_path: Path,
) -> None:
    log = tmp_path / "w.csv"
    lines = [line_15(op=op).replace("p/o.rnd", "") for op in ("LIST", "DELETE", "GET")]
    log.write_text("\n".join([HEADER_15, line_15(), *lines]) + "\n")
    done = import_trace("warp", log, tmp_path / "t", base="s3://b/")
    assert (done.ops, done.skipped, done.examples[0][:7]) == (3, 1, "line 5:")
    found = rows(tmp_path / "t", "SELECT op, uri FROM ops ORDER BY op")
    assert [(r["op"], r["uri"]) for r in found] == [
        ("delete", "s3://b/"), ("get", "s3://b/p/o.rnd"), ("list", "s3://b/")
    ]  # fmt: skip


def test_a_log_of_bad_lines_alone_says_what_is_wrong_with_the_first(tmp_path: Path) -> None:
    log = tmp_path / "w.csv"
    log.write_text("\n".join([HEADER_15, line_15(size="NaN"), line_15(size="-1")]) + "\n")
    with pytest.raises(
        TraceFormatError, match="no op that can be read; line 2: its bytes cannot be read: 'NaN'"
    ):
        import_trace("warp", log, tmp_path / "t")


def test_bad_lines_are_skipped_by_number_and_the_good_ones_of_their_block_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "w.csv"
    bad = [line_15(size="NaN"), line_15(size="-5"), line_15(size=str(10**30)), line_15(start="yesterday"),
           line_15(op="FROBNICATE"), "only\tthree\tfields", line_15(start="9999-01-01T00:00:00Z")]  # fmt: skip
    log.write_text("\n".join([HEADER_15, line_15(), *bad, "", line_15()]) + "\n")
    done = import_trace("warp", log, tmp_path / "t")
    assert (done.ops, done.skipped) == (2, len(bad))
    with pytest.raises(TraceFormatError, match="line 3: its bytes cannot be read: 'NaN'"):
        import_trace("warp", log, tmp_path / "s", strict=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t", "w.csv"]


def test_a_log_cut_off_in_its_compressed_stream_keeps_what_can_be_read(tmp_path: Path) -> None:
    text = (
        "\n".join([HEADER_15, *(line_15(start=f"2026-01-02T03:04:05.{i:09d}Z") for i in range(60_000))])
        + "\n"
    )
    whole = pa.compress(text.encode(), codec="zstd", asbytes=True)
    log = tmp_path / "w.csv.zst"
    log.write_bytes(whole[: len(whole) // 2])
    done = import_trace("warp", log, tmp_path / "t")
    assert 0 < done.ops < 60_000
    assert "breaks off" in done.examples[0]
    with pytest.raises(TraceFormatError, match="breaks off"):
        import_trace("warp", log, tmp_path / "s", strict=True)


def test_streams_are_numbered_over_block_borders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = "thread\top\tclient_id\tbytes\tfile\tstart\tend"
    stamp = "2026-01-02T03:04:05Z\t2026-01-02T03:04:06Z"
    lines = [f"{18147521187885925800 + i % 3}\tGET\tc{i % 2}\t1\t/d/{i}\t{stamp}" for i in range(200_000)]
    log = tmp_path / "s.tsv"
    log.write_text("\n".join([header, *lines]) + "\n")
    assert import_trace("s3dlio", log, tmp_path / "t", base="file://").ops == 200_000
    got = rows(tmp_path / "t", "SELECT worker, rank, count(*) AS n FROM ops GROUP BY ALL ORDER BY ALL")
    assert [(r["worker"], r["rank"]) for r in got] == [(w, r) for w in range(3) for r in range(2)]


def test_what_the_format_cannot_carry_is_reported(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pydict(
        {"uri": ["file:///a"] * 3, "op": ["hint", "read", "read"], "offset": [0, 1, 2], "len": [1, 1, 1],
         "t_submit": [1, 2, 3], "latency": [1, None, 1], "sample_id": [1, 2, 3]}
    )  # fmt: skip
    with TraceWriter(tmp_path / "t", source="test") as writer:
        writer.write(batch)
    done = export_trace("s3dlio", tmp_path / "t", tmp_path / "o.tsv")
    assert done.ops == 1
    assert any("2 ops left out" in note for note in done.notes)
    assert any("offsets" in note for note in done.notes)


def test_an_op_on_a_host_alone_names_no_object_unless_a_base_does(tmp_path: Path) -> None:
    header = "idx\tthread\top\tclient_id\tn_objects\tbytes\tendpoint\tfile\terror\tstart\tfirst_byte\tend\tduration_ns\n"
    row = "{}\t7\tGET\t\t1\t10\t{}\td/a\t\t2026-11-23T14:26:24.1Z\t\t2026-11-23T14:26:24.2Z\t1000\n"
    log = tmp_path / "log.tsv"
    log.write_text(header + row.format(0, "s3://b") + row.format(1, "host:9000"))
    done = import_trace("s3dlio", log, tmp_path / "a.trace")
    assert (done.ops, done.skipped) == (1, 1)
    assert import_trace("s3dlio", log, tmp_path / "b.trace", base="s3://c/").ops == 2
    log.write_text(header + row.format(0, "host:9000"))
    with pytest.raises(TraceFormatError, match="contains no op that can be read"):
        import_trace("s3dlio", log, tmp_path / "c.trace")


def test_warps_aggregate_is_told_from_its_op_log(tmp_path: Path) -> None:
    (tmp_path / "warp.json").write_text('{\n  "v": 2,\n  "commandline": "warp get"\n}\n')
    with pytest.raises(TraceFormatError, match="is JSON, not an op log"):
        import_trace("warp", tmp_path / "warp.json", tmp_path / "t")


def test_requests_without_object_data_are_left_out_by_name(tmp_path: Path) -> None:
    header = "idx\tthread\top\tclient_id\tn_objects\tbytes\tendpoint\tfile\terror\tstart\tfirst_byte\tend\tduration_ns\n"
    row = "0\t7\t{}\t\t1\t10\t\td/a\t\t2026-11-23T14:26:24.1Z\t\t2026-11-23T14:26:24.2Z\t1000\n"
    log = tmp_path / "log.tsv"
    log.write_text(header + "".join(row.format(op) for op in ("UPLOAD", "RETENTION", "COMMIT", "RETENTION")))
    done = import_trace("warp", log, tmp_path / "t", strict=True)
    assert done.ops == 1
    assert "left out: RETENTION 2, COMMIT 1" in done.notes


def test_columns_are_found_in_any_case_and_unknown_ones_are_kept(tmp_path: Path) -> None:
    header = HEADER_15.upper() + "\tzone"
    (tmp_path / "log").write_text(f"{header}\n{line_15()}\teu-1\n{header}\n{line_15()}\teu-2\n")
    import_trace("warp", tmp_path / "log", tmp_path / "t", strict=True)
    found = rows(tmp_path / "t", "SELECT zone, worker, bytes FROM ops ORDER BY zone")
    assert [tuple(row.values()) for row in found] == [("eu-1", 3, 10), ("eu-2", 3, 10)]


def test_bytes_that_are_unknown_are_not_written_as_zero_without_a_word(tmp_path: Path) -> None:
    columns = {
        "uri": ["file:///a"] * 3,
        "t_submit": [0, 1, 2],
        "op": ["get"] * 3,
        "bytes": [7, 0, None],
        "latency": [5] * 3,
    }
    with TraceWriter(tmp_path / "t", source="test") as writer:
        writer.write(pa.RecordBatch.from_pydict({**columns, "error": [None, None, "timeout"]}))
    done = export_trace("warp", tmp_path / "t", tmp_path / "o.csv")
    assert (done.ops, done.notes[0].partition(":")[0]) == (3, "1 ops do not say what they moved")
