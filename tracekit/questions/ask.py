"""Answers ready questions about a trace: which files are slow, which workers starve, what the tail has in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from tracekit.errors import UsageError
from tracekit.questions.words import heading, in_words
from tracekit.sql import columns_named, load_sql, sql_header, sql_names
from tracekit.store.reader import TraceLike
from tracekit.trace import open_trace
from tracekit.validation import choosing

__all__ = ["QUESTIONS", "Answer", "Question", "ask", "question_named"]

_QUERIES = "tracekit.questions.queries"
_LIMIT = 20
"""How many rows a query gives as it is written in its file: the last line is `LIMIT 20`."""
_NO_ROWS = "No rows: "


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the query that answers it. `no_rows` says what it means if the query gives none."""

    name: str
    text: str
    columns: tuple[tuple[str, str], ...]
    no_rows: str
    query: str

    def sql(self, limit: int = _LIMIT) -> str:
        """Return the query, for at most `limit` rows."""
        if limit < 1:
            raise UsageError(f"limit={limit} is less than 1", "give the number of rows")
        return self.query.removesuffix(f"LIMIT {_LIMIT}\n") + f"LIMIT {limit}\n"


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """The rows that answer a question, worst or largest first, and the query that gave them."""

    question: Question
    sql: str
    table: pa.Table

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON-able values: times in ns and sizes in bytes, as the names of the columns say."""
        return {
            "question": self.question.name,
            "text": self.question.text,
            "sql": self.sql,
            "columns": self.table.column_names,
            "rows": self.table.to_pylist(),
            "no_rows": None if len(self.table) else self.question.no_rows,
        }

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        rows = "1 row" if len(self) == 1 else f"{len(self)} rows"
        return f"<Answer {self.question.name!r}: {rows} of {', '.join(self.table.column_names)}>"

    def _repr_html_(self) -> str:
        if not len(self):
            return f"<p>{escape(self.question.text)} No rows: {escape(self.question.no_rows)}.</p>"
        names = self.table.column_names
        head = "".join(f"<th>{escape(heading(name))}</th>" for name in names)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(in_words(name, row[name]))}</td>' for name in names)}</tr>"
            for row in self.table.to_pylist()
        )
        return f"<table><caption>{escape(self.question.text)}</caption><tr>{head}</tr>{body}</table>"


def ask(
    trace: TraceLike,
    question: str,
    *,
    limit: int = _LIMIT,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Answer:
    """Answer one of `QUESTIONS` about `trace`, with at most `limit` rows.

    `threads` and `memory` limit the query, as in `Trace.query`. Raises UsageError for an unknown question.
    """
    asked = question_named(question)
    sql = asked.sql(limit)
    return Answer(asked, sql, open_trace(trace).query(sql, threads=threads, memory=memory))


def question_named(name: str) -> Question:
    """Return one of `QUESTIONS`. Raises UsageError, with the nearest name, if there is none of this name."""
    if name not in QUESTIONS:
        raise UsageError(f"unknown question {name!r}", choosing(name, QUESTIONS))
    return QUESTIONS[name]


def _question(name: str) -> Question:
    sql = load_sql(_QUERIES, name)
    header = sql_header(sql)
    reason = next((line.removeprefix(_NO_ROWS) for line in header if line.startswith(_NO_ROWS)), "")
    described = " ".join(line for line in header[1:] if not line.startswith(_NO_ROWS))
    return Question(
        name, header[0], columns_named(described), reason.rstrip(".") or "the trace has no such ops", sql
    )


QUESTIONS: Mapping[str, Question] = MappingProxyType({name: _question(name) for name in sql_names(_QUERIES)})
"""Every ready question, by name."""
