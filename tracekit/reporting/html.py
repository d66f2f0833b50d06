"""The parts of the page as HTML. Every text is escaped here: names in a trace may be hostile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from os.path import commonprefix

from tracekit.printable import printable
from tracekit.questions.words import heading, in_words
from tracekit.reporting.listings import is_number
from tracekit.reporting.panel import Listing, Panel
from tracekit.reporting.table import brief

__all__ = ["banner", "chart", "definitions", "listing_section", "safe", "section", "sql_block", "table"]

_LONGEST = 120
"""Characters of a name in a table: both ends of a longer one are shown."""
_LONG_FOLDER = 12
_SEARCHED = 15
"""Rows from which on a table can be filtered."""


def safe(text: str) -> str:
    """`text` for HTML, with its control and direction characters visible."""
    return escape(printable(text))


def banner(kind: str, words: str, more: str = "") -> str:
    """A verdict: `good`, `bad` or `open`."""
    return f'<p class="verdict {kind}" role="status"><strong>{safe(words)}</strong>{safe(more)}</p>'


def section(name: str, title: str, about: str, inner: str) -> str:
    """One panel with its anchor."""
    said = f'<p class="about">{safe(about)}</p>' if about else ""
    return f'<section class="panel" id="{name}"><h3><a href="#{name}">{safe(title)}</a></h3>{said}{inner}</section>'


def sql_block(sql: Sequence[str], *, hint: str = "") -> str:
    """The queries behind a panel, each with a button that copies it."""
    if not sql:
        return ""
    blocks = "".join(
        '<div class="query"><button type="button" class="copy">Copy</button>'
        f'<pre tabindex="0" aria-label="SQL"><code>{safe(text)}</code></pre></div>'
        for text in sql
    )
    return f'<details class="sql"><summary>SQL</summary>{f"<p>{safe(hint)}</p>" if hint else ""}{blocks}</details>'


def chart(panel: Panel) -> str:
    """The place of a picture, which the script of the page draws."""
    about = f"{panel.about} {panel.note[0].upper()}{panel.note[1:]}." if panel.note else panel.about
    inner = (
        f'<figure role="img" aria-label="{safe(panel.title)}" aria-describedby="a-{panel.name}">'
        f'<figcaption id="a-{panel.name}">{safe(about)}</figcaption>'
        f'<div class="chart" id="chart-{panel.name}"></div></figure>{sql_block(panel.sql)}'
    )
    return section(panel.name, panel.title, "", inner)


def listing_section(found: Listing) -> str:
    """A table of a shipped query: sortable, and with a filter if it is long."""
    about = f"{found.about} {found.note[0].upper()}{found.note[1:]}." if found.note else found.about
    long = len(found.rows) >= _SEARCHED
    search = (
        f'<p class="filter"><label>Filter <input type="search" data-table="t-{found.name}" autocomplete="off"></label> '
        f'<output aria-live="polite">{len(found.rows)} rows</output></p>'
        if long
        else ""
    )
    folder = _common(found)
    if folder:
        about += f" …/ stands for {brief(folder, _LONGEST)}"
    numbers = [is_number([row[i] for row in found.rows]) for i in range(len(found.columns))]
    kinds = [
        ' class="n"' if numbers[i] else ' class="u"' if name.endswith(("uri", "key")) else ""
        for i, name in enumerate(found.columns)
    ]
    head = "".join(
        f'<th scope="col"{kinds[i]}><button type="button" class="sort">{safe(heading(name))}</button></th>'
        for i, name in enumerate(found.columns)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{kinds[i]}{_sorted(value) if numbers[i] else ''}>{safe(brief(_short(in_words(name, value), name, folder), _LONGEST))}</td>"
            for i, (name, value) in enumerate(zip(found.columns, row, strict=True))
        )
        + "</tr>"
        for row in found.rows
    )
    made = f'<table id="t-{found.name}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    tall = " tall" if long else ""
    inner = f'{search}<div class="scroll{tall}" tabindex="0" role="region" aria-label="{safe(found.title)}">{made}</div>'
    return section(found.name, found.title, about, inner + sql_block(found.sql))


def _common(found: Listing) -> str:
    """The folder of all names in a table, with its slash, if it is long and the same."""
    names = {
        value
        for row in found.rows
        for column, value in zip(found.columns, row, strict=True)
        if column.endswith("uri") and value
    }
    if len(names) < 2:
        return ""
    folder = commonprefix(list(names)).rpartition("/")[0]  # noqa: RUF071 - cut at a slash here
    return f"{folder}/" if len(folder) > _LONG_FOLDER else ""


def _short(text: str, column: str, folder: str) -> str:
    return (
        f"…/{text.removeprefix(folder)}"
        if folder and column.endswith("uri") and text.startswith(folder)
        else text
    )


def _sorted(value: object) -> str:
    """The value by which a row is sorted; unknown values come last."""
    return "" if value is None else f' data-v="{value}"'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: set[int], label: str) -> str:
    """A plain table of cells that are HTML."""
    kinds = [' class="n"' if i in numbers else "" for i in range(len(columns))]
    head = "".join(f'<th scope="col"{kinds[i]}>{name}</th>' for i, name in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(f"<td{kinds[i]}>{value}</td>" for i, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    inner = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{safe(label)}">{inner}</div>'


def definitions(found: Sequence[tuple[str, Mapping[str, str]]], *, kind: str) -> str:
    """A list of named facts, each with the value of every trace; `kind` is its CSS class."""
    names = dict.fromkeys(name for _, facts in found for name in facts)
    rows = "".join(
        f"<div><dt>{safe(name)}</dt>"
        + "".join(
            f"<dd>{f'<span>{safe(trace)}</span> ' if trace else ''}{safe(brief(facts.get(name, '-'), 2 * _LONGEST))}</dd>"
            for trace, facts in found
        )
        + "</div>"
        for name in names
    )
    return f'<dl class="{kind}">{rows}</dl>'
