"""`tracekit ask`: ready questions about a trace."""

from __future__ import annotations

from typing import Annotated

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, MemoryOption, ThreadsOption, TraceArgument, choices, examples
from tracekit.questions.ask import QUESTIONS, question_named
from tracekit.questions.words import heading, in_words

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "ask",
        epilog=examples(
            "tracekit ask run.trace  # list the questions",
            "tracekit ask run.trace slowest-files",
            "tracekit ask run.trace stalls --limit 5 --json",
            "tracekit ask run.trace tail --sql > tail.sql  # change the query, then: tracekit query run.trace tail.sql",
        ),
    )(_ask)


def _ask(
    trace: TraceArgument,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUESTION]", help="One of the questions; none lists them.", **choices(QUESTIONS)
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Rows at most.")] = 20,
    sql: Annotated[bool, typer.Option("--sql", help="Print the query instead of its rows.")] = False,
    json: JsonOption = False,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
) -> None:
    """Answer a ready question about a trace: what is slow, what waits, what fails, what is read again."""
    if question is None:
        _list(json=json)
    elif sql:
        asked = question_named(question)
        text = asked.sql(limit)
        screen.emit_json({"question": asked.name, "sql": text}) if json else screen.emit_text(text)
    else:
        with screen.working("ask"):
            answer = tracekit.ask(trace, question, limit=limit, threads=threads, memory=memory)
        screen.emit_json(answer.to_dict()) if json else _show(answer)


def _list(*, json: bool) -> None:
    if json:
        screen.emit_json([{"question": each.name, "text": each.text} for each in QUESTIONS.values()])
        return
    screen.show_rows(("question", "asks"), [(each.name, each.text) for each in QUESTIONS.values()])


def _show(answer: tracekit.Answer) -> None:
    screen.say(answer.question.text)
    if not len(answer):
        screen.say(f"no rows: {answer.question.no_rows}")
        return
    names = answer.table.column_names
    rows = [[in_words(name, row[name]) for name in names] for row in answer.table.to_pylist()]
    texts = {name for name, kind in answer.question.columns if kind == "VARCHAR"}
    for at, name in enumerate(names):
        if name not in texts:  # the unit is part of the text, so that the table does not know a number
            width = max(len(row[at]) for row in rows)
            for row in rows:
                row[at] = row[at].rjust(width)
    screen.show_rows([heading(name) for name in names], rows)
