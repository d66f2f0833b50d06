"""Create the objects that a trace reads, with the right sizes, at a target that lacks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Unpack

import numpy as np

from tracekit.backends.local.files import make_file, make_sparse
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.keywords import Count, StoreKeywords
from tracekit.options import MATERIALIZE
from tracekit.replayer.backends import Backends
from tracekit.replayer.mapping import parse_rules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.totals import plan_totals
from tracekit.store.reader import TraceLike, open_reader
from tracekit.store_options import STORE
from tracekit.uri import FILE_SCHEMES, scheme_of
from tracekit.validation import parse_all

__all__ = ["Materialized", "materialize"]

_CHUNK = 1 << 20


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
    watch: Callable[[int, int], None] | None = None,
    **store: Unpack[StoreKeywords],
) -> Materialized:
    """Create every object that a replay of the trace under the rules `map` would read.

    An object that did not exist when the trace was recorded is not created: reads of it fail again.

    Local files are sparse unless `seed` is given. With a seed, and always on object stores, the content
    comes from a seeded generator (seed 0 by default). An object that is large enough is kept; nothing is
    overwritten. `watch` is called with objects made and objects to make. `store` are options of object
    stores (`client`, `endpoint`, ...). Raises UsageError for an invalid option, or if an object exists and
    is too small; BackendError if one cannot be made.
    """
    options = parse_all(MATERIALIZE, {"map": map, "seed": seed, **store})
    if not options["map"]:
        raise UsageError("materialize needs a target", "give map='FROM=TO'")
    rules = parse_rules(options["map"])
    totals = plan_totals(open_reader(trace), rules, ReplayOptions(allow_writes=True))
    given = {name: options[name] for name in STORE if options[name] is not None}
    with closing(Backends(given, roots=rules.local_roots())) as backends:
        read = np.flatnonzero(totals.read).tolist()
        uris, sizes = [totals.plan.uris[i] for i in read], totals.sizes[read].tolist()
        missing, kept = _missing(uris, sizes, backends)
        sources = dict(zip(totals.plan.uris, totals.plan.sources, strict=True))
        for uri, _ in missing:
            rules.check_inside(sources[uri], uri)
        for index, (uri, size) in enumerate(missing):
            if scheme_of(uri) in FILE_SCHEMES:
                if options["seed"] is None:
                    make_sparse(uri, size, fence=backends.fence)
                else:
                    make_file(uri, size, seed=options["seed"] + index, fence=backends.fence)
            else:
                backends.of(uri).put(uri, _content(size, (options["seed"] or 0) + index))
            if watch is not None:
                watch(index + 1, len(missing))
    return Materialized(len(missing), kept, sum(size for _, size in missing))


def _missing(
    uris: Sequence[str], sizes: Sequence[int], backends: Backends
) -> tuple[list[tuple[str, int]], int]:
    """Return the objects to create, and how many exist. Raises UsageError for one that exists and is too small."""
    missing = []
    for uri, size in zip(uris, sizes, strict=True):
        try:
            there = backends.of(uri).stat(uri).size
        except BackendError as error:
            if error.error_class != ErrorClass.NOT_FOUND:
                raise
            missing.append((uri, size))
            continue
        if there < size:
            raise UsageError(
                f"{uri} exists with {there} bytes; the trace needs {size}", "map to another target"
            )
    return missing, len(uris) - len(missing)


def _content(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)
