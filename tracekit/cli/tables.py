"""The generated tables on the documentation pages: options, from `tracekit.options`, and ready questions.

A page holds a table between `<!-- options: NAME -->` and `<!-- end of options -->`, or `<!-- questions -->` and
`<!-- end of questions -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tracekit.capture.options import CAPTURE, PROXY
from tracekit.cli.options import metavar_of
from tracekit.options import CHECKPOINT, LOADER, RECORD, REPLAY
from tracekit.questions.ask import QUESTIONS
from tracekit.store_options import BACKEND
from tracekit.validation import Kind, Option, Table, flag_of, requirement, shown_default

__all__ = ["refresh", "with_tables"]

_TABLES: dict[str, Table] = {
    "loader": LOADER,
    "record": RECORD,
    "checkpoint": CHECKPOINT,
    "replay": REPLAY,
    "backend": BACKEND,
    "proxy": PROXY,
    "capture": CAPTURE,
}
_PLACE = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end of options -->)", re.DOTALL)

_QUESTIONS_PLACE = re.compile(r"(<!-- questions -->\n).*?(<!-- end of questions -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """The text of a page with every generated table made anew."""
    page = _PLACE.sub(lambda found: f"{found[1]}\n{_table(found[2])}\n\n{found[3]}", page)
    return _QUESTIONS_PLACE.sub(lambda found: f"{found[1]}\n{_question_table()}\n\n{found[2]}", page)


def refresh(folder: Path) -> None:
    """Make every generated table anew on the pages below `folder`."""
    for path in sorted(folder.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (fresh := with_tables(text)) != text:
            path.write_text(fresh, encoding="utf-8")


def _table(name: str) -> str:
    second = "schemes" if name == "backend" else "flag"
    rows: list[tuple[str, ...]] = [("option", second, "takes", "default", "meaning"), ("---",) * 5]
    rows += [_row(option, name) for option in _TABLES[name].values()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _question_table() -> str:
    rows = [("question", "asks"), ("---", "---")]
    rows += [(f"`{question.name}`", question.text) for question in QUESTIONS.values()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(option: Option, name: str) -> tuple[str, ...]:
    second = (
        ", ".join(option.schemes) if name == "backend" else ", ".join(f"`{flag}`" for flag in _flags(option))
    )
    return (f"`{option.name}`", second, _takes(option), _default(option), option.help)


def _flags(option: Option) -> Iterator[str]:
    flag = flag_of(option.name)
    if option.kind is not Kind.FLAG:
        yield f"{flag} {metavar_of(option)}"
        return
    yield flag if not option.default else flag_of("no_" + option.name)
    if option.count_from is not None:
        yield f"{flag}=N"


def _takes(option: Option) -> str:
    if option.choices:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    return requirement(option).removesuffix(", or None") + (", or several" if option.repeats else "")


def _default(option: Option) -> str:
    text = shown_default(option)
    if option.default is None:
        return f"None: {text}"
    return f"`{text}`" if option.kind is Kind.CHOICE else text
