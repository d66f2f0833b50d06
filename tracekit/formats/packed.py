"""Opens logs for reading, decompressed on the way. It knows nothing of what is in them.

Recognises gzip, zstd, bzip2, xz and lz4 by their first bytes. Other packed files are refused by name.
"""

from __future__ import annotations

import lzma
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa

from tracekit.errors import TraceFormatError

__all__ = ["Stream", "UpToTheBreak", "codec_of", "opened", "unpacked_file"]

_CODECS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
_REFUSED = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x1f\x9d": "compressed by compress (.Z)",
    b"\x02\x21\x4c\x18": "compressed in lz4's legacy form",
    b"PAR1": "a Parquet file",
}
_UNPACK = "gzip, zstd, bzip2, xz and lz4 are read as they are: convert the log to one of these, or to text"
_HEAD_BYTES = 6
_SKIPPABLE = b"\x2a\x4d\x18"
"""The last three bytes of a frame's magic that zstd and lz4 pass over; a tool's index may stand there."""
_RATIO_MAX = 500
_RATIO_FROM_BYTES = 64 << 20
_TOTAL_MAX_BYTES = 1 << 40
"""A compressed log that grows beyond these is taken for one that was made to fill the disk."""
_BROKEN = (OSError, EOFError, lzma.LZMAError, pa.ArrowException)
"""What reading raises where a compressed stream breaks off."""
_SKIP_BYTES = 1 << 20
_SMALL_BYTES = (512, 1)


class Stream(Protocol):
    """What can be read."""

    def read(self, size: int, /) -> bytes: ...


@contextmanager
def opened(source: Path) -> Iterator[Stream]:
    """Open `source` for reading, decompressed. Raises TraceFormatError if it cannot be opened."""
    try:
        file = source.open("rb")
    except OSError as error:
        raise TraceFormatError(f"{source}: {error.strerror}", "give a log file") from error
    with file:
        head = _head(file)
        refused = next((what for magic, what in _REFUSED.items() if head.startswith(magic)), None)
        if refused is not None:
            raise TraceFormatError(f"{source} is {refused}", _UNPACK)
        codec = codec_of(head)
        if codec is None:
            yield file
        elif codec == "xz":
            with lzma.open(file) as unpacked:
                yield _Bounded(source, file, unpacked)
        else:
            with pa.CompressedInputStream(pa.PythonFile(file, "r"), codec) as unpacked:
                yield _Bounded(source, file, unpacked)


@contextmanager
def unpacked_file(source: Path) -> Iterator[Path]:
    """Yield a file with the decompressed contents of `source`, for libraries that open it: `source` itself if it is plain."""
    with source.open("rb") as file:
        if codec_of(_head(file)) is None:
            yield source
            return
    with tempfile.TemporaryDirectory(prefix="tracekit-") as folder, opened(source) as stream:
        plain = Path(folder) / source.name
        with plain.open("wb") as out:
            while part := _sure(source, stream):
                out.write(part)
        yield plain


def _sure(source: Path, stream: Stream) -> bytes:
    """Return the next part of a log of which nothing may be missing. Raises TraceFormatError if it breaks off."""
    try:
        return stream.read(_SKIP_BYTES)
    except _BROKEN as error:
        raise TraceFormatError(f"{source} cannot be read: {error}", "is the file whole?") from error


def codec_of(head: bytes) -> str | None:
    """Return the compression of data that begins with `head`; None for data that is not compressed."""
    return next((name for magic, name in _CODECS.items() if head.startswith(magic)), None)


class UpToTheBreak:
    """Reads a log as `opened` does. A compressed one that breaks off ends there, and `broken` says why."""

    def __init__(self, source: Path, stream: Stream) -> None:
        self.broken = ""
        self._source = source
        self._stream = stream
        self._done = 0
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end, and at the break."""
        if not self.broken:
            try:
                part = self._stream.read(size)
            except _BROKEN as error:
                self.broken = " ".join(str(error).split()) or "it is damaged"
                self._rest = b"".join(_up_to_the_break(self._source, self._done))
            else:
                self._done += len(part)
                return part
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes, or the fewer that are left."""
        parts = []
        while size and (part := self.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _up_to_the_break(source: Path, done: int) -> Iterator[bytes]:
    """Yield what follows the first `done` bytes of a compressed log that breaks off, up to the break.

    A read that fails loses what it had decompressed, so this reads less and less at a time.
    """
    for size in _SMALL_BYTES:
        with opened(source) as stream:
            try:
                left = done
                while left:
                    left -= len(stream.read(min(left, _SKIP_BYTES)))
                while part := stream.read(size):
                    done += len(part)
                    yield part
            except _BROKEN:
                continue


def _head(file: BinaryIO) -> bytes:
    """Return the first bytes of `file` behind frames that are to be passed over; it is left at its beginning."""
    head = file.read(_HEAD_BYTES)
    while head[1:4] == _SKIPPABLE and head[0] >> 4 == 5:
        file.seek(-len(head) + 4, 1)
        size = int.from_bytes(file.read(4), "little")
        file.seek(size, 1)
        head = file.read(_HEAD_BYTES)
    file.seek(0)
    return head


class _Bounded:
    """A decompressed stream that refuses to grow without bounds."""

    def __init__(self, source: Path, packed: BinaryIO, unpacked: Stream) -> None:
        self._source = source
        self._packed = packed
        self._unpacked = unpacked
        self._done = 0

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes. Raises TraceFormatError beyond the bounds."""
        part = self._unpacked.read(size)
        self._done += len(part)
        read = self._packed.tell()
        if self._done > _RATIO_FROM_BYTES and self._done > _RATIO_MAX * read:
            raise TraceFormatError(
                f"{self._source}: {read} compressed bytes have grown to {self._done}",
                "if that is right, decompress the log before the import",
            )
        if self._done > _TOTAL_MAX_BYTES:
            raise TraceFormatError(
                f"{self._source} is larger than 1 TiB when decompressed", "import a part of it"
            )
        return part
