"""Reads the times of other tools' logs."""

from __future__ import annotations

import re
from datetime import datetime

__all__ = ["iso_ns"]

_ISO = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)", re.ASCII)


def iso_ns(text: object) -> int:
    """Return the ns since the Unix epoch of an RFC 3339 time with a zone. Raises ValueError if it is not one."""
    found = _ISO.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"its time cannot be read: {str(text)[:40]!r}")
    whole = datetime.fromisoformat(found[1] + ("+00:00" if found[3] == "Z" else found[3]))
    return int(whole.timestamp()) * 10**9 + int((found[2] or "0").ljust(9, "0"))
