"""Columns of URIs without their secrets, by `uri.clean`."""

from __future__ import annotations

import pyarrow as pa

from tracekit.uri import clean

__all__ = ["clean_uris", "cleaned"]

_MARKS = (b"@", b"?", b"#")
"""Every URI that `clean` changes contains one of these, and hardly any other does."""


def cleaned(uris: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of URIs, in a dictionary, with every one clean."""
    return pa.chunked_array([_clean_dictionary(chunk) for chunk in uris.chunks], uris.type)


def clean_uris(uris: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return `uris`, plain text, with every URI clean."""
    return cleaned(uris.cast(pa.string()).dictionary_encode()).cast(pa.string())


def _clean_dictionary(uris: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return `uris` with every URI clean. One scan of their bytes finds the usual case: nothing to clean."""
    names = uris.dictionary
    data = names.buffers()[2]
    text = b"" if data is None else data.to_pybytes()
    if not any(mark in text for mark in _MARKS):
        return uris
    return pa.DictionaryArray.from_arrays(
        uris.indices, pa.array([uri and clean(uri) for uri in names.to_pylist()], pa.string())
    )
