"""What a trace is: where it comes from, how complete it is, and the options of its producer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tracekit.comparison.hosts import host_rows
from tracekit.consumer import overhead_of, readable_counters
from tracekit.metrics.snapshot import MetricsSnapshot
from tracekit.redaction import redact
from tracekit.reporting.table import completeness_in_words, counted, in_words, known, label
from tracekit.schema import SCHEMA_VERSION
from tracekit.store.clocks import clocks
from tracekit.store.reader import TraceReader
from tracekit.units import format_duration, format_named, format_size

__all__ = ["clock_in_words", "details", "identity", "origin", "set_options", "versions"]

_NAMES = 8
"""Hosts that are named."""


def origin(reader: TraceReader) -> str:
    """Where the ops come from, as the start of a sentence."""
    if reader.source.startswith("import:"):
        log = reader.options.get("from")
        named = f" {log}" if isinstance(log, str) else ""
        return f"An import of the {reader.source.removeprefix('import:')} log{named}"
    return {
        "loader": "A run of tracekit's loader or recorder",
        "replay": "A replay",
        "capture": "A capture of a command",
        "mixed": "Ops of several sources",
    }.get(reader.source, f"A trace of the source {reader.source}")


def identity(reader: TraceReader, found: MetricsSnapshot) -> dict[str, str]:
    """The facts about a trace, by name, in order. What the trace does not say is `not stated`."""
    segments = [segment.metadata for segment in reader.segments]
    begin = _moment(reader, found.first_submit_ns)
    end = _moment(
        reader, None if found.first_submit_ns is None else found.first_submit_ns + found.duration_ns
    )
    processes = {(one.get("host"), one.get("pid")) for one in segments if one.get("pid")}
    unfinished = len(reader.unfinished)
    imported = reader.source.startswith("import:")
    hosts = _some(one.get("host") for one in segments)
    size = sum(segment.file_bytes for segment in reader.segments)
    return {
        "source": origin(reader),
        "command": _command(reader.options),
        "trace": str(reader.path),
        "trace id": reader.trace_id or "not stated",
        "host": f"not stated (imported on {hosts})" if imported else hosts,
        "processes": "not stated" if imported or not processes else str(len(processes)),
        "began": begin,
        "ended": end,
        "duration": format_duration(found.duration_ns),
        "schema": versions(list(reader.schema_versions)),
        "written by": _some(one.get("version") and f"tracekit {one['version']}" for one in segments),
        "files of the trace": counted(len(reader.segments), "segment")
        + f", {format_size(size)}"
        + (f"; {unfinished} unfinished: being written now, or left by a crash" if unfinished else ""),
        "the source knows": ", ".join(
            sorted({name for one in segments for name in (one.get("has") or "").split(",") if name})
        )
        or "not stated",
        "completeness": completeness_in_words(reader.completeness)
        if reader.completeness
        else "not stated: whether the source missed ops is unknown",
        **_recorded(reader, found),
    }


def clock_in_words(clock: Mapping[str, Any]) -> str:
    """How well the clocks of the hosts agree, in words; `clock` is what `store.clocks` says."""
    largest = max(abs(host["offset_ns"]) for host in clock["hosts"].values())
    return f"{counted(len(clock['hosts']), 'host')}, {_error(clock['error_ns'])}, offsets up to {format_duration(largest)}"


def _error(error_ns: int | None) -> str:
    return "error unknown" if error_ns is None else f"error at most {format_duration(error_ns)}"


def _recorded(reader: TraceReader, found: MetricsSnapshot) -> dict[str, str]:
    """How the trace was recorded, as far as it says: clocks and starts of its hosts, what recording cost, what it left out."""
    facts = {}
    clock = clocks(reader.segments)
    if clock:
        facts["clocks"] = clock_in_words(clock)
        for host, one in list(clock["hosts"].items())[:_NAMES]:
            sign = "-" if one["offset_ns"] < 0 else "+"
            added = f"{sign}{format_duration(abs(one['offset_ns']))} added to its times"
            facts[f"clock of {host or 'an unnamed host'}"] = f"{added}, {_error(one['error_ns'])}"
    if reader.source == "replay":
        facts |= {
            label(row): f"{known(row.b, row.unit)}, {row.note}"
            for row in host_rows(reader, timed=True)
            if row.metric == "start_skew_ns"
        }
    else:
        facts |= _starts(reader)
    share = overhead_of(reader.counters)
    if share is not None:
        facts["recording overhead"] = f"{share:.2%} of the CPU time of the recorded processes"
    if found.estimates is not None:
        facts["sampling"] = (
            f"{found.estimates['sample_rate']:.3g} of the files and objects, each with all its ops"
        )
    if reader.removed_ops:
        facts["removed"] = f"{counted(reader.removed_ops, 'older op')}, to keep the trace small, or lost"
    return facts


def _starts(reader: TraceReader) -> dict[str, str]:
    """How far apart the hosts submitted their first ops."""
    first: dict[str, int] = {}
    for segment in reader.segments:
        if segment.rows and segment.first_submit is not None:
            host, at = segment.metadata.get("host", ""), segment.first_submit + reader.shift_of(segment)
            first[host] = min(at, first.get(host, at))
    if len(first) < 2:
        return {}
    last = max(first, key=lambda host: first[host])
    apart = format_duration(max(first.values()) - min(first.values()))
    return {
        "start skew": f"{apart} from the first op of the first host to that of the last, {last or 'an unnamed host'}"
    }


def details(reader: TraceReader) -> dict[str, str]:
    """The options and counters of the producer, by name."""
    options = {f"option {name}": redact(str(value)) for name, value in set_options(reader.options)}
    counters = {
        f"counter {in_words(name)}": format_named(name, n)
        for name, n in readable_counters(reader.counters).items()
    }
    return options | counters


def versions(found: Sequence[int]) -> str:
    """The versions of the schema that the files of a trace state, and as what they are read."""
    if not found:
        return "no version stated, read as version 1"
    words = f"version{'s' if len(found) > 1 else ''} {' and '.join(map(str, found))}"
    return words if list(found) == [SCHEMA_VERSION] else f"{words}, read as version {SCHEMA_VERSION}"


def set_options(options: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options that have a value, with those of one level below; deeper ones are for machines."""
    for name, value in options.items():
        if isinstance(value, dict) and not within:
            yield from set_options(value, f"{name}.")
        elif not isinstance(value, dict) and value not in (None, False, [], ""):
            yield f"{within}{name}", value


def _command(options: Mapping[str, Any]) -> str:
    command = options.get("command")
    if isinstance(command, list):
        command = " ".join(map(str, command))
    return redact(command) if isinstance(command, str) and command else "not stated"


def _moment(reader: TraceReader, ns: int | None) -> str:
    """A time of the trace in UTC. Without an epoch its times count from an unknown moment."""
    if ns is None:
        return "no op"
    if not reader.epoch_unix_ns:
        return "not stated: the times have no epoch"
    try:
        moment = datetime.fromtimestamp((reader.epoch_unix_ns + ns) / 1e9, UTC)
    except (OverflowError, ValueError, OSError):
        return "not stated: the epoch is out of range"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _some(values: Iterable[Any]) -> str:
    """The distinct values, as many as can be named."""
    known = list(dict.fromkeys(str(value) for value in values if value))
    more = f" and {len(known) - _NAMES} more" if len(known) > _NAMES else ""
    return ", ".join(known[:_NAMES]) + more if known else "not stated"
