"""The pages that `tracekit serve` shows: the report of a trace with a query box, and a list of traces."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from tracekit.questions.ask import QUESTIONS
from tracekit.reporting.page import report
from tracekit.store.reader import TraceLike, TraceReader, open_reader

__all__ = ["Pages"]


class Pages:
    """The pages over some traces. A report is made when it is first asked for, and again when its trace has grown."""

    def __init__(self, traces: Sequence[TraceLike]) -> None:
        self._traces = [(trace, str(open_reader(trace).path)) for trace in traces]
        self._made: dict[int, tuple[int, str]] = {}
        self._lock = threading.Lock()

    def reader(self, number: int) -> TraceReader:
        """Open trace `number` anew, as it is now. Raises TraceFormatError if it cannot be read."""
        return open_reader(self._traces[number][0])

    def __len__(self) -> int:
        return len(self._traces)

    def listing(self) -> str:
        """The page that lists the traces."""
        items = "".join(
            f'<li><a href="/trace/{number}">{escape(name)}</a></li>'
            for number, (_, name) in enumerate(self._traces)
        )
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>tracekit serve</title>'
            f"<style>{_part('listing.css')}</style></head><body><main><h1>Traces</h1><ul>{items}</ul></main></body></html>\n"
        )

    def trace(self, number: int, token: str) -> str:
        """The report of trace `number`, with a query box that sends `token`."""
        box = _part("box.html").replace("/* questions */", _as_script(_questions()))
        box = box.replace("/* token */", _as_script(token)).replace("/* trace */", _as_script(number))
        before, end, after = self._report(number).rpartition("</main>")
        return f"{before}{box}{end}{after}"

    def _report(self, number: int) -> str:
        with self._lock:
            reader = self.reader(number)
            rows, page = self._made.get(number, (-1, ""))
            if rows != reader.rows:
                with tempfile.TemporaryDirectory(prefix="tracekit-serve-") as folder:
                    out = Path(folder) / "page.html"
                    report(reader, out)
                    page = out.read_text(encoding="utf-8")
                self._made[number] = (reader.rows, page)
            return page


def _questions() -> dict[str, dict[str, str]]:
    return {name: {"text": each.text, "sql": each.sql()} for name, each in QUESTIONS.items()}


def _as_script(value: object) -> str:
    """JSON that may stand in a script: no end of a script or comment is in it."""
    return json.dumps(value).replace("<", "\\u003c")


def _part(name: str) -> str:
    return files("tracekit.serving").joinpath(name).read_text(encoding="utf-8")
