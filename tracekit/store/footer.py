"""The footer of a Parquet file: how it is sealed, and how one is read that may be damaged or of another tool.

Parquet has checksums of pages and none of the footer, whose row counts, offsets and statistics decide which
ops a query sees. The seal is a digest of the footer in a key of its own, written as zeros and patched in
place before the file gets its name. Arrow does not copy the key into files that are made from this one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tracekit.schema import META_PREFIX
from tracekit.store.locate import literal
from tracekit.store.memory import bounded, memory_bytes
from tracekit.whole import is_stream

__all__ = ["is_sealed", "parquet_errors", "read_footer", "sealed_writer", "without_seal"]

_KEY = f"{META_PREFIX}footer_digest".encode()
_DIGITS = 32
_ZEROS = b"0" * _DIGITS
_FOUND = _KEY + bytes([0x18, _DIGITS])
"""The key and the head of its value, as Thrift's compact protocol writes them."""
_MAGIC = b"PAR1"
_TAIL = 8
"""The length of the footer in 4 bytes, and the magic number."""
_CHUNKS = "SELECT type FROM parquet_metadata(?) ORDER BY row_group_id, column_id"


@contextmanager
def sealed_writer(file: Path, schema: pa.Schema, **options: Any) -> Iterator[pq.ParquetWriter]:
    """Write `file` with the options of pq.ParquetWriter, and seal it on a clean exit.

    Arrow would take a relative name, such as `s3:/a`, for a URI.
    """
    with pq.ParquetWriter(file.absolute(), schema, **options) as writer:
        yield writer
        writer.add_key_value_metadata({_KEY.decode(): _ZEROS.decode()})
    with file.open("r+b") as opened:
        start, footer = _footer_bytes(opened)
        at = footer.rfind(_FOUND)
        if at < 0:
            raise pa.ArrowInvalid(f"{file}: no key to seal")
        opened.seek(start + at + len(_FOUND))
        opened.write(_digest(footer))


def read_footer(file: Path) -> pq.FileMetaData:
    """Return the footer of `file`. Raises OSError, and pa.ArrowException for one that is damaged or no Parquet."""
    if is_stream(file):
        raise pa.ArrowInvalid("it is a pipe or a device, not a file")
    with parquet_errors(), file.open("rb") as opened:
        _, raw = _footer_bytes(opened)
        at = raw.rfind(_FOUND)
        if at >= 0:
            begin = at + len(_FOUND)
            plain = raw[:begin] + _ZEROS + raw[begin + _DIGITS :]
            if raw[begin : begin + _DIGITS] != _digest(plain):
                raise pa.ArrowInvalid("its footer does not match its digest")
        opened.seek(0)
        if opened.read(len(_MAGIC)) != _MAGIC:  # which Arrow does not look at
            raise pa.ArrowInvalid("it does not begin as a Parquet file does")
        footer = pq.read_metadata(opened)
        if at < 0:
            if is_sealed(footer):
                raise pa.ArrowInvalid("the digest of its footer is damaged")
            _check_types(file, footer)
    return footer


def is_sealed(footer: pq.FileMetaData) -> bool:
    """Return whether the file of `footer`, as `read_footer` returned it, has a seal."""
    return _KEY in (footer.metadata or {})


def without_seal(metadata: Mapping[bytes, bytes] | None) -> dict[bytes, bytes]:
    """Return key-value metadata of a footer without the seal, which is of one file only."""
    return {key: value for key, value in (metadata or {}).items() if key != _KEY}


@contextmanager
def parquet_errors() -> Iterator[None]:
    """Raise pa.ArrowInvalid for what pyarrow raises of damaged files that is neither OSError nor ArrowException."""
    try:
        yield
    except (pa.ArrowException, OSError):
        raise
    except (ValueError, RuntimeError, OverflowError, LookupError) as error:
        raise pa.ArrowInvalid(str(error)) from error


def _footer_bytes(opened: BinaryIO) -> tuple[int, bytes]:
    size = opened.seek(0, os.SEEK_END)
    opened.seek(max(0, size - _TAIL))
    length = int.from_bytes(opened.read(4), "little")
    start = size - _TAIL - length
    if start < 0:
        return 0, b""  # no Parquet file, as Arrow will say
    opened.seek(start)
    return start, opened.read(length)


def _digest(footer: bytes) -> bytes:
    return hashlib.sha256(footer).hexdigest()[:_DIGITS].encode()


def _check_types(file: Path, footer: pq.FileMetaData) -> None:
    """Raise pa.ArrowInvalid if a chunk is not of its column's type: to ask pyarrow for it would end the process."""
    kinds = [footer.schema.column(at).physical_type for at in range(footer.num_columns)]
    try:
        with closing(bounded(memory_bytes(), threads=1)) as connection:
            chunks = connection.execute(_CHUNKS, [literal(file)]).fetchall()
    except duckdb.Error as error:
        raise pa.ArrowInvalid(str(error).splitlines()[0]) from error
    if [kind for (kind,) in chunks] != kinds * footer.num_row_groups:
        raise pa.ArrowInvalid("its row groups have other columns than the file")
