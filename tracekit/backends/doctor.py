"""`doctor`: what stands between this machine and a store, measured with a few requests.

It sends requests of its own and records none. Without `allow_writes` it changes nothing. With it, it writes one
object below the URI and deletes that again.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import islice
from typing import Any, Unpack

from tracekit.backends.base import Backend, ObjectInfo
from tracekit.backends.objects.http import WebBackend
from tracekit.backends.objects.store import ObjectStoreBackend
from tracekit.backends.objects.uri import split
from tracekit.backends.registry import applicable, backend_for
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.keywords import Flag, StoreKeywords
from tracekit.store_options import STORE
from tracekit.uri import clean, has_scheme, local_file
from tracekit.validation import parse_all

__all__ = ["Check", "Diagnosis", "doctor"]

_TIMES = 5
_SIZES = (4 << 10, 64 << 10, 1 << 20)
_MOST_SKEW_S = 60
_LISTED = 1000


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `ok` is None where there was nothing to check."""

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What `doctor` found. Latencies are medians in ns, by size of the range in bytes (0: no data)."""

    uri: str
    checks: tuple[Check, ...]
    latency_ns: dict[int, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.ok is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        latencies = [{"bytes": size, "latency_ns": took} for size, took in self.latency_ns.items()]
        checks = [asdict(check) for check in self.checks]
        return {"uri": self.uri, "ok": self.ok, "checks": checks, "latencies": latencies}


def doctor(uri: str, *, allow_writes: Flag = False, **store: Unpack[StoreKeywords]) -> Diagnosis:
    """Check that `uri` can be reached, listed and read, and how fast; with `allow_writes`, that it can be written.

    `store` are options of object stores (`client`, `endpoint`, ...). Raises UsageError for an invalid
    option; what the store refuses is a failed check.
    """
    options = {name: value for name, value in parse_all(STORE, store).items() if value is not None}
    uri = uri if has_scheme(uri) else str(local_file(uri))
    with closing(backend_for(uri, **applicable(uri, options))) as backend:
        return _Examination(uri, backend).run(allow_writes=bool(allow_writes))


class _Examination:
    """The checks in their order; each may use what an earlier one found."""

    def __init__(self, uri: str, backend: Backend) -> None:
        self._uri = uri
        self._backend = backend
        self._checks: list[Check] = []
        self._object: ObjectInfo | None = None
        self._latency: dict[int, int] = {}

    def run(self, *, allow_writes: bool) -> Diagnosis:
        self._check("list", self._list)
        self._known()
        self._check("clock", self._clock)
        self._check("read", self._read)
        self._check("ranges", self._ranges)
        self._check("round trip", self._round_trip)
        if allow_writes:
            self._check("write", self._write)
        else:
            self._add("write", None, "not tried; give allow_writes=True")
        return Diagnosis(clean(self._uri), tuple(self._checks), self._latency)

    def _add(self, name: str, ok: bool | None, detail: str) -> None:
        self._checks.append(Check(name, ok, detail))

    def _check(self, name: str, work: Callable[[], tuple[bool | None, str]]) -> None:
        try:
            self._add(name, *work())
        except (BackendError, UsageError) as error:
            self._add(name, False, str(error))

    def _known(self) -> None:
        """Put what is known without a request first; the region is known after one."""
        if not isinstance(self._backend, ObjectStoreBackend):
            return
        facts = self._backend.facts()
        if isinstance(self._backend, WebBackend):
            facts["endpoint"] = f"{self._backend.scheme}://{split(clean(self._uri)).container}"
        secure = "http://" not in facts["endpoint"]
        facts["TLS"] = "yes" if secure else "no: bytes and names can be read on the way"
        self._checks[:0] = [Check(name, None, detail) for name, detail in facts.items()]

    def _list(self) -> tuple[bool | None, str]:
        found = list(islice(self._backend.list(self._uri), _LISTED))
        self._object = max(found, key=lambda info: info.size, default=None)
        more = " or more" if len(found) == _LISTED else ""
        return (True, f"{len(found)}{more} objects") if found else (None, "nothing is there")

    def _clock(self) -> tuple[bool | None, str]:
        if not isinstance(self._backend, ObjectStoreBackend):
            return None, "this machine's own"
        before = time.time()
        told = self._backend.date(self._uri)
        if not told:
            return None, "the client does not show the store's clock"
        try:
            at = parsedate_to_datetime(told).timestamp() + 0.5  # the header is in whole seconds
        except (ValueError, OverflowError):
            return False, f"the store's clock is no date: {told[:40]}"
        skew_s = (before + time.time()) / 2 - at
        fine = abs(skew_s) < _MOST_SKEW_S
        return fine, f"{skew_s:+.0f} s against the store" + ("" if fine else "; set this machine's clock")

    def _read(self) -> tuple[bool | None, str]:
        if self._object is None:
            return None, "no object to read"
        size = min(self._object.size, _SIZES[-1])
        buffer = self._backend.allocate(size)
        handle = self._backend.open(self._object.uri)
        count = handle.read_into(0, buffer).nbytes
        handle.close()
        return count == size, f"{count:,} bytes of {self._object.uri}"

    def _ranges(self) -> tuple[bool | None, str]:
        if self._object is None or self._object.size < 3:
            return None, "no object of three bytes or more"
        size = min(self._object.size, _SIZES[0])
        whole, part = self._backend.allocate(size), self._backend.allocate(size - 2)
        handle = self._backend.open(self._object.uri)
        handle.read_into(0, whole)
        count = handle.read_into(1, part).nbytes
        past = handle.read_into(self._object.size, self._backend.allocate(16)).nbytes
        handle.close()
        if count != size - 2 or bytes(part) != bytes(whole[1 : size - 1]):
            return False, "a range has other bytes than the object"
        return past == 0, "right" if past == 0 else "a range past the end has bytes"

    def _round_trip(self) -> tuple[bool | None, str]:
        if self._object is None:
            return None, "no object to time"
        known = self._object
        self._latency[0] = _median(lambda: self._backend.stat(known.uri))
        handle = self._backend.open(known.uri)
        for size in _SIZES:
            if size <= known.size:
                buffer = self._backend.allocate(size)
                self._latency[size] = _median(partial(handle.read_into, 0, buffer))
        handle.close()
        return True, f"median of {_TIMES}"

    def _keeps(self, uri: str) -> bool:
        """Return whether the object there is not replaced by a create-only put."""
        try:
            self._backend.put(uri, b"TRACEKIT")
        except BackendError as error:
            if error.error_class != ErrorClass.EXISTS:
                raise
            return True
        return False

    def _write(self) -> tuple[bool | None, str]:
        if not isinstance(self._backend, ObjectStoreBackend):
            return None, "local files are not tried"
        uri = f"{self._uri.rstrip('/')}/tracekit-doctor-{uuid.uuid4().hex}"
        self._backend.put(uri, b"tracekit")
        try:
            obeyed = self._keeps(uri)
            data = bytes(self._backend.open(uri).get()[0])
        finally:
            deleted = self._backend.remove(uri)
        left = "" if deleted else f"; {split(uri).key} is left, delete it"
        if data != b"tracekit" or not obeyed:
            return False, f"an object that exists was replaced{left}"
        asked = " by asking first" if self._backend.ignores_create_only(uri) else ""
        return True, f"yes; objects that exist are kept{asked}{left}"


def _median(request: Callable[[], object]) -> int:
    took = []
    request()  # opens the connection
    for _ in range(_TIMES):
        began = time.monotonic_ns()
        request()
        took.append(time.monotonic_ns() - began)
    return int(statistics.median(took))
