"""Makes text of others safe to show on a terminal.

Names in a trace and messages of a server may hold control characters, which can move the cursor, set the
title or hide text. `cli.screen` passes everything that it prints for people through `printable`.
"""

from __future__ import annotations

import re

__all__ = ["printable"]

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but for tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional marks, embeddings, overrides, isolates
    "\u2028\u2029\ufeff\ud800-\udfff]"  # line separators, byte order mark, lone surrogates
)


def printable(text: str) -> str:
    r"""Return `text` with control and bidirectional characters as `\x1b` or `\u202e`; newlines and tabs stay."""
    return _UNSAFE.sub(
        lambda match: (
            match[0].encode("ascii", "backslashreplace").decode()
            if ord(match[0]) > 127
            else f"\\x{ord(match[0]):02x}"
        ),
        text,
    )
