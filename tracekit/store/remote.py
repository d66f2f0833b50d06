"""Traces on object stores, read where they are: paths that name objects, and their files by ranges.

A `RemotePath` is used as any path of the store room is, for reading. The room knows no backend: `tracekit.remote`, which joins both,
is imported when the first such path is read.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any, Protocol, cast

import pyarrow as pa

from tracekit.uri import FILE_SCHEMES, clean, has_scheme, scheme_of

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = ["Objects", "RemotePath", "dataset_of", "is_remote", "local_or_remote", "remote_path"]

_OBJECTS = "tracekit.remote"
_READ_ONLY = 0o100444


class Objects(Protocol):
    """What reads object stores. Raises FileNotFoundError for what is not there, BackendError for any other failure."""

    def size(self, uri: str) -> int:
        """Return the size of an object in bytes."""
        ...

    def below(self, folder: str) -> Iterator[tuple[str, int]]:
        """Yield the name below `folder` and the size of every object there."""
        ...

    def read_into(self, uri: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from byte `offset` of an object on; return the bytes that there were."""
        ...


@cache
def _objects() -> Objects:
    return cast(Objects, importlib.import_module(_OBJECTS).Stores())


def is_remote(name: str | os.PathLike[str]) -> bool:
    """Return whether `name` is the URI of something on an object store."""
    text = os.fspath(name)
    return has_scheme(text) and scheme_of(text) not in FILE_SCHEMES


class RemotePath(PosixPath):
    """The URI of an object or of a folder of objects, as a path that can be read and not written."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        return str(self)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        size = self.__dict__.get("listed_size")
        if size is None:
            size = _objects().size(str(self))
        return os.stat_result((_READ_ONLY, 0, 0, 1, 0, 0, size, 0, 0, 0))

    def is_file(self, **_: Any) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, **_: Any) -> bool:
        return next(_objects().below(str(self)), None) is not None

    def exists(self, **_: Any) -> bool:
        return self.is_dir() or self.is_file()

    def is_symlink(self) -> bool:
        return False

    def iterdir(self) -> Generator[RemotePath, None, None]:
        for name, size in _objects().below(str(self)):
            if "/" not in name:
                found = self / name
                found.__dict__["listed_size"] = size
                yield found

    def open(self, mode: str = "r", *_: Any, **options: Any) -> Any:
        if mode not in ("r", "rb"):
            raise io.UnsupportedOperation(f"{self} cannot be written as a file")
        file = io.BufferedReader(_ObjectFile(str(self), self.stat().st_size))
        return io.TextIOWrapper(file, encoding=options.get("encoding")) if mode == "r" else file

    def read_bytes(self) -> bytes:
        with self.open("rb") as file:
            return cast(bytes, file.read())

    def read_text(self, encoding: str | None = None, *_: Any, **__: Any) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def resolve(self, strict: bool = False) -> RemotePath:
        return self

    def absolute(self) -> RemotePath:
        return self

    def expanduser(self) -> RemotePath:
        return self

    def ranges(self) -> pa.PythonFile:
        """Return the object as a file of Arrow, which reads the ranges that it needs."""
        return pa.PythonFile(_ObjectFile(str(self), self.stat().st_size), mode="r")


def remote_path(name: str | os.PathLike[str]) -> RemotePath:
    """Return the path of a URI, without what must not be shown."""
    return RemotePath(clean(os.fspath(name)).rstrip("/"))


def dataset_of(file: RemotePath) -> ds.Dataset:
    """Return a Parquet object as a dataset, of which a query reads only the columns and row groups that it needs."""
    import pyarrow.dataset as ds  # which imports pandas, where that is installed

    scan = ds.ParquetFragmentScanOptions(pre_buffer=True, page_checksum_verification=True)
    kind = ds.ParquetFileFormat(default_fragment_scan_options=scan)
    fragment = kind.make_fragment(file.ranges())
    return ds.FileSystemDataset([fragment], fragment.physical_schema, kind)


class _ObjectFile(io.RawIOBase):
    """One object as a file: each read is one request for a range."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri, self._size, self._at = uri, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def size(self) -> int:
        return self._size

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer).cast("B") as whole:
            wanted = min(len(whole), max(self._size - self._at, 0))
            if not wanted:
                return 0
            got = _objects().read_into(self._uri, self._at, whole[:wanted])
        self._at += got
        return got


def local_or_remote(path: Path) -> str | pa.PythonFile:
    """Return what Arrow opens `path` by. It takes the relative name of a file, such as `s3:/a`, for a URI."""
    return path.ranges() if isinstance(path, RemotePath) else str(path.absolute())
