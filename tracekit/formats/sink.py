"""Where an export goes: a file that appears whole or not at all, compressed as its name says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from tracekit.errors import UsageError
from tracekit.whole import whole_file

__all__ = ["open_sink"]

_CODECS = {".zst": "zstd", ".gz": "gzip", ".bz2": "bz2"}


@contextmanager
def open_sink(path: Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """A binary stream that becomes the file `path` on a clean exit, and nothing otherwise.

    Raises UsageError if `path` is taken (unless `overwrite` and it is a file) or cannot be made.
    """
    if path.is_dir() or (path.exists() and not overwrite):
        raise UsageError(f"{path} exists", "choose another -o path, or give --overwrite for a file")
    codec = _CODECS.get(path.suffix)
    try:
        with whole_file(path) as aside, aside.open("xb") as file:
            if codec is None:
                yield file
            else:
                with pa.CompressedOutputStream(pa.PythonFile(file, "w"), codec) as stream:
                    yield cast(BinaryIO, stream)
                    stream.flush()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", "choose another -o path") from error
