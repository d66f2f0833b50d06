"""Filters: which rows of a batch a replay keeps."""

from __future__ import annotations

from fnmatch import fnmatchcase
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.replayer.options import Filters

__all__ = ["fits", "text", "uri_fits"]

_NULL = {"rank": 0, "worker": 0, "sample_id": -1}
"""Values of rows without these columns: the stream 0/0, as in the view `ops`, and no sample."""


def fits(table: pa.Table, filters: Filters, origin_ns: int) -> np.ndarray:
    """Which rows of `table` pass; times count from `origin_ns`, the trace's first submit."""
    keep = np.ones(len(table), bool)
    if not filters:
        return keep
    since = table.column("t_submit").to_numpy() - origin_ns
    if filters.start is not None:
        keep &= since >= filters.start
    if filters.end is not None:
        keep &= since < filters.end
    if filters.op is not None:
        keep &= pc.is_in(text(table.column("op")), pa.array(filters.op, pa.string())).to_numpy()
    for name, wanted in (
        ("rank", filters.rank),
        ("worker", filters.worker),
        ("sample_id", filters.sample),
    ):
        if wanted is not None:
            keep &= np.isin(_known(table, name), np.array(wanted, np.int64))
    sampled_files = filters.sample_rate is not None and filters.sample_by == "file"
    if filters.uri_glob is not None or sampled_files:
        keep &= _files(table, filters, sampled_files)
    if filters.sample_rate is not None and filters.sample_by == "stream":
        keep &= _streams(table, filters)
    return keep


def uri_fits(uri: str, filters: Filters) -> bool:
    """Whether the glob and the sampling by file keep `uri`."""
    if filters.uri_glob is not None and not fnmatchcase(uri, filters.uri_glob):
        return False
    sampled = filters.sample_rate is not None and filters.sample_by == "file"
    return not sampled or _chosen(uri, filters)


def text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A text column as plain strings, whatever its encoding."""
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _files(table: pa.Table, filters: Filters, sampled: bool) -> np.ndarray:
    uris = text(table.column("uri")).dictionary_encode().combine_chunks()
    if not len(uris):
        return np.zeros(0, bool)
    good = np.array([uri_fits(uri, filters) for uri in uris.dictionary.to_pylist()], bool)
    found: np.ndarray = good[uris.indices.to_numpy()]
    return found


def _streams(table: pa.Table, filters: Filters) -> np.ndarray:
    pairs = np.stack([_known(table, "rank"), _known(table, "worker")])
    streams, which = np.unique(pairs, axis=1, return_inverse=True)
    good = np.array([_chosen(f"{rank}/{worker}", filters) for rank, worker in streams.T.tolist()], bool)
    found: np.ndarray = good[which.reshape(-1)]
    return found


def _chosen(key: str, filters: Filters) -> bool:
    """Draw from the seed and the key, so that a stream or file is kept in every batch or in none."""
    drawn = int.from_bytes(blake2b(f"{filters.sample_seed}/{key}".encode(), digest_size=8).digest()) / 2**64
    return filters.sample_rate is None or drawn < filters.sample_rate


def _known(table: pa.Table, name: str) -> np.ndarray:
    values: np.ndarray = pc.fill_null(table.column(name), _NULL[name]).to_numpy().astype(np.int64)
    return values
