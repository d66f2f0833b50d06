"""How much of what a command moved its capture saw.

The kernel counts the bytes that a process reads and writes by system calls. Known parts of them are no storage
I/O (pipes, sockets, terminals, files of the kernel, the dynamic loader's). The rest is compared with what was
recorded. What no counter shows is listed: files mapped into memory, native object clients, io_uring.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tracekit.capture.native.logs import Process
from tracekit.capture.sockets import Objects, clients_of, ports_of_stores, unrecorded
from tracekit.capture.tools.strace import Moved
from tracekit.formats.syscalls.names import UNSEEN
from tracekit.units import format_count, format_size

__all__ = ["Completeness", "judge", "judge_calls", "judge_reads"]

_PROGRAM_BYTES = 16 * 1024
"""Bytes that the C library reads (locale, names of users) or writes for itself in a process."""
_OBJECT_BYTES = 2048
"""Bytes that the dynamic loader reads of a shared object by system calls."""
_UNKNOWN_READERS_BYTES = 4 * 1024 * 1024
"""Fewer bytes than this, of all processes, may be the dynamic loader's where an engine counts no processes."""
_STARTING_BYTES = 128 * 1024
"""Bytes that the dynamic loader and the C library read for strace itself, before it runs the command."""
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Completeness:
    """What the capture of a command saw of the bytes that it moved. None stands for unknown.

    `share` is recorded bytes by moved bytes, reads and writes together, without those that the filters left out.
    `read_bytes` and `written_bytes` are what the processes moved to and from storage as far as the kernel counts
    it; `filtered_bytes` of it were seen, and left out by `include`, `exclude` or the defaults. `object_bytes` were
    recorded by hooks of object clients. `fault_bytes` were first touched in mapped files, which no count of calls has and
    `share` leaves out; None if page faults were not followed. `unrecorded_client_bytes` went through the sockets of processes that had
    loaded a native object client, and are no ops.
    """

    share: float | None
    read_bytes: int | None
    written_bytes: int | None
    recorded_read_bytes: int
    recorded_written_bytes: int
    filtered_bytes: int
    object_bytes: int
    mapped_files: int
    native_clients: tuple[str, ...]
    unrecorded_client_bytes: int | None
    unrecorded_ops: int
    unhooked_pythons: int
    unseen: tuple[str, ...]
    processes: tuple[dict[str, Any], ...]
    fault_bytes: int | None = None
    unseen_programs: tuple[str, ...] = ()
    """Programs that the command started in which the engine could not be. The share is then a lower bound."""
    hint: str = (
        "programs that are linked statically or clear their environment, and system calls made without the C"
        " library, are not seen; method=strace sees them"
    )
    """What the engine does not see, and what to do about it."""

    def to_dict(self) -> dict[str, Any]:
        facts = asdict(self)
        del facts["hint"]
        return facts

    def reaches(self, wanted: float) -> bool:
        """Whether the capture is known to have seen the share `wanted` of all bytes."""
        return self.share is not None and self.share >= wanted

    def notes(self) -> Iterator[str]:
        """Yield what the user of the trace should know."""
        if self.share is not None:
            least = "at least " if self.unseen_programs else ""
            yield f"completeness: {least}{self.share:.1%} of the bytes that the command moved are recorded"
        elif self.read_bytes is not None:
            yield (
                f"completeness: unknown; the command read {format_size(self.read_bytes)} in all, of which"
                f" {format_size(self.recorded_read_bytes)} are recorded"
            )
        if self.share is not None and self.share < 0.95:
            missed = (self.read_bytes or 0) + (self.written_bytes or 0)
            missed -= self.recorded_read_bytes + self.recorded_written_bytes
            if missed > 0:
                yield f"{format_size(missed)} are not in the trace: {self.hint}"
        if self.unseen_programs:
            yield f"programs that were not seen: {', '.join(self.unseen_programs)}; method=strace sees them"
        if self.native_clients and self.unrecorded_client_bytes:
            yield (
                f"native client: {', '.join(self.native_clients)}; {format_size(self.unrecorded_client_bytes)}"
                " went through sockets of its process and are not seen as ops"
            )
        if self.unrecorded_ops:
            yield f"{format_count(self.unrecorded_ops)} ops were not recorded, because the log could not grow: the disk is full, `ulimit -f` is reached, or a process has changed its user or root"
        if self.unhooked_pythons:
            yield (
                f"Python processes in which the hooks could not start: {self.unhooked_pythons}; their samples, steps and"
                " object clients are not known (python -S, -E or -I, or a Python in which tracekit is not installed)"
            )
        if self.unseen:
            yield f"{', '.join(self.unseen)} was used; what its requests moved is not fully recorded"


def judge(
    processes: Sequence[Process],
    moved: tuple[int, int],
    kept: tuple[int, int],
    *,
    mapped_files: int,
    objects: Objects,
    hooked: Collection[int],
    sample_rate: float = 1.0,
) -> Completeness:
    """Compare the logs of the native engine with `moved`, the bytes that the kernel counted for the whole command.

    `kept` of the logs' bytes are rows of the trace. `objects` is what hooks and proxies recorded; `hooked` are the
    processes in which the hooks started. `sample_rate` of all objects were recorded.
    """
    programs = [p for p in processes if not p.parent]
    hidden = sorted({name for p in processes for name in p.unseen_programs})
    # What the C library reads for itself cannot be told from what a program reads that is not seen.
    own = (0, 0) if hidden else (
        len(processes) * _PROGRAM_BYTES, sum(p.shared_objects for p in programs) * _OBJECT_BYTES
    )  # fmt: skip
    read, filtered_read = _seen(processes, "read", moved[0], kept[0], sum(own))
    written, filtered_written = _seen(processes, "written", moved[1], kept[1], own[0])
    known_ports = ports_of_stores(objects.proxy_ports)
    clients, silent = unrecorded(processes, objects, sample_rate, known_ports)
    unseen = tuple(sorted({name for p in processes for name in p.libraries if name in UNSEEN}))
    total = read + written + objects.bytes + (silent or 0)
    share = (kept[0] + kept[1] + objects.bytes) / total if total else 1.0
    return Completeness(
        share=None if unseen or silent is None else share,
        read_bytes=read,
        written_bytes=written,
        recorded_read_bytes=kept[0],
        recorded_written_bytes=kept[1],
        filtered_bytes=filtered_read + filtered_written,
        object_bytes=objects.bytes,
        mapped_files=mapped_files,
        native_clients=clients,
        unrecorded_client_bytes=silent,
        unrecorded_ops=sum(p.lost_ops for p in processes),
        unhooked_pythons=sum(p.is_python and p.pid not in hooked for p in programs),
        unseen=unseen,
        processes=tuple(_facts(p, known_ports) for p in _busiest(processes)),
        unseen_programs=tuple(hidden),
    )


def _seen(processes: Sequence[Process], direction: str, moved: int, kept: int, own: int) -> tuple[int, int]:
    """The bytes that storage moved in one direction, without those that filters left out; and these.

    `own` of what no log accounts for is taken for the C library's.
    """
    logged = sum(getattr(p, f"recorded_{direction}_bytes") for p in processes)
    other = sum(getattr(p, f"other_{direction}_bytes") for p in processes)
    queued = sum(getattr(p, f"queued_{direction}_bytes") for p in processes)
    missed = moved + queued - other - logged
    return kept + max(missed - own, 0), logged - kept


def judge_calls(
    calls: Moved,
    moved: tuple[int, int],
    kept: tuple[int, int],
    *,
    mapped_files: int,
    object_bytes: int,
    unseen: tuple[str, ...],
) -> Completeness:
    """Compare the calls that strace logged with `moved`, the bytes that the kernel counted for the whole command.

    What calls moved that are no ops went through pipes, sockets, terminals and files of the kernel. `kept` of the ops'
    bytes are rows.
    """
    read, written = (
        rows + max(all_ - logged - _STARTING_BYTES, 0)
        for rows, all_, logged in zip(kept, moved, (calls.read, calls.written), strict=True)
    )
    total = read + written + object_bytes
    return Completeness(
        share=None if unseen else 1.0 if not total else (kept[0] + kept[1] + object_bytes) / total,
        read_bytes=read,
        written_bytes=written,
        recorded_read_bytes=kept[0],
        recorded_written_bytes=kept[1],
        filtered_bytes=calls.read_ops + calls.written_ops - kept[0] - kept[1],
        object_bytes=object_bytes,
        mapped_files=mapped_files,
        native_clients=(),
        unrecorded_client_bytes=None,
        unrecorded_ops=0,
        unhooked_pythons=0,
        unseen=unseen,
        processes=(),
        hint="strace did not log them: a process was killed, or left it",
    )


def judge_reads(recorded: int, moved: tuple[int, int], *, mapped_files: int) -> Completeness:
    """Compare the bytes read in DFTracer's logs with what the kernel counted. Its logs do not say what was no storage."""
    read = max(moved[0], recorded)
    missed = read - recorded
    unclear = read // 100 < missed <= _UNKNOWN_READERS_BYTES
    return Completeness(
        share=None if unclear or not read else recorded / read,
        read_bytes=read,
        written_bytes=None,
        recorded_read_bytes=recorded,
        recorded_written_bytes=0,
        filtered_bytes=0,
        object_bytes=0,
        mapped_files=mapped_files,
        native_clients=(),
        unrecorded_client_bytes=None,
        unrecorded_ops=0,
        unhooked_pythons=0,
        unseen=(),
        processes=(),
        hint="DFTracer does not record C++ streams, fdopen, dup, openat64, pipes, static programs, killed processes and"
        " what precedes an exec; method=native does",
    )


def _busiest(processes: Sequence[Process]) -> list[Process]:
    by_bytes = sorted(processes, key=lambda p: p.recorded_read_bytes + p.recorded_written_bytes, reverse=True)
    return by_bytes[:_SHOWN]


def _facts(process: Process, known_ports: Mapping[int, str]) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "program": os.path.basename(process.program.split(" ")[0]),
        "read_bytes": process.read_bytes,
        "written_bytes": process.written_bytes,
        "recorded_read_bytes": process.recorded_read_bytes,
        "recorded_written_bytes": process.recorded_written_bytes,
        "other_read_bytes": process.other_read_bytes,
        "other_written_bytes": process.other_written_bytes,
        "sockets": [asdict(caller) for caller in process.callers],
        "cpu_ns": process.cpu_ns,
        "recording_ns": process.recording_ns if process.measured_calls else None,
        "native_clients": clients_of(process, known_ports),
    }
