"""The options of what runs on many hosts: joining traces, replaying as many clients and from many hosts. `options` has the others."""

from __future__ import annotations

from typing import get_args

from tracekit.keywords import RankRule, Split
from tracekit.validation import Kind, Option, Table, table

__all__ = ["CLIENTS", "MERGE", "SCALE"]

CLIENTS = Option(
    "clients",
    Kind.COUNT,
    "As this many clients, each with ranks of its own; {client} in a target of `map` is its number, from 0.",
    1,
    low=1,
    high=4096,
)

SCALE: Table = table(
    "Many clients, many hosts",
    CLIENTS,
    Option("stagger", Kind.DURATION, "Start each client this long after the one before.", 0),
    Option(
        "stagger_phase",
        Kind.NUMBER,
        "Start each client this share of the recording after the one before: 0.25 spreads four over its length.",
        0.0,
        low=0,
        high=1,
    ),
    Option(
        "on",
        Kind.TEXT,
        "Replay from the nodes of a Ray cluster (ray, ray://HOST:PORT; needs the extra scale), or from processes of this machine "
        "(local), each of them a host.",
        unset="from this process",
        metavar="WHERE",
    ),
    Option("hosts", Kind.COUNT, "From this many hosts.", unset="all nodes; one process", low=1, high=65_536),
    Option(
        "split",
        Kind.CHOICE,
        "What stays on one host: a rank, a stream, streams that use a file in common (file), or what a hash of each stream and "
        "of its begin says (time-hash).",
        "rank",
        choices=get_args(Split),
    ),
)
"""Options of a replay as many clients, and from many hosts."""

MERGE: Table = table(
    "",
    Option(
        "offset",
        Kind.TEXT,
        "Add TIME, such as -250us, to the clock of a host or of a trace (its path or file name).",
        (),
        metavar="NAME=TIME",
        repeats=True,
    ),
    Option(
        "clock_error",
        Kind.DURATION,
        "By how much the clock of a host may be wrong after its offset.",
        unset="what the traces state",
    ),
    Option(
        "ranks",
        Kind.CHOICE,
        "Keep the ranks, and number those anew that an earlier trace has (auto); keep all (keep); or number all ranks "
        "from 0 in the order of the traces (assign).",
        "auto",
        choices=get_args(RankRule),
    ),
    Option("overwrite", Kind.FLAG, "Replace an existing trace.", False),
)
"""Options of a merge."""
