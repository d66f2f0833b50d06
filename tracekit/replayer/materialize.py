"""Making the objects that a trace reads, with the right sizes, at a target that lacks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tracekit.backends.local.files import make_file, make_sparse
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.replayer.backends import Backends
from tracekit.replayer.foresight import foresee
from tracekit.replayer.mapping import parse_rules
from tracekit.store.reader import TraceLike, open_reader
from tracekit.uri import FILE_SCHEMES, scheme_of

__all__ = ["Materialized", "materialize"]

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Materialized:
    """What was made: objects and their bytes; `kept` were there already and large enough."""

    made: int
    kept: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def materialize(
    trace: TraceLike,
    mapping: Sequence[str],
    *,
    seed: int | None = None,
    store_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Materialized:
    """Make every object that a replay of the trace under `mapping` would read.

    Local files are sparse unless `seed` is given; with a seed, and on object stores
    always, the content is that of a seeded generator (seed 0 unless told). An object that
    is large enough is kept; nothing is overwritten. `store_options` go to object stores
    (`client`, `endpoint`, ...). Raises UsageError if one is there and
    too small, or there are no rules; BackendError if one cannot be made.
    """
    if not mapping:
        raise UsageError("materialize needs a target", "give --map FROM=TO")
    seen = foresee(open_reader(trace), parse_rules(mapping))
    with closing(Backends(store_options)) as backends:
        missing, kept = _missing(seen.plan.uris, seen.sizes.tolist(), backends)
        for index, (uri, size) in enumerate(missing):
            if scheme_of(uri) in FILE_SCHEMES:
                if seed is None:
                    make_sparse(uri, size)
                else:
                    make_file(uri, size, seed=seed + index)
            else:
                backends.of(uri).put(uri, _content(size, (seed or 0) + index))
            if progress is not None:
                progress(index + 1, len(missing))
    return Materialized(len(missing), kept, sum(size for _, size in missing))


def _missing(
    uris: Sequence[str], sizes: Sequence[int], backends: Backends
) -> tuple[list[tuple[str, int]], int]:
    """What is to be made, and how many are there already. Raises UsageError if one is there and too small."""
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
                f"{uri} is there with {there} bytes; the trace needs {size}", "map to another target"
            )
    return missing, len(uris) - len(missing)


def _content(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)
