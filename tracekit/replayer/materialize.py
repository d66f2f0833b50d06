"""Create the objects that a trace reads, with the right sizes, at a target that lacks them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Unpack

import numpy as np

from tracekit.backends.base import Backend
from tracekit.backends.changing import CAPABILITIES, Upload
from tracekit.backends.local.files import make_file, make_sparse, seeded_content
from tracekit.errors import UsageError
from tracekit.keywords import Count, StoreKeywords
from tracekit.options import MATERIALIZE
from tracekit.replayer.backends import Backends
from tracekit.replayer.kinds import CHANGES
from tracekit.replayer.mapping import parse_rules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.totals import plan_totals
from tracekit.replayer.touched import found_sizes
from tracekit.store.reader import TraceLike, TraceReader, open_reader
from tracekit.store.statements import value_errors
from tracekit.store_options import STORE
from tracekit.uri import FILE_SCHEMES, scheme_of
from tracekit.validation import parse_all

__all__ = ["Materialized", "materialize"]

_PART = 8 << 20
"""Larger objects are uploaded in parts of this size or a multiple of it, so that none is held in memory."""
_MOST_PARTS = 9000
_REQUESTS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Materialized:
    """The number of objects created and their bytes; `kept` existed and were large enough."""

    made: int
    kept: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def materialize(
    trace: TraceLike,
    map: str | Iterable[str],
    *,
    seed: Count | None = None,
    clients: Count = 1,
    watch: Callable[[int, int], None] | None = None,
    **store: Unpack[StoreKeywords],
) -> Materialized:
    """Create every object that a replay of the trace, as `clients` clients, under the rules `map` would read.

    An object that did not exist when the trace was recorded is not created: reads of it fail again.

    Local files are sparse unless `seed` is given. With a seed, and always on object stores, the content
    comes from a seeded generator (seed 0 by default). An object that is large enough is kept; nothing is
    overwritten. `watch` is called with objects made and objects to make. `store` are options of object
    stores (`client`, `endpoint`, ...). Raises UsageError for an invalid option, or if an object exists and
    is too small; BackendError if one cannot be made.
    """
    options = parse_all(MATERIALIZE, {"map": map, "seed": seed, "clients": clients, **store})
    if not options["map"]:
        raise UsageError("materialize needs a target", "give map='FROM=TO'")
    rules = parse_rules(options["map"])
    reader = open_reader(trace)
    totals = plan_totals(
        reader, rules, ReplayOptions(allow_writes=_changes(reader), clients=options["clients"])
    )
    given = {name: options[name] for name in STORE if options[name] is not None}
    with closing(Backends(given, roots=rules.local_roots())) as backends:
        read = np.flatnonzero(totals.read).tolist()
        largest: dict[str, int] = {}  # several objects may map to one
        for uri, size in zip((totals.plan.uris[i] for i in read), totals.sizes[read].tolist(), strict=True):
            largest[uri] = max(size, largest.get(uri, 0))
        missing, kept = _missing(list(largest), list(largest.values()), backends)
        sources = dict(zip(totals.plan.uris, totals.plan.sources, strict=True))
        for uri, _ in missing:
            rules.check_inside(sources[uri], uri)
        for made, _ in enumerate(_make(missing, options["seed"], backends), start=1):
            if watch is not None:
                watch(made, len(missing))
    return Materialized(len(missing), kept, sum(size for _, size in missing))


def _changes(reader: TraceReader) -> bool:
    """Whether an op of the trace changes what is stored."""
    with closing(reader.connect()) as connection, value_errors(reader.path):
        sql = "SELECT count(*) FROM ops WHERE op IN (SELECT unnest($kinds))"
        return bool((connection.execute(sql, {"kinds": list(CHANGES)}).fetchone() or (0,))[0])


def _missing(
    uris: Sequence[str], sizes: Sequence[int], backends: Backends
) -> tuple[list[tuple[str, int]], int]:
    """Return the objects to create, and how many exist. Raises UsageError for one that exists and is too small."""
    missing = []
    for uri, size, there in zip(uris, sizes, found_sizes(backends, uris), strict=True):
        if there is None:
            missing.append((uri, size))
        elif there < size:
            raise UsageError(
                f"{uri} exists with {there} bytes; the trace needs {size}", "map to another target"
            )
    return missing, len(uris) - len(missing)


def _make(objects: Sequence[tuple[str, int]], seed: int | None, backends: Backends) -> Iterator[None]:
    """Create objects, those on stores several at once; yield after each that is whole."""
    stored: list[_Stored] = []
    for index, (uri, size) in enumerate(objects):
        if scheme_of(uri) not in FILE_SCHEMES:
            stored.append(_Stored(uri, size, (seed or 0) + index, backends.of(uri)))
            continue
        if seed is None:
            make_sparse(uri, size, fence=backends.fence)
        else:
            make_file(uri, size, seed=seed + index, fence=backends.fence)
        yield
    pieces = ((each, first) for each in stored for first in each.pieces())
    running: set[Future[bool]] = set()
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="tracekit-make") as pool:
        try:
            while True:
                for each, first in islice(pieces, _REQUESTS_AT_ONCE - len(running)):
                    running.add(pool.submit(each.send, first))
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for piece in ended:
                    if piece.result():
                        yield
        except BaseException:
            wait(running)
            for each in stored:
                each.give_up()
            raise


@dataclass(slots=True)
class _Stored:
    """An object to be made on a store: by one put, or as an upload of parts if it is large. Thread-safe."""

    uri: str
    size: int
    seed: int
    backend: Backend
    sent: int = 0
    upload: Upload | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def pieces(self) -> range:
        """Where the pieces begin that are sent one by one."""
        return range(0, max(self.size, 1), self._piece)

    def send(self, first: int) -> bool:
        """Send the piece that begins at `first`; return whether the object is whole then."""
        data = bytearray(min(self._piece, self.size - first))
        at = 0
        for chunk in seeded_content(len(data), self.seed, first):
            data[at : at + len(chunk)] = chunk
            at += len(chunk)
        if len(self.pieces()) == 1:
            self.backend.put(self.uri, memoryview(data))
            return True
        with self.lock:
            if self.upload is None:
                self.upload = self.backend.changer.upload(self.uri)
        self.upload.part(first // self._piece + 1, first, memoryview(data))
        with self.lock:
            self.sent += 1
            last = self.sent == len(self.pieces())
        if last:
            self.upload.complete()
            self.upload = None
        return last

    def give_up(self) -> None:
        """Abort an upload that is not complete."""
        if self.upload is not None:
            self.upload.abort()

    @property
    def _piece(self) -> int:
        if "part" not in CAPABILITIES.get(self.backend.scheme, ()):
            return max(self.size, 1)
        return max(_PART, -(-self.size // _MOST_PARTS // _PART) * _PART)
