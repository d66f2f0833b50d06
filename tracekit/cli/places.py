"""Where the queries of a verb run: its options, and the advice to use more than one machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from tracekit.cli import screen
from tracekit.units import format_count

__all__ = ["LONG_S", "HostsOption", "OnOption", "advising"]

LONG_S = 60.0
"""From here on, starting a cluster pays: Ray needs some seconds."""

OnOption = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="WHERE",
        help="Query the trace from the nodes of a Ray cluster (ray, ray://HOST:PORT; needs the extra scale) or from processes of "
        "this machine (local). The figures are the same. Default: from this process.",
    ),
]
HostsOption = Annotated[
    int | None,
    typer.Option(
        "--hosts",
        metavar="N",
        help="On this many at a time. Default: all nodes, or one process for each core.",
    ),
]


@contextmanager
def advising(on: str | None, ops: Callable[[], int], what: str) -> Iterator[None]:
    """Say afterwards that it would pay to go out, if the work on `ops` ops took long on this machine alone."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    if on is None and took > LONG_S:
        screen.note(f"{format_count(ops())} ops took {took:.0f} s on this machine; --on ray {what}")
