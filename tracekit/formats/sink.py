"""Where an export goes: a file that appears whole or not at all, compressed as its name says."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from tracekit.errors import UsageError
from tracekit.whole import is_stream, whole_file

__all__ = ["STANDARD_OUTPUT", "open_sink"]

STANDARD_OUTPUT = Path("/dev/stdout")
_CODECS = {".zst": "zstd", ".gz": "gzip", ".bz2": "bz2", ".lz4": "lz4"}
_XZ = ".xz"


@contextmanager
def open_sink(path: Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Yield a binary stream that becomes the file `path` on a clean exit, and nothing otherwise.

    Raises UsageError if `path` is a directory, exists (unless `overwrite`, or it is a stream such as
    `/dev/stdout`), or cannot be made.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a directory", "choose another out=")
    if path.exists() and not overwrite and not is_stream(path):
        raise UsageError(f"{path} exists", "choose another out=, or give overwrite=True")
    codec = _CODECS.get(path.suffix.lower())
    try:
        with whole_file(path) as aside, aside.open("xb") as file:
            if path.suffix.lower() == _XZ:
                with lzma.open(file, "wb") as packed:
                    yield cast(BinaryIO, packed)
            elif codec is None:
                yield file
            else:
                with pa.CompressedOutputStream(pa.PythonFile(file, "w"), codec) as stream:
                    yield cast(BinaryIO, stream)
                    stream.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise UsageError(f"{path}: {error.strerror or error}", "choose another out=") from error
