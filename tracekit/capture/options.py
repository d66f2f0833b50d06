"""Every option of a captured command, of a capture in Python and of the recording proxy, described once."""

from __future__ import annotations

from tracekit.long_options import LONG_RUNNING
from tracekit.store_options import STORE
from tracekit.validation import Kind, Option, Table, table

__all__ = ["CAPTURE", "PROXY"]

CAPTURE: Table = {
    **table(
        "",
        Option(
            "include",
            Kind.TEXT,
            "Only files and objects that match. Turns the defaults off.",
            (),
            metavar="GLOB",
            repeats=True,
        ),
        Option(
            "exclude",
            Kind.TEXT,
            "Not these. Files of the system and the interpreter are left out by default.",
            (),
            metavar="GLOB",
            repeats=True,
        ),
        Option("metadata", Kind.FLAG, "Keep stat and list too: thousands for a Python program.", False),
        Option(
            "faults",
            Kind.FLAG,
            "Record the first touches of the pages of mapped files, where the kernel tells page faults.",
            True,
        ),
    ),
    **LONG_RUNNING,
    **table(
        "",
        Option(
            "require_complete",
            Kind.NUMBER,
            "Exit 1 unless this share of the bytes that the command moved is known to be recorded, such as 0.99.",
            unset="any share will do",
            metavar="SHARE",
            low=0,
            high=1,
        ),
        Option(
            "proxy",
            Kind.FLAG,
            "Lead the S3 and Azure clients of the command, in any language, to recording proxies, by its environment.",
            False,
        ),
        Option(
            "recover",
            Kind.FLAG,
            "Run nothing: make the trace from the logs that a killed capture left.",
            False,
        ),
        Option("overwrite", Kind.FLAG, "Replace an existing trace.", False),
    ),
}
"""Options of a captured command besides its method and hooks."""

PROXY: Table = {
    **table(
        "",
        Option(
            "upstream",
            Kind.TEXT,
            "The store that requests are sent to, as http://host:port or https://host.",
            unset="from the environment, else AWS",
            metavar="URL",
        ),
        Option("port", Kind.COUNT, "Port of 127.0.0.1; 0 takes a free one.", 0, low=0, high=65_535),
        Option(
            "include",
            Kind.TEXT,
            "Record only requests for what matches this glob.",
            (),
            metavar="GLOB",
            repeats=True,
        ),
        Option(
            "exclude", Kind.TEXT, "Do not record what matches this glob.", (), metavar="GLOB", repeats=True
        ),
    ),
    **{name: STORE[name] for name in ("region", "aws_profile", "account", "ca_bundle")},
    **table(
        "",
        Option("anonymous", Kind.FLAG, "Sign nothing again: pass requests on as they are signed.", False),
        Option("overwrite", Kind.FLAG, "Replace an existing trace.", False),
    ),
}
"""Options of the recording proxy."""
