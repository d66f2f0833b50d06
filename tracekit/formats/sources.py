"""Resolves what an import reads: files, directories, globs, standard input and objects of a store.

Standard input and objects are copied to a temporary file first: formats look at a log more than once.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tracekit.backends.base import Backend
from tracekit.backends.registry import backend_for
from tracekit.errors import TraceFormatError
from tracekit.uri import FILE_SCHEMES, clean, has_scheme, local_file, scheme_of

__all__ = ["STANDARD_INPUT", "Log", "SourceLike", "opened"]

STANDARD_INPUT = "-"
SourceLike = str | os.PathLike[str]
_PATTERN = re.compile(r"[*?\[]")
_PIECE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Log:
    """One log: where it can be read, and what messages call it."""

    path: Path
    name: str


@contextmanager
def opened(
    sources: SourceLike | Sequence[SourceLike], format: str, *, directories: bool
) -> Iterator[list[Log]]:
    """Yield the logs that `sources` name: paths, globs, `-` for standard input, or URIs.

    `directories`: whether a directory is a log. Raises TraceFormatError if a source names nothing.
    """
    given = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not given:
        raise TraceFormatError("no log is given", f"give a {format} log")
    if sum(os.fspath(source) == STANDARD_INPUT for source in given) > 1:
        raise TraceFormatError("standard input is given twice", "give - once")
    with tempfile.TemporaryDirectory(prefix="tracekit-") as folder:
        found: list[Log] = []
        for number, source in enumerate(given):
            spool = Path(folder) / str(number)
            text = os.fspath(source)
            if text == STANDARD_INPUT:
                with spool.open("wb") as file:
                    shutil.copyfileobj(sys.stdin.buffer, file, _PIECE_BYTES)
                found.append(Log(spool, "standard input"))
            elif has_scheme(text) and scheme_of(text) not in FILE_SCHEMES:
                found += _objects(text, spool)
            else:
                found += _files(local_file(text), format, directories=directories)
        yield found


def _files(path: Path, format: str, *, directories: bool) -> list[Log]:
    if path.is_file() or (directories and path.is_dir()):
        return [Log(path, str(path))]
    if not path.exists() and _PATTERN.search(str(path)):
        found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        matches = sorted(match for match in found if match.is_file() or (directories and match.is_dir()))
        if matches:
            return [Log(match, str(match)) for match in matches]
        raise TraceFormatError(f"{path}: no file matches", f"give a {format} log")
    what = "is a directory" if path.is_dir() else "no such file"
    raise TraceFormatError(f"{path}: {what}", f"give a {format} log")


def _objects(uri: str, spool: Path) -> list[Log]:
    """Copy the object `uri`, or those that it matches as a glob, to files below `spool`."""
    with closing(backend_for(uri)) as backend:
        names = [uri]
        found = _PATTERN.search(uri)
        if found:
            prefix = uri[: found.start()].rpartition("/")[0] + "/"
            there = {one.uri for one in backend.list(prefix)}
            names = [uri] if uri in there else sorted(name for name in there if fnmatchcase(name, uri))
            if not names:
                raise TraceFormatError(f"{clean(uri)}: no object matches", "see what is there")
        spool.mkdir()
        return [
            Log(_copied(backend, name, spool / str(place)), clean(name)) for place, name in enumerate(names)
        ]


def _copied(backend: Backend, uri: str, to: Path) -> Path:
    with closing(backend.open(uri)) as handle, to.open("wb") as file:
        size, offset = handle.size, 0
        buffer = memoryview(bytearray(min(_PIECE_BYTES, max(size, 1))))
        while offset < size:
            moved = handle.read_into(offset, buffer[: min(len(buffer), size - offset)]).nbytes
            if not moved:
                raise TraceFormatError(f"{clean(uri)} ends at {offset} of its {size} bytes", "copy it again")
            file.write(buffer[:moved])
            offset += moved
    return to
