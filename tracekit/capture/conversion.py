"""Converts what a captured command logged to one trace.

`tracekit capture` calls it when the command has ended; with `recover`, for the logs of a capture that was killed.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.capture.completeness import Completeness, judge, judge_calls, judge_reads
from tracekit.capture.faults.log import FOLDER, FaultLog, of_calls
from tracekit.capture.filters import PathFilter
from tracekit.capture.job import Job
from tracekit.capture.native.logs import NativeLogs, Process, measured_overhead
from tracekit.capture.oplog import OpLogContents, read_oplog
from tracekit.capture.overhead import ENOUGH_NS
from tracekit.capture.proxy.requests import OTHER_REQUESTS
from tracekit.capture.scopes import Scopes
from tracekit.capture.sockets import Objects, Requests, clients_in_log
from tracekit.capture.tools.dftracer import DFTracerLog
from tracekit.capture.tools.engine import Log
from tracekit.capture.tools.strace import StraceCalls
from tracekit.consumer import ENGINE_CPU, PROCESS_CPU
from tracekit.errors import TracekitError, UsageError
from tracekit.schema import OPS
from tracekit.store.flat import flat_to_fitting_batch
from tracekit.store.writer import TraceWriter
from tracekit.units import format_count

__all__ = ["CaptureResult", "batch_of", "convert", "kept_ops", "moved_by", "note_overhead"]

_OF_REQUESTS = ("retries", "throttles")
"""Counters that both the hooks and the proxy keep."""


@dataclass(frozen=True, slots=True)
class CaptureResult:
    """The exit code of the command (128 + N if signal N ended it), and what was recorded."""

    path: Path
    exit_code: int
    method: str
    ops: int
    notes: tuple[str, ...]
    completeness: Completeness | None = None
    """What the capture saw of the bytes that the command moved; None under engines that cannot tell."""
    complete: bool = True
    """False if `require_complete` was given and is not known to be reached."""

    def to_dict(self) -> dict[str, Any]:
        kept = None if self.completeness is None else self.completeness.to_dict()
        return {**asdict(self), "path": str(self.path), "completeness": kept}


def convert(
    job: Job,
    exit_code: int | None,
    moved: tuple[int, int] | None,
    *,
    require_complete: float | None,
    overwrite: bool,
    proxy_ports: Collection[int] = (),
) -> CaptureResult:
    """Write the trace of a capture and remove its logs. Its proxies were reached at `proxy_ports`.

    `moved` are the bytes that the kernel counted for the whole command; None if they are not
    known, so that completeness is not: after a capture that was killed (`exit_code` is None), or without /proc.
    """
    if not (job.work / "logs").is_dir():
        raise TracekitError(
            f"the logs of the capture, {job.work}, were deleted while the command ran",
            "capture into another directory",
        )
    options = {
        "command": job.command,
        "method": job.method,
        "exit_code": exit_code,
        "metadata": job.metadata,
        "include": list(job.include),
        "exclude": list(job.exclude),
        "sample_rate": job.sample_rate,
        "sample_by": job.paths.sample_by,
    }
    with TraceWriter(
        job.target,
        source="capture",
        overwrite=overwrite,
        options=options,
        rank=job.rank,
        world_size=job.world_size,
    ) as writer:
        completeness, notes = _write(writer, job, moved, proxy_ports, killed=exit_code is None)
        ops = writer.rows
    shutil.rmtree(job.work, ignore_errors=True)
    if not ops:
        missed = (
            completeness is not None and not completeness.reaches(0.95) and not completeness.filtered_bytes
        )
        why = "" if missed else "; files of the system and the interpreter need include="
        notes.insert(0, f"no storage I/O was recorded{why}")
    enough = require_complete is None or (completeness is not None and completeness.reaches(require_complete))
    if not enough:
        notes.append(
            f"the capture is not known to be complete: require_complete={require_complete} is not reached"
        )
    return CaptureResult(job.target, exit_code or 0, job.method, ops, tuple(notes), completeness, enough)


def _write(
    writer: TraceWriter,
    job: Job,
    moved: tuple[int, int] | None,
    proxy_ports: Collection[int],
    *,
    killed: bool,
) -> tuple[Completeness | None, list[str]]:
    """Write all logs into one trace; return how complete they are, and notes."""
    work, engine, paths, metadata = job.work, job.engine, job.paths, job.metadata
    notes: list[str] = []
    completeness = None
    with nullcontext() if engine is None else engine.read(work / "logs") as log:
        overhead = measured_overhead(log.processes) if isinstance(log, NativeLogs) else None
        counted = () if overhead is None else (PROCESS_CPU,)
        hooked = _add_hooked(writer, work / "hooked", paths, leave_out=job.of_proxies, counted=counted)
        proxied = _add_hooked(writer, work / "proxied", paths)
        objects = Objects(hooked, sum(proxied.values(), Requests()), proxy_ports)
        if log is not None:
            faults = FaultLog(work / FOLDER)
            placed = Scopes(work / "scopes", rank=job.rank)
            *moved_kept, touched = _add_recorded(writer, log, faults, placed, paths, metadata)
            mapped_files = log.mapped_files
            mapped = sum(map(paths.admits, mapped_files))
            writer.count("mapped_files", mapped)
            for name, number in placed.counters.items():
                writer.count(name, number)
            notes += log.notes()
            if isinstance(log, StraceCalls) and log.ends_unknown:
                writer.describe(has=tuple(OPS.names))
            if moved is None:
                why = "the capture was killed" if killed else "/proc/self/io cannot be read"
                notes.append(f"completeness: unknown, because {why}")
            elif isinstance(log, NativeLogs):
                notes += note_overhead(writer.count, log.processes, job.max_overhead)
                completeness = judge(
                    log.processes,
                    moved,
                    (moved_kept[0], moved_kept[1]),
                    mapped_files=mapped,
                    objects=objects,
                    hooked=placed.joined,
                    sample_rate=job.sample_rate,
                )
            elif isinstance(log, DFTracerLog):
                completeness = judge_reads(log.read_bytes, moved, mapped_files=mapped)
            elif isinstance(log, StraceCalls):
                completeness = judge_calls(
                    log.calls,
                    moved,
                    (moved_kept[0], moved_kept[1]),
                    mapped_files=mapped,
                    object_bytes=objects.bytes,
                    unseen=(*log.unseen, *clients_in_log(log.ports, mapped_files)),
                )
            notes += _of_mappings(mapped, faults, job.unfollowed)
    if completeness is not None:
        completeness = replace(completeness, fault_bytes=None if job.unfollowed else touched)
        writer.describe(completeness=completeness.to_dict())
        notes += completeness.notes()
    if not writer.rows:
        writer.count("ops_recorded", 0)
    return completeness, notes


def note_overhead(
    count: Callable[[str, int], None], processes: Sequence[Process], most: float, *, counted: int = 0
) -> Iterator[str]:
    """Count what recording took in the processes of the native engine, and say so. `counted` of their CPU time is known."""
    measured = measured_overhead(processes)
    if measured is None:
        return
    spent, whole = measured
    count(ENGINE_CPU, spent)
    count(PROCESS_CPU, max(whole - counted, 0))
    yield f"overhead: recording took {spent / whole:.1%} of the CPU time of the command"
    for process in processes:
        cpu = process.cpu_ns or 0
        if cpu >= ENOUGH_NS and process.recording_ns > most * cpu:
            yield (
                f"recording took {process.recording_ns / cpu:.1%} of the CPU time of process {process.pid},"
                f" more than max_overhead={most:g}"
            )


def _add_recorded(
    writer: TraceWriter, log: Log, faults: FaultLog, placed: Scopes, paths: PathFilter, metadata: bool
) -> tuple[int, int, int]:
    """Write the ops of an engine's log that the filters keep, and the faults; return the bytes that were read, written,
    and touched in mapped files."""
    touched = 0
    for batch in faults.batches():
        batch = paths.of_streams(placed.place(batch))
        touched += pc.sum(batch.column("bytes")).as_py() or 0
        writer.write(batch)
    read = written = 0
    for batch in kept_ops(log.batches(), paths.admits, metadata):
        batch = paths.of_streams(placed.place(batch))
        writer.write(batch)
        more = moved_by(batch)
        read, written = read + more[0], written + more[1]
    return read, written, touched


def moved_by(batch: pa.RecordBatch) -> tuple[int, int]:
    """The bytes that the ops read, and wrote."""
    reads = pc.equal(pc.cast(batch.column("op"), pa.string()), "read")
    read, written = (
        int(pc.sum(batch.filter(which).column("bytes")).as_py() or 0) for which in (reads, pc.invert(reads))
    )
    return read, written


def _of_mappings(mapped: int, faults: FaultLog, unfollowed: str) -> Iterator[str]:
    """Say what is known of the files that the command mapped into memory."""
    if unfollowed:
        if mapped:
            yield f"files mapped into memory: {mapped}; reads through a mapping are not recorded ({unfollowed})"
        return
    if faults.files:
        yield f"files mapped into memory: {faults.files}; first touches of their pages are reads, by page faults"
    if faults.ambiguous:
        yield (
            f"{format_count(faults.ambiguous)} first touches of writable shared pages are not recorded: reads and"
            " writes look alike"
        )
    for reason in sorted(set(faults.refused)):
        many = faults.refused.count(reason)
        yield f"page faults of {format_count(many)} processes that mapped files were not followed: {reason}"
    if faults.lost:
        yield f"{format_count(faults.lost)} page faults came too fast to be recorded"


def kept_ops(
    batches: Iterable[pa.RecordBatch], admits: Callable[[str], bool], metadata: bool
) -> Iterator[pa.RecordBatch]:
    """Yield the ops on files that `admits` keeps; `stat` and `list` ops only with `metadata`. None of them is a page fault."""
    verdicts: dict[str, bool] = {}
    for batch in batches:
        uris, ops = _coded(batch.column("uri")), _coded(batch.column("op"))
        for uri in uris.dictionary.to_pylist():
            if uri not in verdicts:
                verdicts[uri] = admits(uri)
        keep = pa.array([verdicts[uri] for uri in uris.dictionary.to_pylist()], pa.bool_()).take(uris.indices)
        if not metadata:
            wanted = [kind not in ("stat", "list") for kind in ops.dictionary.to_pylist()]
            keep = pc.and_(keep, pa.array(wanted, pa.bool_()).take(ops.indices))
        yield of_calls(batch.filter(keep))


def _coded(column: pa.Array) -> pa.DictionaryArray:
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()


def _add_hooked(
    writer: TraceWriter,
    hooked: Path,
    paths: PathFilter,
    *,
    leave_out: tuple[str, ...] = (),
    counted: Sequence[str] = (),
) -> dict[int, Requests]:
    """Add the ops in the op logs of a directory, but those on URIs that begin with `leave_out`, which the proxy
    recorded too, and the counters but those that are `counted` elsewhere; return the requests for objects of each process."""
    requests: dict[int, Requests] = defaultdict(Requests)
    for log in sorted(hooked.glob("*.ops")):
        for part in read_oplog(log):
            batch, misfit = batch_of(part, leave_out=leave_out)
            batch = paths.of_streams(batch)
            writer.write(batch)
            if misfit is not None:
                writer.count("hook_errors.recorder")
            requests[part.pid] += Requests.of(batch) + Requests(part.counters.get(OTHER_REQUESTS, 0))
            for name, number in part.counters.items():
                if name not in counted and not (leave_out and name in _OF_REQUESTS):
                    writer.count(name, number)
    return requests


def batch_of(
    part: OpLogContents, *, leave_out: tuple[str, ...] = ()
) -> tuple[pa.RecordBatch, UsageError | None]:
    """Return a portion of an op log as ops, times since the Unix epoch, without those on URIs that begin with `leave_out`;
    and what does not fit the schema, as `flat_to_fitting_batch` does."""
    batch, misfit = flat_to_fitting_batch(
        part.values, epoch_mono_ns=-part.clock_offset, rank=part.rank, worker=0
    )
    for prefix in leave_out:
        uris = pc.cast(batch.column("uri"), pa.string())
        batch = batch.filter(pc.invert(pc.starts_with(uris, prefix)))
    return batch, misfit
