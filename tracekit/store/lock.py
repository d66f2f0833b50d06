"""Tells a live recording from one that a crash left.

Each recorder holds a shared `flock` on the trace's directory for as long as it may write. Whoever repairs
or replaces the trace takes an exclusive one, and is refused while a recorder lives. The kernel drops a
lock with its process. Where the file system has no locks, the process id and boot id in the journals decide.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracekit.errors import TraceFormatError, UsageError
from tracekit.processes import is_alive
from tracekit.schema import META_PREFIX
from tracekit.store.journal import read_journal
from tracekit.store.layout import journals_of
from tracekit.store.manifest import Manifest, boot_id, create_or_join

__all__ = ["SharedLock", "exclusive", "is_held", "join_locked", "try_exclusive"]

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL)
_LOCKS = Path("/proc/locks")
_PATIENCE_S = 1.0
"""How long to wait for an exclusive lock: a recorder that closes holds one for some milliseconds."""


class SharedLock:
    """A recorder's hold on the trace directory `root`; waits while the trace is being repaired or replaced."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = -1
        self.renew()

    def renew(self) -> None:
        """Take the lock again, if it was released."""
        if self._directory < 0:
            self._directory = _open(self._root)
            _flock(self._directory, fcntl.LOCK_SH)

    def holds(self) -> bool:
        """Return whether the directory is still at its path."""
        return self._directory < 0 or _is_at(self._root, self._directory)

    def release(self) -> bool:
        """Release the lock, and return whether it was held. In a forked child the parent keeps its lock."""
        held = self._directory >= 0
        if held:
            os.close(self._directory)
            self._directory = -1
        return held


def join_locked(root: Path) -> tuple[Manifest, SharedLock]:
    """Create or join the trace at `root` and lock it; again if it was replaced in between."""
    while True:
        manifest = create_or_join(root)
        lock = SharedLock(root)
        if lock.holds():
            return manifest, lock
        lock.release()


@contextmanager
def exclusive(root: Path, purpose: str) -> Iterator[None]:
    """Hold the trace at `root` alone. Raises UsageError ("cannot PURPOSE …") while it is being recorded."""
    deadline = time.monotonic() + _PATIENCE_S
    while (directory := _lock_alone(root)) is None:
        if time.monotonic() > deadline:
            writers = _writers(root)
            if writers:
                by = f"it is being recorded by process {', '.join(map(str, writers))}"
                raise UsageError(f"cannot {purpose} {root}: {by}", "wait until it is closed")
            raise UsageError(
                f"cannot {purpose} {root}: it is being recorded, repaired or replaced by another process",
                "wait until that has ended",
            )
        time.sleep(0.02)
    try:
        yield
    finally:
        os.close(directory)


@contextmanager
def try_exclusive(root: Path) -> Iterator[bool]:
    """Hold the trace at `root` alone if nobody else holds it; yields whether that is so."""
    directory = _lock_alone(root)
    try:
        yield directory is not None
    finally:
        if directory is not None:
            os.close(directory)


def is_held(root: Path) -> bool | None:
    """Return whether a process of this machine holds a lock on the directory `root`; None if the kernel does not say.

    Takes no lock on it, so that nobody is kept waiting. A lock on `/`, which nobody waits for, shows whether the
    kernel lists locks.
    """
    try:
        directory = _open(Path("/"))
        try:
            fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
            listed = _LOCKS.read_text().splitlines()
            own = os.fstat(directory).st_ino
        finally:
            os.close(directory)
        inodes = {line.split()[-3].rpartition(":")[2] for line in listed if " FLOCK " in line}
        return str(root.stat().st_ino) in inodes if str(own) in inodes else None
    except OSError:
        return None


def _lock_alone(root: Path) -> int | None:
    directory = _open(root)
    try:
        supported = _flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(directory)
        return None
    if (not supported and _writers(root)) or not _is_at(root, directory):
        os.close(directory)
        return None
    return directory


def _is_at(root: Path, directory: int) -> bool:
    """Return whether the open `directory` is the one at `root`: it may have been replaced before it was locked."""
    try:
        there, held = root.stat(), os.fstat(directory)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)


def _open(root: Path) -> int:
    return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _flock(directory: int, how: int) -> bool:
    """Lock, and return whether the file system has locks. Raises BlockingIOError if another holds it."""
    try:
        fcntl.flock(directory, how)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def _writers(root: Path) -> list[int]:
    """Return the processes of this machine that have a journal in `root` and are alive."""
    alive = set()
    for journal in journals_of(root):
        try:
            contents = read_journal(journal)
        except (OSError, TraceFormatError):
            continue
        metadata = {} if contents is None else contents.schema.metadata or {}
        pid = metadata.get(f"{META_PREFIX}pid".encode(), b"")
        if metadata.get(f"{META_PREFIX}boot_id".encode(), b"").decode() == boot_id() and pid.isdigit():
            start = metadata.get(f"{META_PREFIX}started".encode(), b"").decode()
            alive |= {int(pid)} if is_alive(int(pid), int(start) if start else None) else set()
    return sorted(alive)
