"""Records the reads and writes of KvikIO: of remote files, and of files where no engine sees them.

A row is one call of Python; the requests into which KvikIO splits it are not visible here. With GPUDirect Storage the bytes
of a file pass by the C library. In its compatibility mode KvikIO calls the C library, and where an engine of
`tracekit capture` records that, a file gives no rows here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from tracekit.backends.objects.uri import join
from tracekit.capture import session as sessions
from tracekit.capture.attempt import Attempt
from tracekit.capture.hooks.descriptors import uri_of_descriptor
from tracekit.capture.outcome import error_class
from tracekit.capture.replacing import replace

__all__ = ["install_files", "install_remote"]

_SHOWN = re.compile(r'<RemoteFile "(.*)">', re.DOTALL)
_BUCKET_HOST = re.compile(r"(.+?)\.s3[.-][^/]*amazonaws\.com(\.cn)?")


def install_remote(library: ModuleType) -> Callable[[], None]:
    """Record every `RemoteFile` of this process. `library` is `kvikio.remote_file`."""
    pread = _recorded("read", _uri_of, _followed(library.IOFuture))(library.RemoteFile.pread)
    return replace([(library.RemoteFile, "pread", pread)])


def install_files(library: ModuleType) -> Callable[[], None]:
    """Record every `CuFile` of this process that no engine sees. `library` is `kvikio.cufile`."""
    from kvikio import defaults

    def uri_of(file: Any) -> str | None:
        session = sessions.active()
        if session is not None and "files" in session.below and defaults.is_compat_mode_preferred():
            return None
        return uri_of_descriptor(file.fileno())

    followed = _followed(library.IOFuture)
    hooks = {
        "pread": _recorded("read", uri_of, followed),
        "pwrite": _recorded("write", uri_of, followed),
        "raw_read": _recorded("read", uri_of, _ended),
        "raw_write": _recorded("write", uri_of, _ended),
    }
    return replace((library.CuFile, name, make(vars(library.CuFile)[name])) for name, make in hooks.items())


def _recorded(
    kind: str, uri_of: Callable[[Any], str | None], finish: Callable[[Any, Attempt], Any]
) -> Callable[[Any], Any]:
    """Wrap a method: its call is an attempt on `uri_of` its object, which `finish` ends. None is not recorded."""

    def wrap(original: Any) -> Any:
        def call(
            self: Any, buf: Any, size: int | None = None, file_offset: int = 0, *more: Any, **named: Any
        ) -> Any:
            uri = None if sessions.active() is None else uri_of(self)
            if uri is None:
                return original(self, buf, size, file_offset, *more, **named)
            attempt = Attempt(uri, kind, file_offset, _length(buf, size))
            try:
                result = original(self, buf, size, file_offset, *more, **named)
            except BaseException as error:
                attempt.ended(0, error_class(error))
                raise
            return finish(result, attempt)

        return call

    return wrap


def _ended(moved: int, attempt: Attempt) -> int:
    attempt.ended(moved)
    return moved


def _followed(future: type) -> Callable[[Any, Attempt], Any]:
    class Followed(future):  # type: ignore[misc]
        """A future of KvikIO that records the row of its call when its result is asked for, or when it is dropped."""

        __slots__ = ("_attempt",)

        def __init__(self, inner: Any, attempt: Attempt) -> None:
            super().__init__(inner._handle)
            self._attempt: Attempt | None = attempt

        def get(self) -> Any:
            awaited = not self.done()  # otherwise it ended at some time before
            try:
                moved = super().get()
            except BaseException as error:
                self._end(0, error, known_end=awaited)
                raise
            self._end(moved, known_end=awaited)
            return moved

        def _end(self, moved: int | None, error: BaseException | None = None, *, known_end: bool) -> None:
            attempt, self._attempt = self._attempt, None
            if attempt is not None:
                attempt.ended(moved, None if error is None else error_class(error), known_end=known_end)

        def __del__(self) -> None:
            self._end(None, known_end=False)

    return Followed


def _length(buffer: Any, size: int | None) -> int | None:
    return size if size is not None else getattr(buffer, "nbytes", None)


def _uri_of(remote: Any) -> str:
    """The URI of a remote file: `s3://` for one of S3, whichever way it is addressed; else its URL."""
    shown = _SHOWN.fullmatch(str(remote))
    url = shown[1] if shown else str(remote)
    if not remote.remote_endpoint_type().name.startswith("S3"):
        return url
    parts = urlsplit(url)
    host = _BUCKET_HOST.fullmatch(parts.netloc)
    bucket, _, key = (host[1], "", parts.path[1:]) if host else parts.path[1:].partition("/")
    return join("s3", bucket, unquote(key))
