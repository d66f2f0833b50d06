"""Gates: conditions such as `latency_p99<=1.2x` on any metric of a comparison or a snapshot."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from tracekit.comparison.divergence import Divergence, diverge
from tracekit.comparison.table import Parity, ParityRow, relative_difference
from tracekit.errors import ErrorClass, UsageError
from tracekit.metrics.snapshot import MetricsSnapshot
from tracekit.metrics.spreading import snapshot_on
from tracekit.store.reader import TraceReader
from tracekit.units import parse_duration, parse_size

__all__ = ["Gate", "check_gates", "parse_gates"]

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_GATE = re.compile(r"\s*([A-Za-z][\w.]*)\s*(<=|>=|==|!=|<|>)\s*(\S.*?)\s*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
_SHORT = {"throughput": "throughput_bytes_per_s", "duration": "duration_ns"}


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition. `ratio`: `limit` is a multiple of the value in the first trace."""

    text: str
    metric: str
    comparison: str
    limit: float
    ratio: bool


def parse_gates(texts: Iterable[str]) -> tuple[Gate, ...]:
    """Parse conditions `METRIC OPERATOR VALUE`.

    VALUE is a number, a ratio to the first trace (`1.2x`), a percentage (`5%`), a duration
    (`20ms`) or a size (`64KiB`). Raises UsageError for anything else.
    """
    return tuple(_parsed(text) for text in texts)


def check_gates(
    gates: Sequence[Gate],
    parity: Parity,
    a: TraceReader,
    b: TraceReader,
    *,
    on: str | None = None,
    hosts: int | None = None,
) -> tuple[ParityRow, ...]:
    """Evaluate `gates`; one row each. Raises UsageError for a metric that does not exist.

    A metric that is unknown in a trace does not pass. With a place `on`, its hosts measure the traces.
    """
    pairs: dict[str, tuple[float | None, float | None, str]] = {}
    for metric, of_b in _divergence(diverge(a, b, on=on, hosts=hosts)).items():
        pairs[metric] = (None, of_b, "")
    of_a, of_b_ = (_snapshot(snapshot_on(reader, on=on, hosts=hosts)) for reader in (a, b))
    for metric in of_a | of_b_:
        pairs[metric] = (of_a.get(metric), of_b_.get(metric), _unit_of(metric))
    for row in parity.rows:
        pairs[row.metric] = (row.a, row.b, row.unit)
    return tuple(_checked(gate, pairs) for gate in gates)


def _parsed(text: str) -> Gate:
    match = _GATE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"judge={text!r} is not a condition", "write METRIC<=VALUE, such as latency_p99<=1.2x"
        )
    metric, comparison, value = match.groups()
    metric = _SHORT.get(metric, metric)
    number = _NUMBER.fullmatch(value)
    if number is not None:
        return Gate(text, metric, comparison, float(value), False)
    if value.endswith(("x", "%")) and _NUMBER.fullmatch(value[:-1].strip()):
        limit = float(value[:-1]) / (100 if value.endswith("%") else 1)
        return Gate(text, metric, comparison, limit, value.endswith("x"))
    return Gate(text, metric, comparison, float(_quantity(text, value)), False)


def _quantity(text: str, value: str) -> int:
    for parse in (parse_duration, parse_size):
        try:
            return parse(value)
        except UsageError:
            continue
    raise UsageError(
        f"judge={text!r}: {value!r} is not a value",
        "give a number, a ratio (1.2x), a duration (20ms) or a size (64KiB)",
    )


def _checked(gate: Gate, pairs: Mapping[str, tuple[float | None, float | None, str]]) -> ParityRow:
    if gate.metric not in pairs:
        near = get_close_matches(gate.metric, pairs, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(pairs))}"
        raise UsageError(f"judge={gate.text!r}: there is no metric {gate.metric!r}", hint)
    a, b, unit = pairs[gate.metric]
    value = b
    if gate.ratio:
        value = None if a is None or b is None else 1.0 if a == b else b / a if a else float("inf")
    holds = value is not None and _OPERATORS[gate.comparison](value, gate.limit)
    note = "" if value is not None else "the value is unknown"
    return ParityRow(gate.text, unit, a, b, relative_difference(a, b), holds, gate.limit, note)


def _snapshot(found: MetricsSnapshot) -> dict[str, float | None]:
    """Every number of a snapshot by name; latencies and response times in ns, as `latency_p99`."""
    values: dict[str, float | None] = {}
    for name, value in found.to_dict().items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            continue
        values[name] = value
    for what, times in (("latency", found.latency_us), ("response", found.response_us)):
        for name, us in times.items():
            values[f"{what}_{name}"] = values[f"{what}_{name}_ns"] = None if us is None else us * 1e3
    return {
        **values,
        **found.backend_counters,
        **dict.fromkeys((str(error) for error in ErrorClass), 0),
        **_failures(found),
    }


def _failures(found: MetricsSnapshot) -> dict[str, float]:
    total: dict[str, float] = {}
    for row in found.by_op:
        if row["error"] is not None:
            total[row["error"]] = total.get(row["error"], 0) + row["ops"]
    return total


def _divergence(moved: Divergence) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for distance in moved.distances:
        values[f"{distance.metric}_ks"] = distance.ks
        values[f"{distance.metric}_wasserstein"] = distance.wasserstein
    for shift in moved.quantiles:
        values[f"latency_p{shift.quantile * 100:g}_shift_ns"] = shift.b_ns - shift.a_ns
    return values


def _unit_of(metric: str) -> str:
    if metric.endswith("_ns") or metric.startswith(("latency_", "response_")):
        return "ns"
    if metric.endswith("bytes_per_s"):
        return "bytes/s"
    return "bytes" if "bytes" in metric or metric == "peak_inflight" else "count"
