"""How much of what a command moved its capture saw.

The kernel counts the bytes that a process reads and writes by system calls. Known parts of them are no storage
I/O (pipes, sockets, terminals, files of the kernel, the dynamic loader's). The rest is compared with what was
recorded. What no counter shows is listed: files mapped into memory, native object clients, io_uring.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.capture.native.logs import GPU_DIRECT, Process
from tracekit.capture.tools.strace import Moved
from tracekit.processes import descendants_of
from tracekit.units import format_count, format_size

__all__ = [
    "Completeness",
    "Objects",
    "Requests",
    "counted_bytes",
    "judge",
    "judge_calls",
    "judge_reads",
    "moved_by_children",
    "ports_of_stores",
]

_PROGRAM_BYTES = 16 * 1024
"""Bytes that the C library reads (locale, names of users) or writes for itself in a process."""
_OBJECT_BYTES = 2048
"""Bytes that the dynamic loader reads of a shared object by system calls."""
_UNKNOWN_READERS_BYTES = 4 * 1024 * 1024
"""Fewer bytes than this, of all processes, may be the dynamic loader's where an engine counts no processes."""
_STARTING_BYTES = 128 * 1024
"""Bytes that the dynamic loader and the C library read for strace itself, before it runs the command."""
_MESSAGE_BYTES = 4096
"""The heads of a request and its answer, at most."""
_LISTING_BYTES = 512 * 1024
"""A page of a listing, at most."""
_HANDSHAKE_BYTES = 6144
"""What TLS needs for a connection, at most; its frames take less than `_FRAMES` of what is sent."""
_FRAMES = 0.01
_CLIENTS = {
    "libarrow.so": "libarrow",
    "polars": "polars",
    "tensorstore": "tensorstore",
    "awscrt": "AWS CRT",
    "libaws": "AWS CRT",
    "s3torch": "s3torchconnector's CRT",
    "lance": "lance",
    "duckdb": "DuckDB",
    "obstore": "obstore",
    "deltalake": "delta-rs",
    "libazure": "Azure SDK",
    "kvikio": "KvikIO",
    "libhdfs": "libhdfs",
}
_UNSEEN = ("io_uring", "io_submit", GPU_DIRECT)
_PORTS = {
    80: "HTTP",
    443: "HTTPS",
    445: "SMB",
    2049: "NFS",
    3260: "iSCSI",
    3300: "Ceph",
    6789: "Ceph",
    7480: "Ceph RGW",
    8020: "HDFS",
    8080: "HTTP",
    8333: "SeaweedFS",
    8443: "HTTPS",
    9000: "MinIO or HDFS",
    10000: "Azurite",
}
"""Where stores are reached."""
_ENDPOINTS = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "STORAGE_EMULATOR_HOST",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
)
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


@dataclass(frozen=True, slots=True)
class Requests:
    """How many requests for objects were recorded, pages of listings among them, and the bytes of objects that they moved."""

    number: int = 0
    pages: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Requests:
        """Those among the rows of a trace."""
        batch = batch.filter(pc.invert(pc.starts_with(pc.cast(batch.column("uri"), pa.string()), "file://")))
        pages = pc.sum(pc.equal(pc.cast(batch.column("op"), pa.string()), "list")).as_py() or 0
        return cls(batch.num_rows, pages, pc.sum(batch.column("bytes")).as_py() or 0)

    def __add__(self, other: Requests) -> Requests:
        return Requests(self.number + other.number, self.pages + other.pages, self.bytes + other.bytes)

    def most(self, connections: int, sample_rate: float) -> int:
        """The bytes that they moved through so many connections at most, if this share of them was recorded."""
        messages = self.number * _MESSAGE_BYTES + self.pages * _LISTING_BYTES
        handshakes = min(self.number, connections) * _HANDSHAKE_BYTES
        return round((self.bytes * (1 + _FRAMES) + messages + handshakes) / sample_rate)


@dataclass(frozen=True, slots=True)
class Objects:
    """The recorded requests for objects, by process where that is known."""

    of_processes: Mapping[int, Requests] = field(default_factory=dict)
    of_others: Requests = Requests()
    proxy_ports: Collection[int] = ()
    """Where the proxies were reached that recorded the others."""
    all_known: bool = True
    """Whether none of those that were recorded has been removed from the trace."""

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in (*self.of_processes.values(), self.of_others))


@dataclass(frozen=True, slots=True)
class _Counts:
    """Bytes read and written so far: by this process and all children that it has waited for, and by each of its threads."""

    all: tuple[int, int]
    threads: dict[str, tuple[int, int]]


def counted_bytes(*, descendants: bool = False) -> _Counts | None:
    """Bytes that were read and written by system calls up to now, with `descendants` also by those that still run.

    None where the kernel does not say.
    """
    try:
        counts = _io(Path("/proc/self/io"))
        for pid in descendants_of(os.getpid()) if descendants else ():
            with suppress(OSError):  # it has ended
                more = _io(Path(f"/proc/{pid}/io"))
                counts = (counts[0] + more[0], counts[1] + more[1])
    except (OSError, ValueError, IndexError):
        return None
    threads: dict[str, tuple[int, int]] = {}
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            threads[thread.name] = _io(thread / "io")
    return _Counts(counts, threads)


def moved_by_children(before: _Counts | None, after: _Counts | None) -> tuple[int, int] | None:
    """Bytes read and written between the two by children that were waited for, without what our own threads moved."""
    if before is None or after is None:
        return None
    read, written = (
        after.all[way]
        - before.all[way]
        - sum(
            counts[way] - before.threads.get(thread, (0, 0))[way] for thread, counts in after.threads.items()
        )
        for way in (0, 1)
    )
    return max(read, 0), max(written, 0)


def _io(path: Path) -> tuple[int, int]:
    lines = path.read_text().split()
    return int(lines[1]), int(lines[3])


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
    clients, silent = _silent(processes, objects, sample_rate)
    unseen = tuple(sorted({name for p in processes for name in p.libraries if name in _UNSEEN}))
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
        unhooked_pythons=sum(_is_python(p) and p.pid not in hooked for p in programs),
        unseen=unseen,
        processes=tuple(_facts(p) for p in _busiest(processes)),
        unseen_programs=tuple(hidden),
    )


def _silent(
    processes: Sequence[Process], objects: Objects, sample_rate: float
) -> tuple[tuple[str, ...], int | None]:
    """The native object clients that moved more than the recorded requests can have moved, and these bytes.

    The bytes are None if not all of these requests are known.
    """
    moved: dict[int, int] = defaultdict(int)
    connections: dict[int, int] = defaultdict(int)
    clients: dict[int, set[str]] = defaultdict(set)
    for process in processes:
        if found := _clients(process, objects.proxy_ports):
            moved[process.pid] += process.socket_read_bytes + process.socket_written_bytes
            connections[process.pid] += process.connections
            clients[process.pid].update(found)
    left = {
        pid: number - objects.of_processes.get(pid, Requests()).most(connections[pid], sample_rate)
        for pid, number in moved.items()
    }
    left = {pid: number for pid, number in left.items() if number > 0}
    names = tuple(sorted({name for pid in left for name in clients[pid]}))
    if left and not objects.all_known:
        return names, None
    silent = sum(left.values()) - objects.of_others.most(sum(connections.values()), sample_rate)
    return (names, silent) if silent > 0 else ((), 0)


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


def _facts(process: Process) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "program": os.path.basename(process.program.split(" ")[0]),
        "read_bytes": process.read_bytes,
        "written_bytes": process.written_bytes,
        "recorded_read_bytes": process.recorded_read_bytes,
        "recorded_written_bytes": process.recorded_written_bytes,
        "other_read_bytes": process.other_read_bytes,
        "other_written_bytes": process.other_written_bytes,
        "socket_read_bytes": process.socket_read_bytes,
        "cpu_ns": process.cpu_ns,
        "recording_ns": process.recording_ns if process.measured_calls else None,
        "native_clients": list(_clients(process)),
    }


def _clients(process: Process, proxy_ports: Collection[int] = ()) -> list[str]:
    """The native object clients that it has loaded if it has connected to anything; else the ports of stores that it used."""
    if not process.connections:
        return []
    loaded = {name for library in process.libraries for part, name in _CLIENTS.items() if part in library}
    return sorted(loaded) or ports_of_stores(process.ports, proxy_ports)


def ports_of_stores(ports: Iterable[int], proxy_ports: Collection[int] = ()) -> list[str]:
    """Name those of the ports at which stores are reached: the usual ones, those that the environment names, and of proxies."""
    known = _PORTS | _ports_of_endpoints() | dict.fromkeys(proxy_ports, "the proxy")
    return [f"port {port} ({known[port]})" for port in sorted(ports) if port in known]


def _ports_of_endpoints() -> dict[int, str]:
    """The ports that the environment names."""
    found = {}
    for name in (*_ENDPOINTS, *map(str.lower, _ENDPOINTS)):
        value = os.environ.get(name, "")
        with suppress(ValueError):  # not of a URL
            if port := urlsplit(value if "://" in value else f"//{value}").port:
                found[port] = name
    return found


def _is_python(process: Process) -> bool:
    program = os.path.basename(process.program.split(" ")[0])
    return program.startswith("python") or any("libpython" in name for name in process.libraries)
