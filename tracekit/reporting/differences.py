"""The chapter of a page of two traces that comes first: what differs, and whether that is allowed."""

from __future__ import annotations

from tracekit.comparison.divergence import Divergence
from tracekit.comparison.table import Parity
from tracekit.reporting.chapters import Chapter
from tracekit.reporting.html import safe, section, table
from tracekit.reporting.table import brief, difference, label, shown

__all__ = ["differences"]

_COMMAND = "The same numbers: tracekit compare."


def differences(parity: Parity, moved: Divergence, names: tuple[str, str]) -> Chapter:
    """The chapter: parity with its failures first, then shifts, windows and files that differ most."""
    chapter = Chapter("differences", "Differences")
    columns = [safe(name) for name in names]
    _add(chapter, "parity", "Parity", _about(parity), _parity(parity, columns))
    if moved.quantiles:
        rows = [
            [
                f"p{100 * q.quantile:g}",
                shown(q.a_ns, "ns"),
                shown(q.b_ns, "ns"),
                f"{shown(q.shift_lo_ns, 'ns')} to {shown(q.shift_hi_ns, 'ns')}",
            ]
            for q in moved.quantiles
        ]
        about = f"Latency quantiles, and the 95 % interval of the shift. {_COMMAND}"
        made = table(["quantile", *columns, "shift"], rows, numbers={1, 2, 3}, label="Latency shift")
        _add(chapter, "shifts", "Latency shift", about, made)
    for kind, name, places in (
        ("Windows", "windows-differ", moved.windows),
        ("Files", "files-differ", moved.files),
    ):
        if places:
            rows = [
                [
                    safe(brief(p.where, 120)),
                    shown(p.a_ops, "count"),
                    shown(p.b_ops, "count"),
                    shown(p.a_bytes, "bytes"),
                    shown(p.b_bytes, "bytes"),
                    shown(p.a_p50_ns, "ns"),
                    shown(p.b_p50_ns, "ns"),
                ]
                for p in places
            ]
            heads = ["where", *(f"{what}, {one}" for what in ("ops", "bytes", "p50") for one in columns)]
            title = f"{kind} that differ most"
            made = table(heads, rows, numbers=set(range(1, 7)), label=title)
            _add(chapter, name, title, f"By bytes and median latency, worst first. {_COMMAND}", made)
    return chapter


def _about(parity: Parity) -> str:
    basis = {"replay": "judged op by op", "runs": "compared as two runs"}[parity.kind]
    about = f"{basis}: {parity.reason}" if parity.reason else basis
    return f"{about.capitalize()}. Failures first. {_COMMAND}"


def _parity(parity: Parity, columns: list[str]) -> str:
    words = {True: '<span class="pass">pass</span>', False: '<span class="fail">FAIL</span>', None: "-"}
    cells = [
        [safe(label(row)), shown(row.a, row.unit), shown(row.b, row.unit), difference(row), words[row.ok]]
        for row in sorted((*parity.rows, *parity.gates), key=lambda row: row.ok is not False)
    ]
    return table(["metric", *columns, "difference", "verdict"], cells, numbers={1, 2, 3}, label="Parity")


def _add(chapter: Chapter, name: str, title: str, about: str, inner: str) -> None:
    chapter.panels.append((name, title, section(name, title, about, inner)))
