"""Snapshots fit docs/metrics.schema.json, and docs/metrics.md defines every key and macro."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tracekit.metrics.library import library
from tracekit.metrics.snapshot import snapshot
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCHEMA: dict[str, Any] = json.loads((DOCS / "metrics.schema.json").read_text())
GOLDEN = json.loads((Path(__file__).parent / "golden" / "snapshot.json").read_text())


def check(value: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(value)


def test_the_golden_snapshot_fits_the_schema() -> None:
    check(GOLDEN)
    assert list(GOLDEN) == list(SCHEMA["properties"])


@pytest.mark.parametrize("latency", [[], [None], [0, 2**40, None]])
def test_snapshots_without_ops_or_latencies_fit_the_json_schema(
    tmp_path: Path, latency: list[int | None]
) -> None:
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        n = len(latency)
        if n:
            columns = {"t_submit": range(n), "uri": ["az://a/b/c"] * n, "latency": latency}
            kinds = {"uri": pa.string()}
            arrays = {k: pa.array(v, kinds.get(k, pa.int64())) for k, v in columns.items()}
            writer.write(pa.RecordBatch.from_pydict(arrays))
    check(json.loads(snapshot(open_reader(tmp_path / "t")).to_json()))


@pytest.mark.parametrize("wrong", [{"ops": -1}, {"extra": 1}, {"schema_version": 4}, {"max_qd": "x"}])
def test_the_json_schema_refuses_what_is_not_a_snapshot(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(GOLDEN | wrong)


def test_the_page_defines_every_key_and_every_macro() -> None:
    page = (DOCS / "metrics.md").read_text()
    for key in SCHEMA["properties"]:
        assert f"`{key}`" in page, key
    for name, sql in library().items():
        assert f"`{name}.sql`" in page, name
        for macro in re.findall(r"MACRO (\w+)\(", sql):
            assert f"`{macro}(" in page, macro
