"""Keeps changes of local files below given directories, whatever `..` and symbolic links are in their names.

The kernel resolves a name and refuses one that leads outside (`openat2` with RESOLVE_BENEATH), in the same
step in which it opens the directory. So a link that is swapped in between does not help. Without `openat2`,
and for absolute links that stay inside, the resolved name is walked without following any link.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["EVERYWHERE", "Fence"]

_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_WALK_INSTEAD = (errno.ENOSYS, errno.EPERM, errno.EXDEV, errno.EAGAIN, errno.E2BIG, errno.EINVAL)
"""Not in this kernel, refused by a sandbox, an absolute link, or a race: the walk decides."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class Fence:
    """The directories below which local files may be changed; without any, everywhere. Thread-safe.

    A root that is not a directory stands for itself alone. Raises PermissionError for a change outside.
    """

    def __init__(self, roots: Iterable[str] = ()) -> None:
        # The shortest first: a root inside another is allowed anyway.
        self._roots = sorted({os.path.abspath(root) for root in roots}, key=len)
        self._bases: dict[str, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def parent(self, path: Path, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Yield a descriptor of the directory of `path`, and the name of `path` in it; with `make`, make it first."""
        if not self._roots:
            if make:
                path.parent.mkdir(parents=True, exist_ok=True)
            directory = os.open(path.parent, _DIRECTORY)
        else:
            base, inside = self._place(path)
            *folders, name = inside.split("/")
            if name in ("", ".", ".."):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if make:
                _make(base, folders)
            directory = _open(base, "/".join(folders) or ".", _DIRECTORY)
        try:
            yield directory, path.name if not self._roots else name
        finally:
            os.close(directory)

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        """Open `path` as `os.open` does."""
        if not self._roots:
            return os.open(path, flags, mode)
        base, inside = self._place(path)
        return _open(base, inside, flags, mode)

    def close(self) -> None:
        """Close the directories that are open."""
        with self._lock:
            bases, self._bases = self._bases, {}
        for base in bases.values():
            os.close(base)

    def _place(self, path: Path) -> tuple[int, str]:
        """Return a descriptor of the root of `path`, and the rest of `path`."""
        text = str(path)
        for root in self._roots:
            if text == root:
                return self._base(os.path.dirname(root)), os.path.basename(root)
            if text.startswith(root.rstrip("/") + "/"):
                return self._base(root), text[len(root.rstrip("/")) + 1 :]
        raise _outside()

    def _base(self, root: str) -> int:
        with self._lock:
            if root not in self._bases:
                Path(os.path.realpath(root)).mkdir(parents=True, exist_ok=True)
                self._bases[root] = os.open(root, _DIRECTORY)
            return self._bases[root]


EVERYWHERE = Fence()
"""For those who may change any file."""


def _outside() -> PermissionError:
    return PermissionError(errno.EPERM, "it leads outside the mapped target")


def _make(base: int, folders: list[str]) -> None:
    """Make the directories that are missing."""
    for depth in range(1, len(folders) + 1):
        try:
            os.close(_open(base, "/".join(folders[:depth]), _DIRECTORY))
        except FileNotFoundError:
            above = _open(base, "/".join(folders[: depth - 1]) or ".", _DIRECTORY)
            try:
                os.mkdir(folders[depth - 1], dir_fd=above)
            except FileExistsError:  # another thread was first
                pass
            finally:
                os.close(above)


def _open(base: int, inside: str, flags: int, mode: int = 0o666) -> int:
    """Open the file `inside` the directory `base`. Raises PermissionError if it leads outside."""
    how = _OpenHow(
        flags | os.O_CLOEXEC, mode if flags & os.O_CREAT else 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS
    )
    opened = int(_syscall(_OPENAT2, base, os.fsencode(inside), ctypes.byref(how), ctypes.sizeof(how)))
    if opened >= 0:
        return opened
    number = ctypes.get_errno()
    if number not in _WALK_INSTEAD:
        raise OSError(number, os.strerror(number))
    return _walk(base, inside, flags, mode)


def _walk(base: int, inside: str, flags: int, mode: int) -> int:
    root = os.path.realpath(f"/proc/self/fd/{base}")
    real = os.path.realpath(os.path.join(root, inside))
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise _outside()
    *folders, name = os.path.relpath(real, root).split("/")
    at = os.dup(base)
    try:
        for folder in folders:
            below = os.open(folder, _DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=at)
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link has come since the name was resolved
            raise _outside() from error
        raise
    finally:
        os.close(at)


_syscall = ctypes.CDLL(None, use_errno=True).syscall
