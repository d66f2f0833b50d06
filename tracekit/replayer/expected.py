"""The plan of a finished replay, made again from the recording for its judgement."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracekit.comparison.planned import PlannedOps
from tracekit.replayer.kinds import KINDS, READS, code_of
from tracekit.replayer.mapping import MappingRules, parse_rules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import NONE, Plan
from tracekit.replayer.planning import plan_parts
from tracekit.store.reader import TraceReader

__all__ = ["planned_ops"]

_PART_OPS = 1_000_000


def planned_ops(reader: TraceReader, options: ReplayOptions) -> Iterator[PlannedOps]:
    """The ops that a replay of `reader` with `options` has to issue, part by part.

    Raises what `build_plan` raises of the same arguments.
    """
    rules = parse_rules(options.map)
    plan, parts = plan_parts(reader, rules, options, least=_PART_OPS)
    targets: list[str] = []
    for rows in parts:
        targets += _targets(plan, rules, len(targets))
        yield _part(plan, rows, targets)


def _targets(plan: Plan, rules: MappingRules, known: int) -> list[str]:
    """The targets of the recorded URIs from number `known` on."""
    more = plan.sources[known:]
    return rules.apply_all(more) if more else []


def _part(plan: Plan, rows: slice, targets: list[str]) -> PlannedOps:
    columns = {name: values[rows].copy() for name, values in plan.columns.items()}
    placed = (columns["kind"] < len(READS)) | np.isin(columns["kind"], [code_of("write"), code_of("part")])
    columns["offset"][~placed] = NONE
    unknown = (columns["recorded_bytes"] == NONE) & (columns["length"] == NONE)
    return PlannedOps(
        first=rows.start,
        targets=targets,
        kinds=KINDS,
        error_classes=tuple(plan.error_classes),
        due_ns=columns["due_ns"],
        file=columns["file"],
        kind=columns["kind"],
        offset=columns["offset"],
        length=columns["length"],
        moves=np.where(unknown, NONE, plan.moves(rows)),
        latency=columns["recorded_latency"],
        sample_id=columns["sample_id"],
        step=columns["step"],
        rank=columns["rank"],
        worker=columns["worker"],
        part=columns["part"],
        to_file=columns["to_file"],
        error=columns["recorded_error"],
    )
