"""S3 server access logs: the documented lines, ranges without offsets, errors, other requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tracekit.errors import TraceFormatError, UsageError
from tracekit.formats.registry import import_trace
from tracekit.replayer.run import replay
from tracekit.store.reader import open_reader


def line(operation: str = "REST.GET.OBJECT", key: str = "data/a%20b.npz", status: str = "200", code: str = "-",
         sent: str = "1000", size: str = "5000", total: str = "70", turn: str = "10", second: int = 38) -> str:  # fmt: skip
    return (
        f"79a5 DOC-EXAMPLE [06/Feb/2019:00:00:{second:02d} +0000] 192.0.2.3 arn:aws:iam::1:user/x 3E57427F3EXAMPLE "
        f'{operation} {key} "GET /k?X-Amz-Signature=secret HTTP/1.1" {status} {code} {sent} {size} {total} {turn} '
        f'"-" "S3Console/0.4 \\"q\\"" - s9lzHYrFp76ZVxRcpX9+5cjAnEH2ROuNkd2BHfIa6UkFVdtjf5mKR3/eTPFvsiP/XV/VLi31234= SigV4 '
        "ECDHE-RSA-AES128-GCM-SHA256 AuthHeader host TLSV1.2 - -"
    )


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_reader(path).query("FROM ops ORDER BY t_submit").to_pylist()
    return found


def test_each_kind_of_request_becomes_its_op(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(
        "\n".join(
            [
                line(second=1),
                line(second=2, status="206", sent="512"),
                line("REST.PUT.OBJECT", second=3, sent="-"),
                line("REST.HEAD.OBJECT", second=4),
                line("REST.GET.BUCKET", "-", second=5),
                line("REST.GET.OBJECT", second=6, status="404", code="NoSuchKey", sent="300", size="-"),
                line("REST.GET.OBJECT", second=7, status="503", code="SlowDown", sent="300", turn="-"),
                line("REST.GET.BUCKETPOLICY", "-", second=8),
                line("REST.DELETE.OBJECT", second=9, status="204", sent="-", size="-"),
            ]
        )
    )
    done = import_trace("s3-access-log", log, tmp_path / "t", strict=True)
    got = rows(tmp_path / "t")
    assert [(r["op"], r["bytes"], r["len"], r["error"]) for r in got] == [
        ("get", 1000, None, None), ("read", 512, None, None), ("put", 5000, 5000, None), ("stat", 0, None, None),
        ("list", 0, None, None), ("get", 0, None, "not_found"), ("get", 0, None, "throttled"), ("delete", 0, None, None),
    ]  # fmt: skip
    assert {r["offset"] for r in got} == {None}
    assert (got[0]["uri"], got[0]["latency"], got[0]["ttfb"]) == (
        "s3://DOC-EXAMPLE/data/a b.npz",
        70_000_000,
        10_000_000,
    )
    assert got[4]["uri"] == "s3://DOC-EXAMPLE/"
    assert open_reader(tmp_path / "t").epoch_unix_ns == 1549411201 * 10**9
    assert "left out: REST.GET.BUCKETPOLICY 1" in done.notes


def test_quotes_in_a_request_and_marks_in_a_key_are_read(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    quoted = line(second=2).replace("GET /k?X-Amz-Signature=secret HTTP", 'GET /k?x="q" and "r" HTTP')
    log.write_text("\n".join([line(key="a%3Fb%23c", second=1), quoted, line(key="y%253D1", second=3)]) + "\n")
    assert import_trace("s3-access-log", log, tmp_path / "t", strict=True).ops == 3
    uris = [r["uri"].removeprefix("s3://DOC-EXAMPLE/") for r in rows(tmp_path / "t")]
    assert uris == ["a%3Fb%23c", "data/a b.npz", "y%3D1"]


def test_bad_lines_are_counted_and_a_file_of_another_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    bad = [
        "hello",
        line().replace("06/Feb/2019", "31/Feb/2019"),
        line(total="NaN"),
        line(sent="-7"),
        line(size="9" * 30),
    ]
    log.write_text("\r\n".join([line(), *bad, "", line()]))
    done = import_trace("s3-access-log", log, tmp_path / "t")
    assert (done.ops, done.skipped) == (2, len(bad))
    with pytest.raises(TraceFormatError, match="line 2: not an S3 access log line"):
        import_trace("s3-access-log", log, tmp_path / "s", strict=True)
    log.write_text("hello\nworld\n")
    with pytest.raises(TraceFormatError, match="contains no S3 access log line"):
        import_trace("s3-access-log", log, tmp_path / "s")


def test_operations_without_a_row_are_named_with_counts_and_object_sizes_are_kept(
    tmp_path: Path,
) -> None:
    log = tmp_path / "access.log"
    operations = ["REST.GET.OBJECT", "REST.COPY.PART", "REST.COPY.OBJECT_GET", "REST.COPY.PART", "S3.EXPIRE.OBJECT",
                  "BATCH.DELETE.OBJECT", "REST.POST.MULTI_OBJECT_DELETE", "REST.POST.UPLOADS"]  # fmt: skip
    log.write_text("\n".join(line(name, second=at) for at, name in enumerate(operations)) + "\n")
    done = import_trace("s3-access-log", log, tmp_path / "t", strict=True)
    assert [(r["op"], r["object_size"]) for r in rows(tmp_path / "t")] == [
        ("get", 5000), ("delete", None), ("delete", None)
    ]  # fmt: skip
    assert "requests by the service itself, not by a client: S3.EXPIRE.OBJECT 1" in done.notes
    (said,) = (note for note in done.notes if note.startswith("left out: "))
    assert set(said.removeprefix("left out: ").split(", ")) == {
        "REST.COPY.PART 2", "REST.COPY.OBJECT_GET 1", "REST.POST.MULTI_OBJECT_DELETE 1", "REST.POST.UPLOADS 1"
    }  # fmt: skip


def test_a_multipart_upload_has_its_parts_with_their_numbers_and_its_end(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    asked = "GET /k?X-Amz-Signature=secret HTTP/1.1"
    log.write_text(
        "\n".join(
            [
                line("REST.POST.UPLOADS", second=1),
                *(
                    line("REST.PUT.PART", second=at, size="5242880").replace(
                        asked, f"PUT /k?partNumber={at}&uploadId=x HTTP/1.1"
                    )
                    for at in (2, 3)
                ),
                line("REST.POST.UPLOAD", second=4, sent="300", size="10485760"),
                line("REST.DELETE.UPLOAD", second=5, status="204", sent="-", size="-"),
            ]
        )
    )
    done = import_trace("s3-access-log", log, tmp_path / "t", strict=True)
    assert [(r["op"], r["part"], r["len"], r["bytes"]) for r in rows(tmp_path / "t")] == [
        ("part", 2, 5242880, 5242880), ("part", 3, 5242880, 5242880), ("complete", None, None, 0), ("abort", None, None, 0)
    ]  # fmt: skip
    assert "left out: REST.POST.UPLOADS 1" in done.notes


@pytest.mark.parametrize("source_first", [True, False])
def test_the_two_lines_of_a_copy_are_one_op(tmp_path: Path, source_first: bool) -> None:
    log = tmp_path / "access.log"
    pair = [
        line("REST.COPY.OBJECT_GET", key="from/a%20b", second=1, total="-"),
        line("REST.COPY.OBJECT", key="to/c", second=1, total="7"),
    ]
    other = line("REST.COPY.OBJECT", key="to/d", second=2).replace("3E57427F3EXAMPLE", "OTHER")
    log.write_text("\n".join([*(pair if source_first else pair[::-1]), other]) + "\n")
    done = import_trace("s3-access-log", log, tmp_path / "t", strict=True)
    assert [(r["op"], r["uri"], r["to_uri"], r["latency"], r["object_size"]) for r in rows(tmp_path / "t")] == [
        ("copy", "s3://DOC-EXAMPLE/from/a b", "s3://DOC-EXAMPLE/to/c", 7_000_000, 5000)
    ]  # fmt: skip
    assert "left out: REST.COPY.OBJECT 1" in done.notes


def test_a_part_that_the_store_copied_is_a_copy_with_a_number_and_is_not_replayed(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    asked = "GET /k?X-Amz-Signature=secret HTTP/1.1"
    lines = []
    for number in (1, 2):
        for name, key in (("REST.COPY.PART_GET", "from"), ("REST.COPY.PART", "to")):
            copied = line(name, key=key, second=number, total="9").replace("3E57427F3EXAMPLE", f"R{number}")
            lines.append(copied.replace(asked, f"PUT /to?partNumber={number}&uploadId=x HTTP/1.1"))
    log.write_text("\n".join(lines) + "\n")
    done = import_trace("s3-access-log", log, tmp_path / "t", strict=True)
    assert [(r["op"], r["uri"], r["to_uri"], r["part"]) for r in rows(tmp_path / "t")] == [
        ("copy", "s3://DOC-EXAMPLE/from", "s3://DOC-EXAMPLE/to", number) for number in (1, 2)
    ]
    assert any("parts that the store copied from other objects: 2" in note for note in done.notes)
    rule = f"s3://DOC-EXAMPLE=file://{tmp_path}/made"
    with pytest.raises(UsageError, match="2 copy ops copy a part of an object"):
        replay(tmp_path / "t", map=rule, out=tmp_path / "r", allow_writes=True)


def test_requests_of_the_service_itself_are_ops_without_a_latency_and_counted_apart(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    own = {"status": "-", "sent": "-", "size": "-", "total": "-", "turn": "-"}
    log.write_text(
        "\n".join(
            [
                line(second=1),
                line("WEBSITE.HEAD.OBJECT", second=2, sent="-"),
                line("S3.DELETE.UPLOAD", second=3, **own),
                line("S3.EXPIRE.OBJECT", second=4, **own),
                line("S3.TRANSITION_SIA.OBJECT", second=5, **own),
            ]
        )
    )
    done = import_trace("s3-access-log", log, tmp_path / "t", strict=True)
    assert [(r["op"], r["latency"]) for r in rows(tmp_path / "t")] == [
        ("get", 70_000_000),
        ("stat", 70_000_000),
        ("abort", None),
        ("delete", None),
    ]
    assert {
        "requests by the service itself, not by a client: S3.DELETE.UPLOAD 1, S3.EXPIRE.OBJECT 1",
        "left out: S3.TRANSITION_SIA.OBJECT 1",
    } <= set(done.notes)
