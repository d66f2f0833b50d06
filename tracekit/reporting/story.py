"""The run in sentences, with its numbers: what was read, how long storage was the limit, and what was worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracekit.metrics.snapshot import MetricsSnapshot
from tracekit.reporting.identity import origin
from tracekit.reporting.source import Source
from tracekit.reporting.table import brief, counted, estimated, op_kinds, shown
from tracekit.units import format_duration, format_rate, format_size

__all__ = ["Busy", "Consumer", "busy", "consumer", "paragraph", "stalls"]

_NAME = 70


@dataclass(frozen=True, slots=True)
class Busy:
    """How long an op was in flight, and how long none; None if no op has a latency."""

    span_ns: int
    busy_ns: int | None
    idle_ns: int | None
    gaps: int
    longest_ns: int | None


@dataclass(frozen=True, slots=True)
class Consumer:
    """What the consumer of a loader did, added over ranks: it waited for batches, and computed."""

    wait_ns: int
    think_ns: int
    first_wait_ns: int

    @property
    def saved_ns(self) -> int:
        """What a loader would save that always had the next batch ready: all waits but for the first batches."""
        return max(self.wait_ns - self.first_wait_ns, 0)


def busy(source: Source) -> Busy:
    """Measure how long storage was asked for something."""
    (row,) = source.file("busy")
    return Busy(row["span_ns"] or 0, row["busy_ns"], row["idle_ns"], row["gaps"], row["longest_ns"])


def consumer(counters: Mapping[str, int]) -> Consumer | None:
    """Read the counters of a loader's consumer; None if the trace has none."""
    if not counters.get("consumer_batches"):
        return None
    names = ("consumer_wait_ns", "consumer_think_ns", "consumer_first_wait_ns")
    return Consumer(*(counters.get(name, 0) for name in names))


def paragraph(source: Source, found: MetricsSnapshot) -> list[str]:
    """The sentences about one trace, plain text."""
    if not found.ops:
        return [f"{origin(source.reader)}. It has no ops."]
    (worst,) = source.file("worst")
    said = [
        f"{origin(source.reader)}: {counted(found.ops, 'op')} ({op_kinds(found)}) in {format_duration(found.duration_ns)}, "
        f"by {counted(worst['streams'], 'stream')} of {counted(worst['ranks'], 'rank')}, on {counted(found.files, 'file')}.",
        _moved(found),
        ""
        if found.estimates is None
        else f"This is a sample; the whole run, estimated {estimated(found.estimates)}.",
        _storage(busy(source)),
        _waiting(source, consumer(source.reader.counters)),
        _latency(found),
        *_worst(worst),
        _endings(found),
    ]
    return [sentence for sentence in said if sentence]


def stalls(source: Source) -> dict[str, str]:
    """The figures of the chapter about stalls, by name."""
    time, eaten = busy(source), consumer(source.reader.counters)
    share = _share(time.idle_ns, time.span_ns)
    figures = {
        "an op in flight": "unknown"
        if time.busy_ns is None
        else f"{format_duration(time.busy_ns)}{_share(time.busy_ns, time.span_ns)}",
        "nothing in flight": "unknown"
        if time.idle_ns is None
        else f"{format_duration(time.idle_ns)}{share}, {counted(time.gaps, 'gap')}",
    }
    if eaten is None:
        figures["the consumer waited"] = "unknown: the trace has no counters of a consumer"
        if time.busy_ns is not None and time.idle_ns is not None:
            figures["an ideal loader would save"] = (
                f"at most {format_duration(min(time.busy_ns, time.idle_ns))}"
            )
        return figures
    figures["the consumer waited"] = (
        f"{format_duration(eaten.wait_ns)}{_share(eaten.wait_ns, eaten.wait_ns + eaten.think_ns)}"
    )
    figures["the consumer computed"] = format_duration(eaten.think_ns)
    figures["an ideal loader would save"] = format_duration(eaten.saved_ns)
    return figures


def _moved(found: MetricsSnapshot) -> str:
    if found.bytes is None:
        asked = found.requested_bytes
        return "How much was moved is unknown" + (
            "." if asked is None else f"; {format_size(asked)} were asked for."
        )
    moved = " and ".join(
        f"{verb} {shown(size, 'bytes') if size is not None else 'an unknown amount'}"
        for verb, ops, size in (
            ("read", found.read_ops, found.read_bytes),
            ("wrote", found.write_ops, found.write_bytes),
        )
        if ops
    )
    if not moved:
        return "No op moved data."
    rate = found.throughput_bytes_per_s
    unknown = (
        f"; {counted(found.unknown_bytes_ops, 'op')} do not say how much" if found.unknown_bytes_ops else ""
    )
    return f"They {moved}{'' if rate is None else f', {format_rate(rate)} on average over the run'}{unknown}."


def _storage(time: Busy) -> str:
    if time.busy_ns is None or time.idle_ns is None:
        return "How long storage was busy is unknown: the ops have no latencies."
    longest = "" if time.longest_ns is None else f", the longest {format_duration(time.longest_ns)}"
    idle = (
        f"; for {format_duration(time.idle_ns)} it was asked for nothing ({counted(time.gaps, 'gap')}{longest})"
        if time.gaps
        else ""
    )
    return f"Storage had an op in flight for {format_duration(time.busy_ns)}{_share(time.busy_ns, time.span_ns)}{idle}."


def _waiting(source: Source, eaten: Consumer | None) -> str:
    if eaten is not None:
        share = _share(eaten.wait_ns, eaten.wait_ns + eaten.think_ns)
        return (
            f"The consumer waited {format_duration(eaten.wait_ns)} for batches{share} and computed {format_duration(eaten.think_ns)}, "
            f"added over ranks: a loader that always had the next batch ready would save {format_duration(eaten.saved_ns)}."
        )
    time = busy(source)
    if not time.busy_ns or not time.idle_ns:
        return ""
    return (
        "How long its consumer waited is not in the trace. Had the requests overlapped with the time when none was in flight, "
        f"the run would have been at most {format_duration(min(time.busy_ns, time.idle_ns))} shorter."
    )


def _latency(found: MetricsSnapshot) -> str:
    latency = {name: us * 1e3 for name, us in found.latency_us.items() if us is not None}
    if not latency:
        return ""
    p50, p99, most = (format_duration(latency[name]) for name in ("p50", "p99", "max"))
    return f"Half of the ops took at most {p50}, 99 of 100 at most {p99}, the slowest {most}."


def _worst(worst: Mapping[str, Any]) -> list[str]:
    said = []
    if worst["file"]:
        of = worst["file"]
        said.append(
            f"The file with most time in reads and writes is {brief(of['uri'], _NAME)}: {format_duration(of['total_ns'])}, "
            f"{100 * of['time_share']:.3g} % of all."
        )
    if worst["stream"] and worst["streams"] > 1:
        of = worst["stream"]
        said.append(
            f"The stream (rank/worker) with the longest tail is {of['stream']}: its p99 is {format_duration(of['p99_ns'])}."
        )
    if worst["step"]:
        of = worst["step"]
        rank = f" on rank {of['rank']}" if worst["ranks"] > 1 else ""
        said.append(f"The slowest step is {of['step']}, {format_duration(of['wall_ns'])}{rank}.")
    return said


def _endings(found: MetricsSnapshot) -> str:
    parts = [f"{counted(found.failed_ops, 'op')} failed"] if found.failed_ops else []
    if found.unfinished_ops:
        parts.append(f"{counted(found.unfinished_ops, 'op')} never ended")
    if found.retried_ops:
        parts.append(f"{counted(found.retried_ops, 'op')} had to be sent again")
    return f"{'; '.join(parts)}." if parts else ""


def _share(part: int | None, whole: int) -> str:
    return f" ({100 * part / whole:.3g} %)" if part is not None and whole else ""
