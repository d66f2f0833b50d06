"""The options of a recording that runs for long: what it keeps, and where it goes.

Imports no library, because every Python process of a captured command reads them when it starts.
"""

from __future__ import annotations

from tracekit.validation import Kind, Option, Table, table

__all__ = ["KEEPING", "LONG_RUNNING"]

KEEPING: Table = table(
    "",
    Option(
        "keep",
        Kind.SIZE,
        "Keep the trace below this size on disk: the oldest segments are removed, and the trace says so.",
        unset="no limit",
        low=1,
    ),
    Option(
        "ship",
        Kind.TEXT,
        "Copy each finished segment to this URI, a file or an object store, in the background.",
        unset="nowhere",
        metavar="URI",
    ),
)
"""Options of a recorder that runs for long."""

LONG_RUNNING: Table = {
    **table(
        "",
        Option(
            "sample_rate",
            Kind.NUMBER,
            "Record this share of the files and objects, chosen by a hash of their names, each with all its ops.",
            1.0,
            metavar="SHARE",
            above=0,
            high=1,
        ),
        Option(
            "sample_by",
            Kind.CHOICE,
            "What `sample_rate` chooses from: files and objects, or streams (rank and worker).",
            "file",
            metavar="WHAT",
            choices=("file", "stream"),
        ),
    ),
    **KEEPING,
    **table(
        "",
        Option(
            "max_overhead",
            Kind.NUMBER,
            "Warn if recording takes more than this share of the CPU time of a process, as measured while it runs.",
            0.05,
            metavar="SHARE",
            above=0,
            high=1,
        ),
    ),
}
"""The same, and which files are recorded at all."""
