"""A name in a log becomes the same URI whatever the format of the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tracekit.errors import UsageError
from tracekit.formats.registry import import_trace
from tracekit.store.reader import open_reader
from tracekit.uri import from_name

_ENDPOINT = "idx\tthread\top\tclient_id\tn_objects\tbytes\tendpoint\tfile\terror\tstart\tfirst_byte\tend\tduration_ns\n"


def _logs(name: str) -> dict[str, str]:
    event = {"name": "pread", "cat": "POSIX", "ph": "X", "pid": 1, "tid": 1, "ts": 1, "dur": 1, "id": 1}
    event["args"] = {"fname": name, "ret": 5, "count": 5, "offset": 0}
    time = "2024-01-01T00:00:00Z"
    return {
        "csv": f"uri,t_submit,len,offset\n{name},1,5,0\n",
        "jsonl": json.dumps({"uri": name, "t_submit": 1, "len": 5, "offset": 0}) + "\n",
        "fio": f"fio version 3 iolog\n1 {name} read 0 5\n",
        "dftracer": json.dumps(event) + "\n",
        "strace": f'1700000000.1 pread64(3<{name}>, "", 5, 0) = 5 <0.1>\n',
        "s3dlio": f"{_ENDPOINT}0\t1\tGET\tc\t1\t5\t\t{name}\t\t{time}\t\t{time}\t5\n",
    }


@pytest.mark.parametrize(
    ("name", "base"),
    [("/a/b", "s3://bucket/"), ("/a/b", "s3://bucket"), ("a//b", "s3://bucket/pre"), ("/a/b", "block://"),
     ("/a/../b", None), ("a/b", None), ("C:\\data\\x", None)],
)  # fmt: skip
def test_every_format_gives_the_same_uri(tmp_path: Path, name: str, base: str | None) -> None:
    seen = {}
    for format, text in _logs(name).items():
        if (format == "strace" and not name.startswith("/")) or (format == "s3dlio" and base is None):
            continue  # strace shows absolute paths; an op log without endpoint needs a base
        (tmp_path / format).write_text(text)
        import_trace(format, tmp_path / format, tmp_path / f"{format}.trace", base=base, strict=True)
        ops = open_reader(tmp_path / f"{format}.trace").query("SELECT DISTINCT uri FROM ops").to_pylist()
        seen[format] = [row["uri"] for row in ops]
    assert seen == {key: [from_name(name, base)] for key in seen}


@pytest.mark.parametrize("format", sorted(_logs("x").keys() - {"strace"}))
def test_a_base_without_scheme_is_refused_and_leaves_nothing(tmp_path: Path, format: str) -> None:
    (tmp_path / "log").write_text(_logs("a")[format])
    with pytest.raises(UsageError, match="base=bucket"):
        import_trace(format, tmp_path / "log", tmp_path / "t.trace", base="bucket/")
    assert not (tmp_path / "t.trace").exists()
