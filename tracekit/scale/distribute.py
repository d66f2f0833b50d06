"""A replay from several hosts: who replays what, the start, and one trace of what all recorded."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracekit.errors import UsageError
from tracekit.remote import remove_segments, seal_remote
from tracekit.replayer.clients import shift_between_clients
from tracekit.replayer.drive import Watch
from tracekit.replayer.mapping import MappingRules, parse_rules
from tracekit.replayer.missing import NOT_ISSUED, NOTHING_MISSING, Missing, missing_ops
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import Plan
from tracekit.replayer.verdict import ClientFacts
from tracekit.scale.coordinator import Coordinator, HostState
from tracekit.scale.hosting import segments_named
from tracekit.scale.launch import launching
from tracekit.scale.part import Whole, changed_elsewhere, stand_in, whole_of
from tracekit.scale.scratch import scratch_directory
from tracekit.scale.slicing import Stream, by_file, copies, slices
from tracekit.store.fingerprint import fingerprint
from tracekit.store.index import Entry, write_sealed
from tracekit.store.join import assembling
from tracekit.store.layout import SEALED_NAME, is_trace_file
from tracekit.store.manifest import Manifest, new_manifest, read_manifest
from tracekit.store.reader import TraceReader, open_reader, where_it_is
from tracekit.store.remote import RemotePath
from tracekit.store.streams import ranks_of, stream_files, streams_of
from tracekit.units import format_count

__all__ = ["Distributed", "distribute"]

_RANKS_NAMED = 8
_RANGES_KEPT = 65_536
"""Ranges of ops that were not issued which the metadata of a trace names."""


@dataclass(frozen=True, slots=True)
class Distributed:
    """What became of a replay on several hosts. `hosts` has a row for each; `plan` stands for that of the whole, of which ops
    are `missing`."""

    whole: bool
    plan: Plan
    client: ClientFacts
    wrong: list[str]
    hosts: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]
    missing: Missing


def distribute(reader: TraceReader, options: ReplayOptions, target: Path, watch: Watch | None) -> Distributed:
    """Replay `reader` from the hosts that `options.on` names, and write what they recorded as the trace `target`.

    On an object store, each host puts its own segments there, and they become a trace when all have.
    Raises UsageError if the trace cannot be split so, and the error of a host that fails before the replay began.
    """
    rules = parse_rules(options.map)
    with launching(options.on or "") as launcher, scratch_directory("tracekit-hosts-") as scratch:
        wanted = options.hosts or launcher.most or 1
        if launcher.most is not None and wanted > launcher.most:
            raise UsageError(
                f"hosts={wanted}: more than the nodes of the cluster ({launcher.most})",
                "give fewer, or add nodes",
            )
        parts = _slices(reader, rules, options, wanted)
        manifest = new_manifest()
        shared = {
            "hosts": len(parts),
            "trace": where_it_is(reader),
            "fingerprint": fingerprint(reader),
            "options": _told(options, len(parts)),
            "trace_id": manifest.trace_id,
            "epoch_unix_ns": manifest.epoch_unix_ns,
            "epoch_mono_ns": manifest.local_epoch_mono_ns(),
            "out": str(target) if isinstance(target, RemotePath) else None,
        }
        tasks = [{**shared, "index": index, "streams": sorted(part)} for index, part in enumerate(parts)]
        total = reader.rows * options.loop * options.clients
        coordinator = Coordinator(
            tasks,
            None if isinstance(target, RemotePath) else scratch,
            address=launcher.address,
            sent=_files(reader),
            progress=None if watch is None else lambda done: watch(done, total, f"{len(parts)} hosts"),
        )
        with _assembled(target, scratch, manifest, options) as (folder, entries, notes):
            hosts = coordinator.run(launcher.launch, launcher.lost)
            if coordinator.start_ns is None:  # Ctrl-C came before the start
                raise KeyboardInterrupt
            wall_ns = time.monotonic_ns() - coordinator.start_ns
            known = _known(hosts) or whole_of(reader, rules, options)
            whole = all(host.state == "done" and host.report["whole"] for host in hosts)
            for host in hosts:
                entries += host.entries
            missing = NOTHING_MISSING
            if not whole:
                missing = _missing([folder / entry.name for entry in entries], known.ops)
                notes[NOT_ISSUED] = json.dumps(missing.to_dict(_RANGES_KEPT))
        return _outcome(hosts, parts, wanted, wall_ns, whole, known, missing)


@contextmanager
def _assembled(
    target: Path, scratch: Path, manifest: Manifest, options: ReplayOptions
) -> Iterator[tuple[Path, list[Entry], dict[str, str]]]:
    """Yield where the segments of the hosts come to lie, and lists for their entries and for what is to be noted of the trace.

    On a clean exit they are the trace `target`; otherwise nothing is left of them.
    """
    entries: list[Entry] = []
    notes: dict[str, str] = {}
    if isinstance(target, RemotePath):
        try:
            yield target, entries, notes
            write_sealed(scratch, manifest, entries, notes=notes, segments_at=target)
            seal_remote(target, scratch / SEALED_NAME, [entry.name for entry in entries])
        except BaseException:
            remove_segments(target, segments_named(manifest.trace_id))
            raise
        return
    yield scratch, entries, notes
    with assembling(target, manifest, overwrite=options.overwrite, notes=notes) as (aside, kept):
        for entry in entries:
            shutil.move(scratch / entry.name, aside / entry.name)
        kept += entries


def _missing(segments: Sequence[Path], planned: int) -> Missing:
    """The ops that no host has sent a row of."""
    return missing_ops(open_reader(segments), planned) if segments else Missing.all_of(planned)


def _known(hosts: Sequence[HostState]) -> Whole | None:
    """What the first host that has ended knows of the whole plan; None if none has."""
    return next((Whole(**host.report["plan"]) for host in hosts if host.state == "done"), None)


def _slices(
    reader: TraceReader, rules: MappingRules, options: ReplayOptions, hosts: int
) -> list[frozenset[Stream]]:
    """The streams that each host replays. Raises UsageError if hosts would have to wait for each other's changes."""
    ranks = max(ranks_of(reader), default=0) + 1
    shift_ns = round(shift_between_clients(reader, options))
    streams = copies(streams_of(reader), options.clients, ranks, shift_ns)
    together: list[frozenset[Stream]] = []
    if options.split == "file":
        together = by_file(
            ((rank + client * ranks, worker), f"{client if rules.per_client else ''} {uri}")
            for client in range(options.clients)
            for rank, worker, uri in stream_files(reader)
        )
    found = slices(streams, hosts, options.split, together) or [frozenset()]
    cap = options.max_ops_in_flight
    if cap is not None and cap < len(found):
        raise UsageError(
            f"max_ops_in_flight={cap} is less than one op for each of {len(found)} hosts",
            f"give hosts={cap} or fewer",
        )
    if options.allow_writes and len(found) > 1:
        shared = changed_elsewhere(reader, rules, options, found)
        if shared is not None:
            raise UsageError(
                f"{shared} is changed by ops of one host and used by those of another",
                "give split=file, or hosts=1",
            )
    return found


def _files(reader: TraceReader) -> list[Path]:
    """The files that a host needs which cannot open the trace."""
    if reader.path.is_dir() and read_manifest(reader.path) is not None:
        return sorted(entry for entry in reader.path.iterdir() if is_trace_file(entry.name))
    return [segment.path for segment in reader.segments]


def _told(options: ReplayOptions, hosts: int) -> dict[str, Any]:
    """The options as a host gets them: it overwrites no trace, and follows a loader's rule only in whole ranks."""
    told = {**options.to_dict(), "repeat": 1}
    if hosts > 1 and options.split != "rank":
        told["workers_model"] = "recorded"
    return told


def _outcome(
    hosts: Sequence[HostState],
    parts: Sequence[frozenset[Stream]],
    wanted: int,
    wall_ns: int,
    whole: bool,
    known: Whole,
    missing: Missing,
) -> Distributed:
    reported = [host.report for host in hosts if host.state == "done"]
    rows = tuple(_row(host, part) for host, part in zip(hosts, parts, strict=True))
    failed = [_said(row) for row in rows if row["failed"]]
    if len(parts) < wanted:
        failed.append(
            f"{len(parts)} of {wanted} hosts have streams to replay; split=stream may give more of them some"
        )
    return Distributed(
        whole=whole,
        plan=stand_in(known),
        client=_client([report["client"] for report in reported], wall_ns),
        wrong=[line for report in reported for line in report["wrong"]],
        hosts=rows,
        warnings=tuple(failed),
        missing=missing,
    )


def _row(host: HostState, part: frozenset[Stream]) -> dict[str, Any]:
    recorded = sum(entry.rows for entry in host.entries)
    return {
        "host": host.index,
        "name": host.name,
        "streams": len(part),
        "ranks": sorted({rank for rank, _ in part}),
        "planned_ops": host.report.get("planned"),
        "ops": recorded,
        "clock_offset_ns": host.offset_ns,
        "clock_error_ns": host.error_ns,
        "late_ns": host.report.get("late_ns"),
        "failed": host.failed,
        "done_ops_when_last_heard": host.done_ops,
    }


def _said(row: dict[str, Any]) -> str:
    """What a user should know of a host that failed."""
    ranks = ", ".join(map(str, row["ranks"][:_RANKS_NAMED])) + (
        " and more" if len(row["ranks"]) > _RANKS_NAMED else ""
    )
    name = f" ({row['name']})" if row["name"] else ""
    return (
        f"host {row['host']}{name} failed: {row['failed']}; the ops of its {row['streams']} streams (ranks {ranks}) are not in the "
        f"result; it had done about {format_count(row['done_ops_when_last_heard'])} of them when last heard"
    )


def _client(found: Sequence[dict[str, Any]], wall_ns: int) -> ClientFacts:
    """The clients of all hosts as one."""
    facts = [ClientFacts(**each) for each in found]
    return ClientFacts(
        engine=", ".join(sorted({each.engine for each in facts})) or "none",
        workers=sum(each.workers for each in facts),
        cpu_ns=sum(each.cpu_ns for each in facts),
        cpu_wait_ns=sum(each.cpu_wait_ns for each in facts),
        wall_ns=max((each.wall_ns for each in facts), default=wall_ns),
        at_limit=any(each.at_limit for each in facts),
        fallback=next((each.fallback for each in facts if each.fallback), None),
        cores=max(sum(each.cores for each in facts), 1),
        ring=any(each.ring for each in facts),
        spun_ns=sum(each.spun_ns for each in facts),
    )
