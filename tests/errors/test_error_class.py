"""Error classes: one table for errno, one for HTTP, one for words, and no other string in a trace."""

from __future__ import annotations

import ast
import errno
import os
import pickle
import re
import time
from pathlib import Path

import pyarrow as pa
import pytest

from tracekit.capture.outcome import error_class
from tracekit.errors import BackendError, ErrorClass, TracekitError, UsageError
from tracekit.formats.registry import import_trace
from tracekit.recorder import Recorder
from tracekit.store.check import verify
from tracekit.store.reader import open_reader

REPO = Path(__file__).resolve().parents[2]
SOURCES = sorted((REPO / "tracekit").rglob("*.py"))


@pytest.mark.parametrize("kind", ErrorClass)
def test_every_class_has_a_meaning_and_reads_back_from_its_own_name(kind: ErrorClass) -> None:
    assert kind.meaning and "|" not in kind.meaning
    assert ErrorClass(str(kind)) is kind is ErrorClass.from_text(kind.upper())
    assert pickle.loads(pickle.dumps(BackendError("m", "h", kind))).error_class is kind


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_an_errno_its_name_and_its_message_mean_the_same_class(number: int) -> None:
    kind = ErrorClass.from_errno(number)
    assert ErrorClass.from_errno(-number) is kind
    assert ErrorClass.from_text(errno.errorcode[number]) is kind
    assert ErrorClass.from_text(f"pread(7): {os.strerror(number)}") is kind
    assert error_class(OSError(number, os.strerror(number))) is kind


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "", "not_found"), (404, "NoSuchKey", "not_found"), (403, "", "permission"), (401, "", "permission"),
        (400, "ExpiredToken", "permission"), (503, "", "throttled"), (503, "SlowDown", "throttled"),
        (503, "Other", "server_error"), (429, "", "throttled"), (500, "", "server_error"),
        (500, "OperationTimedOut", "timeout"), (408, "", "timeout"), (412, "", "exists"),
        (409, "BlobAlreadyExists", "exists"), (409, "", "conflict"), (416, "", "out_of_range"),
        (301, "", "wrong_region"), (501, "NotImplemented", "unsupported"), (400, "", "io_error"), (0, "", "io_error"),
    ],
)  # fmt: skip
def test_an_http_answer_has_the_class_of_its_status_and_code(status: int, code: str, kind: str) -> None:
    assert ErrorClass.from_http(status, code) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("NoSuchKey", "not_found"), ("404 NoSuchKey", "not_found"), ("HTTP 404", "not_found"), ("503", "throttled"),
        ("503 Slow Down", "throttled"), ("status code: 403", "permission"), ("AccessDenied", "permission"),
        ("context deadline exceeded", "timeout"), ("read: connection reset by peer", "unreachable"),
        ("Too many open files", "io_error"), ("unexpected EOF", "short_read"), ("context canceled", "cancelled"),
        ("412 PreconditionFailed", "exists"), ("InvalidRange", "out_of_range"), ("InternalError", "server_error"),
        ("it broke", "unknown"), ("read 500 of 4096", "unknown"), ("", "unknown"),
    ],
)  # fmt: skip
def test_words_of_other_tools_have_a_class(text: str, kind: str) -> None:
    assert ErrorClass.from_text(text) == kind


def test_verify_accepts_every_class_that_the_recorder_takes(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t") as recorder:
        for kind in ErrorClass:
            recorder.record("file:///f", 0, 1, time.monotonic_ns(), 1, bytes=0, error=kind)
        now = [time.monotonic_ns()] * len(ErrorClass)
        recorder.record_batch(
            pa.record_batch(
                {
                    "t_submit": now,
                    "uri": ["file:///f"] * len(now),
                    "latency": now,
                    "error": list(map(str, ErrorClass)),
                }
            )
        )
    assert not verify(tmp_path / "t")
    with open_reader(tmp_path / "t").connect() as connection:
        counted = connection.execute("SELECT error, count(*) FROM ops GROUP BY error").fetchall()
    assert dict(counted) == {str(kind): 2 for kind in ErrorClass}


def test_the_recorder_refuses_a_string_that_is_no_class(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a")
    recorder.record("file:///f", 0, 1, time.monotonic_ns(), 1, error="oops")  # type: ignore[arg-type]
    with pytest.raises(TracekitError, match="oops"):
        recorder.close()
    with Recorder(tmp_path / "b") as recorder, pytest.raises(UsageError, match="oops"):
        now = [time.monotonic_ns()] * 2
        recorder.record_batch(
            pa.record_batch({"t_submit": now, "uri": ["file:///f"] * 2, "error": ["timeout", "oops"]})
        )
    with pytest.raises(ValueError, match="oops"):
        BackendError("m", "h", "oops")  # type: ignore[arg-type]


def test_an_imported_log_holds_classes_only(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    words = ["NoSuchKey", "it broke", "HTTP 503", "ENOSPC", "timeout"]
    lines = [f"{1000 + n},file:///f,0,1,1,{n},{word}" for n, word in enumerate(words)]
    log.write_text("\n".join(["t_submit,uri,offset,len,latency,sample_id,error", *lines]) + "\n")
    import_trace("csv", log, tmp_path / "t", strict=True)
    assert not verify(tmp_path / "t")
    with open_reader(tmp_path / "t").connect() as connection:
        found = connection.execute("SELECT error FROM ops ORDER BY t_submit").fetchall()
    assert [kind for (kind,) in found] == ["not_found", "unknown", "throttled", "io_error", "timeout"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_only_one_module_spells_out_error_classes(path: Path) -> None:
    """A class is an `ErrorClass` everywhere else, so that no table can grow a second time."""
    if path.name == "errors.py":
        return
    ambiguous = {
        "timeout",
        "unknown",
        "unreachable",
        "cancelled",
        "exists",
    }  # words with other uses in the code
    spelt = {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not spelt & (set(ErrorClass) - ambiguous)


def test_the_documented_list_of_error_classes_is_that_of_the_code() -> None:
    documented = re.findall(r"^\| `(\w+)` \| (.*) \|$", (REPO / "docs/trace.md").read_text().split("### Error classes")[1]
                            .split("\n## ")[0], flags=re.MULTILINE)  # fmt: skip
    assert documented == [(str(kind), kind.meaning) for kind in ErrorClass], "copy `meaning` to docs/trace.md"
