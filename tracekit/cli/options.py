"""Arguments that several verbs share, and how sizes and durations are taken from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracekit.units import parse_duration, parse_size

__all__ = ["JsonOption", "OverwriteOption", "TraceArgument", "duration", "size"]

TraceArgument = Annotated[Path, typer.Argument(metavar="TRACE", help="A trace directory or Parquet file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]


def size(name: str, text: str | None) -> int | None:
    """Bytes of an option such as `64KiB`; None stays None. Raises UsageError naming `name`."""
    return None if text is None else parse_size(text, name=name)


def duration(name: str, text: str | None) -> int | None:
    """ns of an option such as `500ms`; None stays None. Raises UsageError naming `name`."""
    return None if text is None else parse_duration(text, name=name)
