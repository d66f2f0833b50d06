"""Arguments that several verbs share, and how sizes and durations are taken from them."""

from __future__ import annotations

from typing import Annotated

import typer

from tracekit.cli.arguments import JsonOption, OverwriteOption, TraceArgument, examples
from tracekit.units import parse_duration, parse_size

__all__ = [
    "AccountOption",
    "AnonymousOption",
    "ClientOption",
    "EndpointOption",
    "JsonOption",
    "OverwriteOption",
    "RegionOption",
    "RetriesOption",
    "TimeoutOption",
    "TraceArgument",
    "duration",
    "examples",
    "size",
]

_STORE = "Object stores"
ClientOption = Annotated[
    str | None,
    typer.Option(
        "--client", metavar="NAME", help="Client library; see docs/backends.md.", rich_help_panel=_STORE
    ),
]
EndpointOption = Annotated[
    str | None, typer.Option("--endpoint", metavar="URL", help="Endpoint URL.", rich_help_panel=_STORE)
]
RegionOption = Annotated[
    str | None, typer.Option("--region", metavar="NAME", help="Region (s3).", rich_help_panel=_STORE)
]
AccountOption = Annotated[
    str | None,
    typer.Option("--account", metavar="NAME", help="Storage account (az).", rich_help_panel=_STORE),
]
AnonymousOption = Annotated[
    bool | None,
    typer.Option(
        "--anonymous/--no-anonymous", help="Sign no request.", rich_help_panel=_STORE, show_default=False
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout-s", metavar="X", help="Seconds to wait for the next byte.", rich_help_panel=_STORE
    ),
]
RetriesOption = Annotated[
    int | None,
    typer.Option(
        "--retries", metavar="N", help="How often a failed request is sent again.", rich_help_panel=_STORE
    ),
]


def size(name: str, text: str | None) -> int | None:
    """Bytes of an option such as `64KiB`; None stays None. Raises UsageError naming `name`."""
    return None if text is None else parse_size(text, name=name)


def duration(name: str, text: str | None) -> int | None:
    """ns of an option such as `500ms`; None stays None. Raises UsageError naming `name`."""
    return None if text is None else parse_duration(text, name=name)
