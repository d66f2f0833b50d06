"""What went through the sockets of a command, compared with the requests for objects that were recorded.

The ports of a process and the libraries that it has loaded say whether its sockets lead to stores. The bytes of its
sockets beyond what its recorded requests can have moved are those of requests that nothing recorded.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.capture.native.libraries import CLIENTS, PYTHON
from tracekit.capture.native.logs import Caller, Process

__all__ = ["Objects", "Requests", "clients_in_log", "clients_of", "ports_of_stores", "unrecorded"]

_MESSAGE_BYTES = 4096
"""The heads of a request and its answer, at most."""
_LISTING_BYTES = 512 * 1024
"""A page of a listing, at most."""
_HANDSHAKE_BYTES = 6144
"""What TLS needs for a connection, at most; its frames take less than `_FRAMES` of what is sent."""
_FRAMES = 0.01
_COMMUNICATION = (
    "libnccl",
    "librccl",
    "libtorch.",
    "libtorch_cpu",
    "libtorch_cuda",
    "libtorch_python",
    "libgloo",
    "libmpi",
    "mca_",
    "mpi_lib",
    "libucp",
    "libucs",
    "libuct",
    "libfabric",
    "libzmq",
)
"""How the libraries are named by which the processes of a job talk to each other: what goes through their sockets is no storage I/O."""
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
_NAME_SERVER = 53
_ENDPOINTS = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "STORAGE_EMULATOR_HOST",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
)


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


def unrecorded(
    processes: Sequence[Process], objects: Objects, sample_rate: float, known_ports: Mapping[int, str]
) -> tuple[tuple[str, ...], int | None]:
    """The native object clients that moved more than the recorded requests can have moved, and these bytes.

    The bytes are None if not all of these requests are known.
    """
    moved: dict[int, int] = defaultdict(int)
    elsewhere: dict[int, int] = defaultdict(int)
    connections: dict[int, int] = defaultdict(int)
    clients: dict[int, set[str]] = defaultdict(set)
    for process in processes:
        found, callers = _to_stores(process, known_ports)
        moved[process.pid] += sum(caller.bytes for caller in callers)
        elsewhere[process.pid] += sum(caller.bytes for caller in _strangers(process) if caller not in callers)
        connections[process.pid] += sum(caller.connections for caller in callers)
        clients[process.pid].update(found)
    left = {}
    for pid, number in moved.items():
        # Recorded requests may have gone through sockets that are not counted: they hide nothing of those that are.
        known = objects.of_processes.get(pid, Requests()).most(connections[pid], sample_rate)
        if (missed := number - max(known - elsewhere[pid], 0)) > 0:
            left[pid] = missed
    names = tuple(sorted({name for pid in left for name in clients[pid]}))
    if left and not objects.all_known:
        return names, None
    known = objects.of_others.most(sum(connections.values()), sample_rate)
    silent = sum(left.values()) - max(known - sum(elsewhere.values()), 0)
    return (names, silent) if silent > 0 else ((), 0)


def clients_of(process: Process, known_ports: Mapping[int, str]) -> list[str]:
    """The native object clients that it has loaded if it has connected to anything; else the ports of stores that it used."""
    return _to_stores(process, known_ports)[0]


def _to_stores(process: Process, known_ports: Mapping[int, str]) -> tuple[list[str], list[Caller]]:
    """The clients that a process has for stores, and whose sockets may lead there.

    Those of Python itself do if it has connected to a port of stores, because they are in every program that has a native client.
    """
    callers = _strangers(process)
    ports = _named(process.ports, known_ports)
    native = [caller for caller in callers if not _is_python_itself(process, caller)]
    # A process that was killed has not said what it had loaded.
    libraries = (*process.libraries, *(caller.library for caller in native))
    loaded = _clients_among(libraries)
    if native and loaded:
        return loaded, callers if ports else native
    return (ports, callers) if ports else ([], [])


def _strangers(process: Process) -> list[Caller]:
    """Who has connected to others than the processes of the same job, as far as is known."""
    return [caller for caller in process.callers if not caller.name.startswith(_COMMUNICATION)]


def _is_python_itself(process: Process, caller: Caller) -> bool:
    return caller.name.startswith(("_socket.", PYTHON)) or (caller.library == "program" and process.is_python)


def clients_in_log(ports: Collection[int], mapped_files: Iterable[str]) -> list[str]:
    """The clients that a log of calls shows, though not what went through their sockets: the native ones among the mapped files
    if anything but a name server was connected to, and the ports of stores."""
    libraries = ("/".join(uri.rsplit("/", 2)[-2:]) for uri in mapped_files)
    loaded = _clients_among(libraries) if set(ports) - {_NAME_SERVER} else []
    return [*loaded, *_named(ports, ports_of_stores())]


def _clients_among(libraries: Iterable[str]) -> list[str]:
    return sorted({name for library in libraries for part, name in CLIENTS.items() if part in library})


def _named(ports: Iterable[int], known_ports: Mapping[int, str]) -> list[str]:
    """Name those of the ports at which stores are reached."""
    return [f"port {port} ({known_ports[port]})" for port in sorted(ports) if port in known_ports]


def ports_of_stores(proxy_ports: Collection[int] = ()) -> dict[int, str]:
    """The ports at which stores are reached, and by what they are known: the usual ones, those that the environment names,
    and those of proxies."""
    found = dict(_PORTS)
    for name in (*_ENDPOINTS, *map(str.lower, _ENDPOINTS)):
        value = os.environ.get(name, "")
        with suppress(ValueError):  # not of a URL
            if port := urlsplit(value if "://" in value else f"//{value}").port:
                found[port] = name
    return found | dict.fromkeys(proxy_ports, "the proxy")
