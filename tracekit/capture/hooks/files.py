"""Records Python file I/O: `tracekit.open`, and the opt-in patch of `open` and `os.pread`.

A recorded file is an `io.FileIO` below the usual buffers, so each row is a request to the
kernel, with its offset, length and time. What C code does with a descriptor (numpy's
`fromfile`, mmap) is not recorded here but by `tracekit capture`. Arguments that this module
does not know are passed to the built-in `open`.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from stat import S_ISREG
from time import monotonic_ns
from types import ModuleType
from typing import IO, Any

from tracekit.capture import session as sessions
from tracekit.capture.hooks.descriptors import OS_CALLS, admitted, known_fds, open_files
from tracekit.capture.outcome import error_class
from tracekit.capture.replacing import replace
from tracekit.capture.session import hook_failed, record
from tracekit.capture.writes import WRITE_KINDS

__all__ = ["RecordedFileIO", "install", "open"]

_real_open = io.open
_readinto, _read, _readall, _write, _tell, _truncate = (
    io.FileIO.readinto,
    io.FileIO.read,
    io.FileIO.readall,
    io.FileIO.write,
    io.FileIO.tell,
    io.FileIO.truncate,
)
_ABILITIES: tuple[set[Any], ...] = (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks)
_MODES = frozenset("rwxab+t")


class RecordedFileIO(io.FileIO):
    """A raw file that records each read and write. It otherwise behaves like `io.FileIO`."""

    def __init__(
        self, file: Any, mode: str = "r", closefd: bool = True, opener: Any = None, uri: str | None = None
    ) -> None:
        super().__init__(file, mode, closefd, opener)
        if known_fds:
            known_fds.pop(super().fileno(), None)  # registered by an opener's os.open; this object closes it
        self._uri = uri
        self._handed_out = False
        open_files.add(self)

    def readinto(self, buffer: Any, /) -> int | None:
        uri = self._uri
        if uri is None:
            return _readinto(self, buffer)
        begin = _tell(self)
        submit = monotonic_ns()
        try:
            moved = _readinto(self, buffer)
        except OSError as error:
            self._failed("read", begin, memoryview(buffer).nbytes, submit, error)
            raise
        took = monotonic_ns() - submit
        asked = buffer.nbytes if type(buffer) is memoryview else memoryview(buffer).nbytes
        record(uri, begin, asked, submit, took, "read", moved)
        return moved

    def read(self, size: int | None = -1, /) -> bytes | None:  # type: ignore[override]
        return self._read(_read, size if isinstance(size, int) and size >= 0 else None, size)

    def readall(self) -> bytes | None:  # type: ignore[override]
        return self._read(_readall, None)

    def write(self, data: Any, /) -> int | None:  # type: ignore[override]
        if self._uri is None:
            return _write(self, data)
        begin = None if "a" in self.mode else _tell(self)
        submit = monotonic_ns()
        try:
            moved = _write(self, data)
        except OSError as error:
            self._failed("write", begin, memoryview(data).nbytes, submit, error)
            raise
        took = monotonic_ns() - submit
        if begin is None and moved is not None:
            begin = _tell(self) - moved  # the position of an append is known only afterwards
        record(self._uri, begin, memoryview(data).nbytes, submit, took, "write", moved)
        return moved

    def truncate(self, size: int | None = None, /) -> int:
        submit = monotonic_ns()
        try:
            left = _truncate(self, size)
        except OSError as error:
            self._failed("truncate", None, size, submit, error)
            raise
        if self._uri is not None:
            record(self._uri, None, left, submit, monotonic_ns() - submit, "truncate")
        return left

    def fileno(self) -> int:
        fd = super().fileno()
        if not self._handed_out:
            self._handed_out = True  # from now on the descriptor may be used directly
            known_fds[fd] = self._uri
        return fd

    def close(self) -> None:
        if self._handed_out and not self.closed:
            known_fds.pop(super().fileno(), None)
        super().close()

    def _read(self, call: Any, asked: int | None, *size: int | None) -> bytes | None:
        uri = self._uri
        if uri is None:
            return call(self, *size)  # type: ignore[no-any-return]
        begin = _tell(self)
        submit = monotonic_ns()
        try:
            data: bytes | None = call(self, *size)
        except OSError as error:
            self._failed("read", begin, asked, submit, error)
            raise
        took = monotonic_ns() - submit
        if data is not None:
            moved = len(data)
            record(uri, begin, moved if asked is None else asked, submit, took, "read", moved)
        return data

    def _failed(self, op: str, begin: int | None, length: int | None, submit: int, error: OSError) -> None:
        if self._uri is not None:
            took = monotonic_ns() - submit
            moved = 0 if op in WRITE_KINDS or op == "read" else None
            record(self._uri, begin, length, submit, took, op, moved, None, error_class(error))


def open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> IO[Any]:
    """Open a file like the built-in `open`, and record its reads and writes while a capture is active."""
    uri = None
    if sessions.active() is not None and _plain(file, mode, buffering, encoding, errors, newline):
        try:
            name = os.fspath(file)
            uri = admitted(os.path.abspath(os.fsdecode(name)))
        except Exception as error:  # noqa: BLE001 - the file is opened without recording
            hook_failed("files", error)
    if uri is None or opener is not None:
        opened = _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if known_fds:
            known_fds.pop(opened.fileno(), None)
        return opened
    submit = monotonic_ns()
    try:
        raw = RecordedFileIO(name, mode.replace("b", "").replace("t", ""), closefd, opener, uri)
    except OSError as error:
        if "r" in mode:
            record(uri, None, None, submit, monotonic_ns() - submit, "stat", None, None, error_class(error))
        raise
    took = monotonic_ns() - submit
    opened = _buffered(raw, mode, buffering, encoding, errors, newline)
    if "w" in mode and raw._uri is not None:
        record(uri, None, 0, submit, took, "truncate")
    return opened


def install(_: ModuleType) -> Callable[[], None]:
    """Replace the built-in `open`, and record `os.read`, `os.pread` and related calls."""
    patches: list[tuple[Any, str, Any]] = [(builtins, "open", open), (io, "open", open)]
    patches += [(os, name, make(getattr(os, name))) for name, make in OS_CALLS.items() if hasattr(os, name)]
    before = [getattr(owner, name) for owner, name, _ in patches]
    put_back = replace(patches)
    for able in _ABILITIES:  # shutil asks them what a function accepts
        able.update(new for (_, _, new), old in zip(patches, before, strict=True) if old in able)

    def undo() -> None:
        put_back()
        for able in _ABILITIES:
            able.difference_update(new for _, _, new in patches)
        known_fds.clear()

    return undo


def _plain(
    file: Any, mode: Any, buffering: Any, encoding: str | None, errors: str | None, newline: str | None
) -> bool:
    """Whether `_buffered` treats the arguments as the built-in `open` does.

    All other arguments, including invalid ones, are passed to the built-in, which raises its own errors.
    """
    if not isinstance(mode, str) or not isinstance(file, (str, bytes, os.PathLike)):
        return False
    letters = set(mode)
    binary = "b" in letters
    return (
        len(letters) == len(mode)
        and letters <= _MODES
        and sum(letter in letters for letter in "rwxa") == 1
        and not (binary and "t" in letters)
        and isinstance(buffering, int)
        and (buffering != 0 or binary)
        and (buffering != 1 or not binary)
        and not (binary and (encoding is not None or errors is not None or newline is not None))
        and newline in (None, "", "\n", "\r", "\r\n")
    )


def _buffered(
    raw: RecordedFileIO,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> IO[Any]:
    """Wrap a raw file in the buffers that the built-in `open` uses."""
    result: Any = raw
    try:
        status = os.fstat(io.FileIO.fileno(raw))
        if not S_ISREG(status.st_mode):
            raw._uri = None  # a terminal, a pipe or a device is not storage
        line_buffering = buffering == 1 or (buffering < 0 and raw._uri is None and raw.isatty())
        if buffering < 0 or line_buffering:
            buffering = status.st_blksize if status.st_blksize > 1 else io.DEFAULT_BUFFER_SIZE
        if buffering == 0:
            return result  # type: ignore[no-any-return]
        if "+" in mode:
            result = io.BufferedRandom(raw, buffering)
        elif "r" in mode:
            result = io.BufferedReader(raw, buffering)
        else:
            result = io.BufferedWriter(raw, buffering)
        if "b" in mode:
            return result  # type: ignore[no-any-return]
        result = io.TextIOWrapper(result, io.text_encoding(encoding, 3), errors, newline, line_buffering)
        result.mode = mode
        return result  # type: ignore[no-any-return]
    except BaseException:
        result.close()
        raise
