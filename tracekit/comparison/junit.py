"""The outcome of a comparison as JUnit XML, for CI systems that collect it."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

from tracekit.comparison.table import Parity, ParityRow
from tracekit.errors import UsageError
from tracekit.store.locate import local_path
from tracekit.whole import whole_file

__all__ = ["junit", "junit_path", "write_junit"]


def junit_path(name: str | os.PathLike[str]) -> Path:
    """The path of a JUnit file to write. Raises UsageError if its directory is missing, before anything has run."""
    path = local_path(name)
    if not path.parent.is_dir():
        raise UsageError(
            f"junit={path}: there is no directory {path.parent}", "make it, or give another file"
        )
    return path


def write_junit(parity: Parity, path: Path, *, name: str = "compare") -> None:
    """Write `junit(parity)` to `path`; the file appears whole."""
    with whole_file(path) as aside:
        aside.write_bytes(junit(parity, name=name))


def junit(parity: Parity, *, name: str = "compare") -> bytes:
    """One test case for each metric and gate: failed, passed, or skipped where it is not judged."""
    rows = (*parity.rows, *parity.gates)
    suite = ElementTree.Element(
        "testsuite",
        name=_plain(f"tracekit {name}"),
        tests=str(len(rows)),
        failures=str(len(parity.failed)),
        errors="0",
        skipped=str(sum(row.ok is None for row in rows)),
    )
    for row in rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"tracekit.{parity.kind}", name=_plain(row.metric)
        )
        if row.ok is None:
            ElementTree.SubElement(case, "skipped", message=_plain(row.note or "shown, not judged"))
        elif not row.ok:
            ElementTree.SubElement(case, "failure", message=_plain(_words(row)))
    ElementTree.SubElement(suite, "system-out").text = _plain("\n".join((*parity.verdict, parity.reason)))
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    written: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return written


def _words(row: ParityRow) -> str:
    found = f"{row.a} and {row.b} {row.unit}, difference {row.difference}, allowed {row.tolerance}"
    return f"{found}: {row.note}" if row.note else found


def _plain(text: str) -> str:
    """`text` without characters that XML cannot hold."""
    return "".join(
        c if c in "\t\n" or (c.isprintable() and c < "\ud800") or c > "\ue000" else "?" for c in text
    )
