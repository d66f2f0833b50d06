"""Logs of stores and of elbencho: each line of the documented form becomes its op, and the rest is named or counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tracekit.errors import TraceFormatError
from tracekit.formats.registry import import_trace
from tracekit.store.reader import open_reader


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_reader(path).query("SELECT * FROM ops ORDER BY t_submit").to_pylist()
    return found


GCS_HEADER = (
    '"time_micros","c_ip","c_ip_type","c_ip_region","cs_method","cs_uri","sc_status","cs_bytes","sc_bytes",'
    '"time_taken_micros","cs_host","cs_referer","cs_user_agent","s_request_id","cs_operation","cs_bucket","cs_object"'
)


def gcs(
    micros: int, operation: str, status: int = 200, sent: int = 0, got: int = 0, name: str = "a/b"
) -> str:
    return (
        f'"{micros}","192.0.2.1","1","","GET","/k","{status}","{got}","{sent}","5000","storage.googleapis.com","","agent",'
        f'"id","{operation}","bucket","{name}"'
    )


def test_a_gcs_usage_log_has_the_times_of_its_requests_begin(tmp_path: Path) -> None:
    base = 1_700_000_000_000_000
    log = tmp_path / "usage"
    log.write_text(
        "\n".join(
            [GCS_HEADER, gcs(base + 5000, "GET_Object", sent=1000), gcs(base + 6000, "storage.objects.insert", got=70, name="a%20c"),
             gcs(base + 7000, "GET_Object", 404, sent=300), gcs(base + 8000, "GET_Bucket", name=""),
             gcs(base + 9000, "DELETE_Object", 204), gcs(base + 9500, "PUT_Bucket_Policy"), "nonsense",
             gcs(base, "GET_Object").replace("5000", "x")]
        ) + "\n"
    )  # fmt: skip
    done = import_trace("gcs-usage", log, tmp_path / "t")
    assert [
        (r["op"], r["uri"], r["bytes"], r["len"], r["latency"], r["error"]) for r in rows(tmp_path / "t")
    ] == [
        ("get", "gs://bucket/a/b", 1000, None, 5_000_000, None),
        ("put", "gs://bucket/a%20c", 70, 70, 5_000_000, None),
        ("get", "gs://bucket/a/b", 0, None, 5_000_000, "not_found"),
        ("list", "gs://bucket/", 0, None, 5_000_000, None),
        ("delete", "gs://bucket/a/b", 0, None, 5_000_000, None),
    ]
    assert open_reader(tmp_path / "t").epoch_unix_ns == base * 1000
    assert (done.skipped, "left out: put_bucket_policy 1" in done.notes) == (2, True)
    log.write_text("a,b\n1,2\n")
    with pytest.raises(TraceFormatError, match="no header of a usage log"):
        import_trace("gcs-usage", log, tmp_path / "s")


def test_a_gcs_usage_log_of_several_hours_has_a_header_each(tmp_path: Path) -> None:
    log = tmp_path / "usage"
    lines = [
        gcs(1_700_000_000_000_000, "GET_Object", 304, name="v1/集 %"),
        gcs(1_700_000_001_000_000, "GET_Object", 206, sent=7),
    ]
    log.write_text(
        "\n".join([GCS_HEADER, "", lines[0], GCS_HEADER, lines[1].replace("192.0.2.1", "")]) + "\n"
    )
    done = import_trace("gcs-usage", log, tmp_path / "t", strict=True)
    assert [(r["op"], r["uri"], r["bytes"], r["rank"]) for r in rows(tmp_path / "t")] == [
        ("get", "gs://bucket/v1/集 %", 0, 0), ("read", "gs://bucket/a/b", 7, 1),
    ]  # fmt: skip
    assert not any("left out" in note for note in done.notes)


def azure(
    operation: str, second: int, http: int = 200, sent: int = 0, length: str = "", status: str = "Success"
) -> str:
    return (
        f"1.0;2011-07-28T18:02:{second:02d}.6271789Z;{operation};{status};{http};28;21;authenticated;sally;sally;blob;"
        '"https://sally.blob.core.windows.net/thumbnails/lake%20a.jpg?timeout=30000;x";"/sally/thumbnails/lake.jpg";'
        f'fb658ee6-6123;0;201.9.10.20:4362;2009-09-19;438;100;223;{sent};{length};;"66CbMX==";"0x8CE1";'
        'Thursday, 28-Jul-11 18:02:40 GMT;;"WA-Storage";;"req"'
    )


def test_an_azure_analytics_log_has_parts_and_their_list(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "\n".join(
            [azure("GetBlob", 1, sent=512), azure("GetBlob", 2, 206, sent=100), azure("PutBlock", 3, 201, length="4096"),
             azure("PutBlockList", 4, 201, length="90"), azure("GetBlob", 5, 404, sent=9, status="ClientOtherError"),
             azure("SetBlobMetadata", 6), "2.0;not;enough"]
        ) + "\n"
    )  # fmt: skip
    done = import_trace("azure-log", log, tmp_path / "t")
    assert [(r["op"], r["bytes"], r["len"], r["error"]) for r in rows(tmp_path / "t")] == [
        ("get", 512, None, None), ("read", 100, None, None), ("part", 4096, 4096, None), ("complete", 0, None, None),
        ("get", 0, None, "not_found"),
    ]  # fmt: skip
    first = rows(tmp_path / "t")[0]
    assert (first["uri"], first["latency"]) == ("az://thumbnails/lake a.jpg", 28_000_000)
    assert open_reader(tmp_path / "t").epoch_unix_ns == 1311876121_627178900
    assert (done.skipped, "left out: SetBlobMetadata 1" in done.notes) == (1, True)


def test_an_azure_analytics_log_writes_names_as_text_of_html(tmp_path: Path) -> None:
    """And Microsoft's own samples have URLs without quotation marks, and authorizations with some inside."""
    log = tmp_path / "log"
    quoted = '"https://sally.blob.core.windows.net/thumbnails/lake%20a.jpg?timeout=30000;x"'
    key = '"/sally/thumbnails/lake.jpg"'
    names = {
        '"https://sally.blob.core.windows.net/in//&quot;;&quot;a&amp;lt;%2541?timeout=90"': 'az://in//";"a&lt;%41',
        "https://sally.blob.core.windows.net/c/1.txt?a=1&amp;sig=X&amp;sp=rwl": "az://c/1.txt",
        "": 'az://thumbnails/";"%41',
    }
    lines = [
        azure("PutBlob", second, 201, length="9")
        .replace(quoted, url)
        .replace(key, '"/sally/thumbnails/&quot;;&quot;%41"')
        + ';"[{"action":"read", "principalType":"User"}]"'
        for second, url in enumerate(names)
    ]
    log.write_text("\n".join([*lines, lines[0].removesuffix('"')]) + "\n")
    done = import_trace("azure-log", log, tmp_path / "t")
    assert [(r["op"], r["uri"], r["len"]) for r in rows(tmp_path / "t")] == [
        ("put", name, 9) for name in names.values()
    ]
    assert done.skipped == 1
    assert done.examples == ("line 4: cannot be split: a quotation mark is not closed",)


@pytest.mark.parametrize(
    ("address", "other"),
    [
        ("192.0.2.1:1", "192.0.2.2:1"),
        ("2001:db8::1", "2001:db8::2"),
        ("[2001:db8::1]:80", "[2001:db8::2]:80"),
    ],
)
def test_clients_are_told_apart_by_their_address_without_its_port(
    tmp_path: Path, address: str, other: str
) -> None:
    for name, lines in {
        "azure-log": [azure("GetBlob", n).replace("201.9.10.20:4362", a) for n, a in enumerate([address, other, address])],
        "minio-trace": [minio("s3.GetObject", n, client=a) for n, a in enumerate([address, other, ""])],
    }.items():  # fmt: skip
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        import_trace(name, tmp_path / name, tmp_path / f"{name}.trace", strict=True)
        ranks = [row["rank"] for row in rows(tmp_path / f"{name}.trace")]
        assert ranks == ([0, 1, 0] if name == "azure-log" else [0, 1, 2])


def minio(api: str, at: int, status: int = 200, **more: Any) -> str:
    stats = {"rx": 4096, "tx": 1000, "duration": 1_234_567, "timeToFirstByte": 1000}
    return json.dumps(
        {"host": "h:9000", "time": f"2026-01-02T03:04:05.{at:09d}Z", "client": "192.0.2.9:1234", "callStats": stats, "api": api,
         "path": "/bucket/a b", "query": "", "statusCode": status, "statusMsg": "OK", "type": "s3", **more}
    )  # fmt: skip


def test_a_minio_trace_has_ranges_where_it_has_headers(tmp_path: Path) -> None:
    log = tmp_path / "log"
    verbose = {"request": {"method": "GET", "headers": {"Range": "bytes=100-199"}}}
    log.write_text(
        "\n".join(
            [minio("s3.GetObject", 1), minio("s3.GetObject", 2, 206, **verbose), minio("s3.PutObjectPart", 3, query="partNumber=7&uploadId=x"),
             minio("s3.CompleteMultipartUpload", 4), minio("s3.HeadObject", 5, 404), minio("s3.GetBucketLocation", 6), "[]", "{"]
        ) + "\n"
    )  # fmt: skip
    done = import_trace("minio-trace", log, tmp_path / "t")
    assert [(r["op"], r["offset"], r["len"], r["bytes"], r["part"], r["error"]) for r in rows(tmp_path / "t")] == [
        ("get", None, None, 1000, None, None), ("read", 100, 100, 100, None, None), ("part", None, 4096, 4096, 7, None),
        ("complete", None, None, 0, None, None), ("stat", None, None, 0, None, "not_found"),
    ]  # fmt: skip
    first = rows(tmp_path / "t")[0]
    assert (first["uri"], first["latency"], first["ttfb"]) == ("s3://bucket/a b", 1_234_567, 1000)
    assert (done.skipped, "left out: s3.GetBucketLocation 1" in done.notes) == (2, True)


def test_a_minio_trace_of_many_lines_an_object_is_read(tmp_path: Path) -> None:
    """mc writes those to a terminal, and old versions of it everywhere."""
    log = tmp_path / "log"
    whole = [json.dumps(json.loads(minio("s3.PutObject", at)), indent=1) for at in (1, 2, 3)]
    log.write_text(
        "\n".join(
            [
                whole[0],
                "{",
                ' "api": "s3.GetObject",',
                whole[1],
                minio("s3.GetObject", 9),
                whole[2],
                "{",
                ' "a"',
            ]
        )
    )
    done = import_trace("minio-trace", log, tmp_path / "t")
    assert [r["op"] for r in rows(tmp_path / "t")] == ["put", "put", "put", "get"]
    assert done.skipped == 2
    first = len(whole[0].splitlines()) + 1
    assert done.examples[0] == f"line {first}: an object without an end"
    log.write_text("\n".join(whole))
    done = import_trace("minio-trace", log, tmp_path / "s", strict=True)
    assert (done.ops, [note for note in done.notes if "cut short" in note]) == (3, [])


def test_the_size_of_a_put_in_a_minio_trace_is_that_of_its_body_if_there_are_headers(tmp_path: Path) -> None:
    log = tmp_path / "log"
    put: dict[str, Any] = {"request": {"method": "PUT", "headers": {"Content-Length": "4006"}}}
    signed: dict[str, Any] = {
        "request": {"headers": {"Content-Length": "4080", "X-Amz-Decoded-Content-Length": "4000"}}
    }
    get: dict[str, Any] = {
        "request": {"headers": {}},
        "response": {"statusCode": 200, "headers": {"Content-Length": "700"}},
    }
    cut: dict[str, Any] = {"response": {"headers": {"Content-Length": "5000"}}}
    lines = [minio("s3.PutObject", 1, **put), minio("s3.PutObjectPart", 2, **signed), minio("s3.GetObject", 3, **get),
             minio("s3.GetObject", 4, **cut), minio("s3.PutObject", 5), minio("s3.GetObject", 6, 304)]  # fmt: skip
    log.write_text("\n".join(lines) + "\n")
    done = import_trace("minio-trace", log, tmp_path / "t", strict=True)
    assert [(r["len"], r["bytes"]) for r in rows(tmp_path / "t")] == [
        (4006, 4006), (4000, 4000), (None, 700), (None, 1000), (4096, 4096), (None, 1000),
    ]  # fmt: skip
    assert any(
        note.startswith("the bytes of 2 requests are as the server counts them") for note in done.notes
    )


def test_a_verbose_call_of_a_minio_trace_has_its_status_and_query_in_its_messages(tmp_path: Path) -> None:
    call = {"type": "S3", "host": "127.0.0.1:9000", "api": "s3.PutObjectPart", "time": "2026-01-02T03:04:05.5Z", "duration": 70,
            "path": "/bucket/k", "request": {"time": "2026-01-02T03:04:05.5Z", "proto": "HTTP/1.1", "method": "PUT", "path": "/bucket/k",
            "rawQuery": "partNumber=3&uploadId=x", "headers": {"Content-Length": "0"}, "body": "<BODY>"},
            "response": {"time": "2026-01-02T03:04:05.6Z", "headers": {"Content-Length": "312"}, "statusCode": 503},
            "callStats": {"rx": 95, "tx": 312, "duration": 70, "timeToFirstByte": 60}}  # fmt: skip
    log = tmp_path / "log"
    log.write_text(json.dumps(call, indent=1) + "\n")
    import_trace("minio-trace", log, tmp_path / "t", strict=True)
    (row,) = rows(tmp_path / "t")
    assert (row["op"], row["part"], row["len"], row["bytes"], row["latency"], row["error"]) == (
        "part",
        3,
        0,
        0,
        70,
        "throttled",
    )


@pytest.mark.parametrize(
    ("logged", "name"),
    [
        ("a b", "a b"),
        ("a%20b", "a%20b"),
        ("a%2Bb", "a+b"),
        ("50%", "50%"),
        ("é?", "é%3F"),
        ("k%3D1/%2541", "k=1/%41"),
    ],
)
def test_a_path_in_a_minio_trace_is_decoded_only_if_it_was_logged_as_sent(
    tmp_path: Path, logged: str, name: str
) -> None:
    """Go keeps the path as sent beside the decoded one if it would encode that in another way; MinIO logs it then."""
    log = tmp_path / "log"
    log.write_text(minio("s3.GetObject", 1, path=f"/bucket/{logged}") + "\n")
    import_trace("minio-trace", log, tmp_path / "t", strict=True)
    assert [row["uri"] for row in rows(tmp_path / "t")] == [f"s3://bucket/{name}"]


def test_a_copy_in_a_minio_trace_has_its_source_where_it_has_headers(tmp_path: Path) -> None:
    log = tmp_path / "log"
    headers = {"X-Amz-Copy-Source": ["/other/c%20d?versionId=x"], "X-Amz-Copy-Source-Range": ["bytes=5-14"]}
    part = minio(
        "s3.CopyObjectPart", 1, query="partNumber=2&uploadId=x", request={"method": "PUT", "headers": headers}
    )
    log.write_text("\n".join([part, minio("s3.CopyObject", 2), minio("s3.GetObject", 3)]) + "\n")
    done = import_trace("minio-trace", log, tmp_path / "t", strict=True)
    copy, _ = rows(tmp_path / "t")
    assert (copy["op"], copy["uri"], copy["to_uri"]) == ("copy", "s3://other/c d", "s3://bucket/a b")
    assert (copy["offset"], copy["len"], copy["part"]) == (5, 10, 2)
    assert "left out: s3.CopyObject 1" in done.notes


def elbencho(
    name: str, ms: int, finished: bool, entry: str = "/d/f", offset: int = 0, length: int = 0, **more: Any
) -> str:
    said = {"date": f"2026-01-02T04:04:05.{ms:03d}+0100", "worker_rank": 3, "op_name": name, "entry_name": entry,
            "offset": offset, "length": length, "is_finished": finished, "is_error": False}  # fmt: skip
    return json.dumps({**said, **more})


def test_the_two_lines_of_an_elbencho_operation_are_one_op(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ranges = [("read", 0, 4096), ("write", 4096, 512)]
    lines = [elbencho("open", 0, False), elbencho("open", 1, True)]
    for at, (name, offset, length) in enumerate(ranges):
        lines += [elbencho(name, 10 * at + 10, False, offset=offset, length=length),
                  elbencho(name, 10 * at + 15, True, offset=offset, length=length)]  # fmt: skip
    lines += [elbencho("S3PutObject", 40, False, "b/k", length=9), elbencho("S3PutObject", 42, True, "b/k", length=9, is_error=True),
              elbencho("S3CreateBucket", 43, False, "b"), elbencho("S3CreateBucket", 44, True, "b"), elbencho("read", 50, False), "{}"]  # fmt: skip
    log.write_text("\n".join(lines) + "\n")
    done = import_trace("elbencho", log, tmp_path / "t")
    assert [
        (r["op"], r["uri"], r["offset"], r["len"], r["bytes"], r["latency"], r["error"])
        for r in rows(tmp_path / "t")
    ] == [
        ("stat", "file:///d/f", None, None, 0, 1_000_000, None),
        ("read", "file:///d/f", 0, 4096, 4096, 5_000_000, None),
        ("write", "file:///d/f", 4096, 512, 512, 5_000_000, None),
        ("put", "s3://b/k", None, 9, 0, 2_000_000, "io_error"),
        ("read", "file:///d/f", 0, 0, None, None, None),
    ]
    assert {r["worker"] for r in rows(tmp_path / "t")} == {3}
    assert open_reader(tmp_path / "t").epoch_unix_ns == 1767323045 * 10**9
    notes = " | ".join(done.notes)
    assert done.skipped == 1
    assert "1 operations do not end in the log" in notes
    assert "left out: S3CreateBucket 1" in notes
