"""The part of a plan that one host replays, and what every host knows of the whole.

Each host makes the plan of the whole trace, part by part, and keeps the rows of its own streams: due times, assumed offsets and the
numbers of the ops are those of the whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np

from tracekit.replayer.clients import client_and_uri
from tracekit.replayer.columns import COMPLETE, READY, SharedColumns
from tracekit.replayer.depend import dependencies_of
from tracekit.replayer.kinds import READS
from tracekit.replayer.mapping import MappingRules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import COLUMNS, Plan
from tracekit.replayer.planning import plan_parts
from tracekit.scale.slicing import Stream
from tracekit.store.reader import TraceReader
from tracekit.store.totals import stream_keys

__all__ = ["PlanPart", "Whole", "changed_elsewhere", "part_of", "stand_in", "whole_of"]

_SEVERAL = -1


@dataclass(slots=True)
class Whole:
    """What is known of the plan of all hosts: its ops, and what was skipped and assumed."""

    ops: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    assumed_offsets: int = 0
    assumed_lengths: int = 0


@dataclass(slots=True)
class PlanPart:
    """The plan of one host; `numbers` has the number of each of its ops in the plan of the whole."""

    plan: Plan
    numbers: np.ndarray
    whole: Whole


def part_of(
    reader: TraceReader, rules: MappingRules, options: ReplayOptions, streams: Collection[Stream]
) -> PlanPart:
    """Make the part of the plan that has the ops of `streams`. Raises what `build_plan` raises."""
    whole, parts = plan_parts(reader, rules, options)
    keys = _keys_of(streams)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    numbers: list[np.ndarray] = []
    for rows in parts:
        mine = np.flatnonzero(np.isin(_keys(whole, rows), keys))
        numbers.append(mine + rows.start)
        for name in COLUMNS:
            kept[name].append(whole.columns[name][rows][mine])
    columns = {name: np.concatenate([np.zeros(0, COLUMNS[name]), *values]) for name, values in kept.items()}
    return PlanPart(
        _filled(columns, whole, options), np.concatenate([np.zeros(0, np.int64), *numbers]), _facts(whole)
    )


def whole_of(reader: TraceReader, rules: MappingRules, options: ReplayOptions) -> Whole:
    """Make the plan only to learn what every host knows of it. Raises what `build_plan` raises."""
    whole, parts = plan_parts(reader, rules, options)
    for _ in parts:
        pass
    return _facts(whole)


def _facts(plan: Plan) -> Whole:
    return Whole(plan.ops, plan.skipped, plan.assumed_offsets, plan.assumed_lengths)


def stand_in(whole: Whole) -> Plan:
    """Return a plan that says what is known of the whole, and has no rows."""
    plan = Plan(SharedColumns(COLUMNS, 1), (), (), dict(whole.skipped))
    plan.assumed_offsets, plan.assumed_lengths = whole.assumed_offsets, whole.assumed_lengths
    plan.shared.header[READY] = whole.ops
    return plan


def _filled(columns: dict[str, np.ndarray], whole: Plan, options: ReplayOptions) -> Plan:
    """Return a plan of these rows, with the files that they use and no others."""
    used = np.union1d(columns["file"], columns["to_file"][columns["to_file"] >= 0])
    for name in ("file", "to_file"):
        known = columns[name] >= 0
        columns[name][known] = np.searchsorted(used, columns[name][known])
    rows = len(columns["file"])
    plan = Plan(
        SharedColumns(COLUMNS, rows),
        tuple(whole.uris[code] for code in used.tolist()),
        tuple(whole.sources[code] for code in used.tolist()),
        rounds=whole.rounds,
        max_gap_ns=whole.max_gap_ns,
        error_classes=whole.error_classes,
    )
    for name, values in columns.items():
        plan.columns[name][:rows] = values
    plan.shared.header[READY], plan.shared.header[COMPLETE] = rows, 1
    if plan.changes and options.order == "resource":
        plan.order = dependencies_of(plan)
    return plan


def changed_elsewhere(
    reader: TraceReader, rules: MappingRules, options: ReplayOptions, hosts: Collection[Collection[Stream]]
) -> str | None:
    """Return an object that one host changes and another uses, so that no host can keep the order; None if there is none."""
    plan, parts = plan_parts(reader, rules, options)
    keys = [_keys_of(streams) for streams in hosts]
    changed: set[int] = set()
    user: dict[int, int] = {}  # the host that uses a file, _SEVERAL for more than one
    for rows in parts:
        of_op = _keys(plan, rows)
        found = {name: plan.columns[name][rows] for name in ("file", "to_file", "kind")}
        for host, mine in enumerate(keys):
            for code, changes in _touched(found, np.isin(of_op, mine)):
                user[code] = host if user.get(code, host) == host else _SEVERAL
                if changes:
                    changed.add(code)
                if code in changed and user[code] == _SEVERAL:
                    return client_and_uri(plan.sources[code])[1]
    return None


def _touched(found: dict[str, np.ndarray], own: np.ndarray) -> Iterator[tuple[int, bool]]:
    """Yield the files that the chosen ops use, and whether they change them."""
    changing = own & (found["kind"] >= len(READS))
    second = changing & (found["to_file"] >= 0)
    for code in np.unique(found["file"][own & ~changing]).tolist():
        yield code, False
    for code in np.union1d(found["file"][changing], found["to_file"][second]).tolist():
        yield code, True


def _keys(plan: Plan, rows: slice) -> np.ndarray:
    return stream_keys(plan.columns["rank"][rows], plan.columns["worker"][rows])


def _keys_of(streams: Collection[Stream]) -> np.ndarray:
    pairs = np.array(sorted(streams), np.int64).reshape(-1, 2)
    return stream_keys(pairs[:, 0], pairs[:, 1])
