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
    last: dict[str, int] = {}  # number of each target: several objects may map to one
    for rows in parts:
        more = _targets(plan, rules, len(targets))
        last.update((target, code) for code, target in enumerate(more, len(targets)))
        targets += more
        yield _part(plan, rows, targets, None if len(last) == len(targets) else _codes(targets, last))


def _codes(targets: list[str], last: dict[str, int]) -> np.ndarray:
    """The number of the target of each recorded URI, and at the end that of none."""
    return np.array([*(last[target] for target in targets), NONE], np.int64)


def _targets(plan: Plan, rules: MappingRules, known: int) -> list[str]:
    """The targets of the recorded URIs from number `known` on."""
    more = plan.sources[known:]
    return rules.apply_all(more, shared=True) if more else []


def _part(plan: Plan, rows: slice, targets: list[str], codes: np.ndarray | None) -> PlannedOps:
    columns = {name: values[rows].copy() for name, values in plan.columns.items()}
    if codes is not None:
        for name in ("file", "to_file"):
            columns[name] = np.where(columns[name] < 0, columns[name], codes[columns[name]])
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
