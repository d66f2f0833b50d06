"""Ready questions: each query gives the columns that its header names, and answers what it asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import tracekit
from tracekit.cli.app import run
from tracekit.cli.tables import with_tables
from tracekit.store.writer import TraceWriter

REPO = Path(__file__).resolve().parents[2]
TYPES = {"int64": "BIGINT", "int32": "INTEGER", "double": "DOUBLE", "string": "VARCHAR", "bool": "BOOLEAN"}
TEXTS = {name: pa.string() for name in ("uri", "op", "error")}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: pa.array([row.get(name) for row in rows], TEXTS.get(name, pa.int64())) for name in names}
    with TraceWriter(path, source="import:test", epoch_unix_ns=0) as writer:
        if rows:
            writer.write(pa.RecordBatch.from_pydict(columns))
    return path


def op(t: int, latency: int | None = 10, **more: Any) -> dict[str, Any]:
    return {
        "t_submit": t, "uri": "file:///d/a", "op": "read", "offset": 0, "len": 4096, "bytes": 4096, "latency": latency,
        "rank": 0, "worker": 0, **more,
    }  # fmt: skip


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Two ranks with a worker each: rank 1 is slow at step 1, fails once and waits 1,000 ns between its ops."""
    rows = [op(t, uri=f"file:///d/{t % 3}", offset=t * 4096, step=t // 500) for t in range(0, 1000, 100)]
    rows += [
        op(0, 50, rank=1, step=0, uri="file:///d/slow", tries=3, wait_ns=20),
        op(1100, 900, rank=1, step=1, uri="file:///d/slow", error="timeout", bytes=0, t_due=1000),
    ]
    return write(tmp_path / "run.trace", rows)


def rows_of(trace: Path, question: str, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tracekit.ask(trace, question, **options).table.to_pylist()
    return found


@pytest.mark.parametrize("question", tracekit.QUESTIONS)
def test_a_query_gives_the_columns_that_its_header_names(question: str, trace: Path, tmp_path: Path) -> None:
    for path in (trace, write(tmp_path / "empty.trace", [])):
        table = tracekit.ask(path, question).table
        given = [(name, TYPES[str(kind)]) for name, kind in zip(table.column_names, table.schema.types, strict=True)]  # fmt: skip
        assert tuple(given) == tracekit.QUESTIONS[question].columns


@pytest.mark.parametrize("question", tracekit.QUESTIONS)
def test_a_question_is_one_line_and_its_query_has_a_limit(question: str) -> None:
    asked = tracekit.QUESTIONS[question]
    assert asked.text.endswith("?") and len(asked.text) < 100
    assert asked.sql(3) == asked.query.replace("LIMIT 20\n", "LIMIT 3\n") != asked.query


def test_the_answers_are_right_on_a_small_trace(trace: Path) -> None:
    assert rows_of(trace, "slowest-files")[0]["uri"] == "file:///d/slow"
    assert rows_of(trace, "slowest-ops", limit=1)[0]["latency_ns"] == 900
    (held,) = (row for row in rows_of(trace, "held-up-steps") if row["step"] == 1)
    assert (held["slowest_rank"], held["wall_ns"], held["behind_ns"]) == (1, 900, 245)
    starved = {row["rank"]: row for row in rows_of(trace, "starved-workers")}
    assert (starved[0]["idle_ns"], starved[0]["ops"]) == (2000 - 10 * 10, 10)
    assert (starved[1]["longest_idle_ns"], starved[1]["longest_at_ns"]) == (1100 - 70, 70)
    assert rows_of(trace, "stalls", limit=1)[0]["stall_ns"] == 1100 - 910
    assert rows_of(trace, "errors")[0] | {"first_at_ns": 1100} == rows_of(trace, "errors")[0]
    assert [(row["uri"], row["most_tries"], row["waited_ns"]) for row in rows_of(trace, "retries")] == [("file:///d/slow", 3, 20)]  # fmt: skip
    assert [row["late_ns"] for row in rows_of(trace, "late-ops")] == [100]
    assert sum(row["time_ns"] for row in rows_of(trace, "concurrency")) == 2000
    assert rows_of(trace, "hot-set")[-1]["ops"] == 12


def test_an_unknown_length_is_not_a_size(tmp_path: Path) -> None:
    path = write(tmp_path / "t", [op(0, len=None, bytes=None), op(5, len=100)])
    rows = rows_of(path, "request-sizes")
    assert {(row["from_bytes"], row["to_bytes"]) for row in rows} == {(None, None), (64, 128)}


def test_an_answer_without_rows_says_what_that_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "t", [op(0)])
    assert run(["ask", str(path), "errors"]) == 0
    assert "no rows: no op failed" in capsys.readouterr().out
    assert tracekit.ask(path, "late-ops").to_dict()["no_rows"] == "the trace is not of a replay"


def test_an_answer_shows_itself_with_units_and_escaped(tmp_path: Path) -> None:
    path = write(tmp_path / "t", [op(0, 1_500_000, uri="file:///d/<b>")])
    answer = tracekit.ask(path, "slowest-files")
    assert "<td>1.50 ms</td>" in answer._repr_html_()
    assert "&lt;b&gt;" in answer._repr_html_() and "<b>" not in answer._repr_html_()
    assert repr(answer).startswith("<Answer 'slowest-files': 1 row of uri, ops")


def test_without_a_question_the_questions_are_listed(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ask", str(trace), "--json"]) == 0
    assert [row["question"] for row in json.loads(capsys.readouterr().out)] == list(tracekit.QUESTIONS)


def test_the_printed_query_gives_the_same_rows(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ask", str(trace), "slowest-ops", "--sql", "--limit", "4"]) == 0
    file = tmp_path / "my query.sql"
    file.write_text(capsys.readouterr().out)
    assert run(["query", str(trace), str(file), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert run(["ask", str(trace), "slowest-ops", "--limit", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == printed


def test_an_unknown_question_and_a_bad_limit_are_refused(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ask", str(trace), "slowest-file"]) == 2
    assert "did you mean slowest-files?" in capsys.readouterr().err
    with pytest.raises(tracekit.UsageError, match="limit=0"):
        tracekit.ask(trace, "stalls", limit=0)


def test_a_file_of_sql_that_is_not_there_is_named(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["query", str(trace), "busiest.sql"]) == 2
    assert "busiest.sql: no such file of SQL" in capsys.readouterr().err


def test_the_page_lists_the_questions() -> None:
    page = (REPO / "docs" / "ask.md").read_text()
    assert page == with_tables(page), "run `make docs`"
    assert all(f"`{name}`" in page for name in tracekit.QUESTIONS)
