"""Where a new trace may go, and how it replaces an old one.

A symbolic link is followed: the trace is at the directory that the link names, and the link stays.
Only a trace of tracekit is ever replaced, and only one that holds nothing else. The new directory and the
old one change places in one step, so that a crash leaves one of them.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from tracekit.errors import UsageError
from tracekit.schema import META_PREFIX
from tracekit.store.footer import read_footer
from tracekit.store.layout import SEGMENT_SUFFIX, is_trace_file, partial_path
from tracekit.store.lock import SharedLock, exclusive, try_exclusive
from tracekit.store.manifest import new_manifest, read_manifest, write_manifest
from tracekit.whole import fsync_dir

__all__ = ["beside", "check_target", "claiming", "publish", "replacing"]

_log = logging.getLogger(__name__)
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_SHOWN = 3
_ESCAPED = re.compile(r"\\([0-7]{3})")


def check_target(path: Path, *, overwrite: bool = False) -> None:
    """Raise UsageError if a new trace may not be put at `path`.

    An existing trace is replaced only with `overwrite`, and only if nothing else is in its directory, nobody is
    recording into it, and nothing is mounted there.
    """
    try:
        path.stat()
    except FileNotFoundError:
        return
    except OSError as error:  # a link to itself, a name that is too long, a directory that nobody may enter
        raise UsageError(f"{path}: {error.strerror}", "choose another path") from error
    if path.is_dir() and not any(path.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{path} exists", "choose another path, or give overwrite=True")
    if not path.is_dir() or read_manifest(path) is None:
        raise UsageError(f"{path} exists and is not a trace", "choose another path")
    foreign = _foreign(path)
    if foreign:
        more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        raise UsageError(
            f"{path} holds files that tracekit did not write: {', '.join(foreign[:_SHOWN])}{more}",
            "move them, or choose another path",
        )
    _refuse_mount_point(path)
    with exclusive(path, "replace"):
        pass


def beside(path: Path) -> Path:
    """Return a new hidden directory beside `path`, which `publish` makes the trace. Raises UsageError for a mount point."""
    _refuse_mount_point(path)
    aside = partial_path(Path(os.path.realpath(path)))
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise UsageError(
            f"no trace can be written at {path}: {error.strerror}", "choose another path"
        ) from error
    return aside


def _refuse_mount_point(path: Path) -> None:
    real = os.path.realpath(path)
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        mounts = []
    found = (_ESCAPED.sub(lambda escaped: chr(int(escaped[1], 8)), line.split(" ")[4]) for line in mounts)
    if os.path.ismount(real) or real in found:  # the second also knows directories of the same file system
        raise UsageError(
            f"{path} is a mount point, which no other directory can replace", "choose a directory in it"
        )


def _foreign(root: Path) -> list[str]:
    """Return the names in the trace `root` that are not files of that trace."""
    manifest = read_manifest(root)
    trace_id = "" if manifest is None else manifest.trace_id
    return sorted(
        entry.name
        for entry in root.iterdir()
        if not entry.is_file()
        or entry.is_symlink()
        or not (is_trace_file(entry.name) or entry.suffix == SEGMENT_SUFFIX)
        or _other_trace(entry, trace_id)
    )


def _other_trace(file: Path, trace_id: str) -> bool:
    """Return whether `file` is a readable Parquet file that is not a segment of the trace `trace_id`."""
    if file.suffix != SEGMENT_SUFFIX or file.name.startswith(("_", ".")):
        return False
    try:
        metadata = read_footer(file).metadata or {}
    except (OSError, pa.ArrowException):
        return not is_trace_file(file.name)
    return bool(metadata.get(f"{META_PREFIX}trace_id".encode(), b"").decode(errors="replace") != trace_id)


@contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[None]:
    """Put an empty trace in the place of the one at `path`, which is removed on a clean exit.

    If the body raises, the old trace is back at `path`. Without `overwrite`, or if nothing is there,
    does nothing. Raises UsageError as `check_target` does.
    """
    real = Path(os.path.realpath(path))
    if not overwrite or not real.exists() or not any(real.iterdir()):
        yield
        return
    check_target(path, overwrite=True)
    aside = partial_path(real)
    aside.mkdir()
    write_manifest(aside, new_manifest())
    held = SharedLock(aside)
    exchanged = False
    try:
        with exclusive(real, "replace"):
            _exchange(aside, real)
        exchanged = True
        yield
    except BaseException:
        if exchanged:
            _exchange(aside, real)
        shutil.rmtree(aside, ignore_errors=True)
        raise
    finally:
        held.release()
    _remove_trace(aside)


@contextmanager
def claiming(path: Path, *, overwrite: bool) -> Iterator[None]:
    """Put an empty trace at `path` for this process alone, as `replacing` does if there is a trace.

    Of several processes that claim one path at once, one gets it; the others get a UsageError, as if they had
    come later. If the body raises, the new trace is removed.
    """
    check_target(path, overwrite=overwrite)
    real = Path(os.path.realpath(path))
    if real.exists() and any(real.iterdir()):
        with replacing(path, overwrite=overwrite):
            yield
        return
    created = not real.exists()
    real.mkdir(parents=True, exist_ok=True)
    held = SharedLock(real)
    try:
        if not write_manifest(real, new_manifest()):
            raise UsageError(
                f"{path} exists", "another process has just begun to record there; choose another path"
            )
        try:
            yield
        except BaseException:
            held.release()
            with try_exclusive(real) as alone:  # unless another rank has joined
                if alone and not _empty_trace(real) and created:
                    real.rmdir()
            raise
    finally:
        held.release()


def publish(aside: Path, path: Path, *, overwrite: bool) -> None:
    """Make the complete trace directory `aside` appear at `path`. Raises UsageError, OSError."""
    real = Path(os.path.realpath(path))
    if overwrite and real.is_dir() and any(real.iterdir()):
        check_target(path, overwrite=True)
        with exclusive(real, "replace"):
            _exchange(aside, real)
        _remove_trace(aside)
    else:
        aside.rename(real)
    fsync_dir(real.parent)


def _exchange(first: Path, second: Path) -> None:
    """Exchange two directories: in one step where the system can, else with an instant in which `second` is absent."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        names = os.fsencode(first), os.fsencode(second)
        if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise OSError(code, os.strerror(code), str(second))
    between = partial_path(second)
    second.rename(between)
    first.rename(second)
    between.rename(first)


def _empty_trace(root: Path) -> set[str]:
    """Remove the files of the trace `root`; return the names of what else is there."""
    foreign = set(_foreign(root))
    for entry in root.iterdir():
        if entry.name not in foreign:
            entry.unlink()
    return foreign


def _remove_trace(root: Path) -> None:
    """Remove a trace that has been replaced; anything else that appeared in it meanwhile stays, and is logged."""
    foreign = _empty_trace(root)
    if foreign:
        _log.warning(
            "%s is kept: %s appeared in the trace as it was replaced", root, ", ".join(sorted(foreign))
        )
    else:
        root.rmdir()
