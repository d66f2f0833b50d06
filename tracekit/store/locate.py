"""Finds the files of a trace by the names that users give: a path, `~`, a URI, a glob, or a list.

It knows names, not contents: the reader decides whether a file is a trace.
"""

from __future__ import annotations

import atexit
import functools
import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from tracekit.errors import TraceFormatError, UsageError
from tracekit.store.layout import check_name
from tracekit.store.remote import is_remote, remote_path
from tracekit.uri import clean, local_file, scheme_of

__all__ = ["Name", "each_trace", "literal", "local_path", "one_path", "trace_paths"]

Name = str | os.PathLike[str]
_PATTERN = frozenset("*?[")
_T = TypeVar("_T")


def local_path(name: Name) -> Path:
    """Return the path of a plain path, a path below `~`, or a `file://` URI.

    Raises UsageError for a URI of another scheme, or a name that the Parquet libraries cannot open.
    """
    text = os.fspath(name)
    if "://" in text and scheme_of(text) != "file":
        raise UsageError(
            f"{clean(text)}: a trace is a local directory or file", "give a path, or a file:// URI"
        )
    path = local_file(text)
    check_name(path)
    return path


def trace_paths(names: Name | Sequence[Name]) -> tuple[Path, ...]:
    """Return the paths that `names` stands for: one directory or file, or several Parquet files.

    A name is literal if something of that name exists; otherwise `*`, `?` and `[...]` make it a glob.
    Raises TraceFormatError if nothing is there, UsageError for an empty list.
    """
    if isinstance(names, (str, os.PathLike)):
        return _matches(names)
    found = [path for name in names for path in _matches(name)]
    if not found:
        raise UsageError("no trace is named", "give a trace directory or Parquet files")
    return tuple(dict.fromkeys(found))


def one_path(name: Name) -> Path:
    """Return the one path that `name` stands for. Raises as `trace_paths` does, and UsageError if it names several."""
    path, *more = trace_paths(name)
    if more:
        raise UsageError(f"{os.fspath(name)} names {len(more) + 1} files", "name one trace at a time")
    return path


def each_trace(names: Iterable[_T]) -> list[_T | Path]:
    """Return the traces that `names` stand for: a glob that matches directories names each of them.

    Everything else stays as it is: open traces, and globs of Parquet files, which together are one trace.
    """
    found: list[_T | Path] = []
    for name in names:
        matched = _matches(name) if isinstance(name, (str, os.PathLike)) else ()
        found += matched if len(matched) > 1 and all(path.is_dir() for path in matched) else [name]
    return found


def _matches(name: Name) -> tuple[Path, ...]:
    if is_remote(name):
        return (remote_path(name),)
    path = local_path(name)
    if not path.exists() and _PATTERN & set(str(path)):
        matched = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - a whole pattern, absolute or not
        if not matched:
            raise TraceFormatError(f"{path}: no file matches", "give a trace directory or Parquet files")
        return tuple(Path(match) for match in matched)
    return (path,)


def literal(path: Path) -> str:
    """Return `path` for a DuckDB function that expands globs, `~` and URLs, so that it means this one file."""
    text = str(path.absolute())
    return _link_to(text) if _PATTERN & set(text) else text


@functools.cache
def _link_to(name: str) -> str:
    """Return a link to the file `name`.

    No pattern of DuckDB matches a name that holds a backslash, or any in a folder where one begins with it.
    """
    link = str(Path(_folder_of_links()) / f"{secrets.token_hex(8)}{Path(name).suffix}")
    os.symlink(name, link)  # noqa: PTH211 - text as it is
    return link


@functools.cache
def _folder_of_links() -> str:
    folder, owner = tempfile.mkdtemp(prefix="tracekit-names-"), os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
    return folder
