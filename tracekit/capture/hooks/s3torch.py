"""Records the streams that s3torchconnector's client opens, below the buffers of its readers.

A row is one request of the Python client: a GetObject for a range or the whole object, until
the stream ended or was discarded; a PutObject, from its opening to its close; and so on. The parts in which the CRT client fetches the object, and
its retries, are not visible here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from time import monotonic_ns
from types import ModuleType
from typing import Any

from tracekit.backends.objects.uri import join
from tracekit.capture import session as sessions
from tracekit.capture.context import where
from tracekit.capture.outcome import error_class
from tracekit.capture.replacing import replace
from tracekit.capture.session import hook_failed, record
from tracekit.errors import ErrorClass

__all__ = ["install"]


def install(library: ModuleType) -> Callable[[], None]:
    """Record every client of this process."""
    from s3torchconnector._s3client import S3Client

    patches = {
        "_get_object_stream": _stream,
        "head_object": _head,
        "put_object": _put,
        "delete_object": _delete,
        "copy_object": _copy,
    }
    return replace((S3Client, name, make(vars(S3Client)[name])) for name, make in patches.items())


def _stream(original: Any) -> Any:
    def _get_object_stream(
        self: Any, bucket: str, key: str, start: int | None = None, end: int | None = None, *more: Any
    ) -> Any:
        if sessions.active() is None:
            return original(self, bucket, key, start, end, *more)
        submit = monotonic_ns()
        try:
            stream = original(self, bucket, key, start, end, *more)
        except BaseException as error:
            length = None if start is None or end is None else end - start
            took = monotonic_ns() - submit
            kind = "get" if start is None else "read"
            record(join("s3", bucket, key), start, length, submit, took, kind, 0, None, error_class(error))
            raise
        return _Followed(stream, join("s3", bucket, key), start, end, submit)

    return _get_object_stream


def _head(original: Any) -> Any:
    def head_object(self: Any, bucket: str, key: str) -> Any:
        with _timed(join("s3", bucket, key), "stat"):
            return original(self, bucket, key)

    return head_object


def _delete(original: Any) -> Any:
    def delete_object(self: Any, bucket: str, key: str) -> Any:
        with _timed(join("s3", bucket, key), "delete"):
            return original(self, bucket, key)

    return delete_object


def _copy(original: Any) -> Any:
    def copy_object(self: Any, src_bucket: str, src_key: str, dst_bucket: str, dst_key: str) -> Any:
        with _timed(join("s3", src_bucket, src_key), "copy", join("s3", dst_bucket, dst_key)):
            return original(self, src_bucket, src_key, dst_bucket, dst_key)

    return copy_object


def _put(original: Any) -> Any:
    def put_object(self: Any, bucket: str, key: str, *more: Any, **named: Any) -> Any:
        submit = monotonic_ns()
        writer = original(self, bucket, key, *more, **named)
        if sessions.active() is not None:
            try:
                writer.stream = _Upload(writer.stream, join("s3", bucket, key), submit)
            except AttributeError as error:  # another version of the library: the put is not recorded
                hook_failed("s3torch", error)
        return writer

    return put_object


@contextlib.contextmanager
def _timed(uri: str, kind: str, to_uri: str | None = None) -> Iterator[None]:
    """Record the call in the block."""
    submit = monotonic_ns()
    failure: ErrorClass | None = None
    try:
        yield
    except BaseException as error:
        failure = error_class(error)
        raise
    finally:
        took = monotonic_ns() - submit
        record(uri, None, None, submit, took, kind, None, None, failure, to_uri=to_uri)


class _Upload:
    """An object's upload that records one put when it is closed. Other attributes are the stream's."""

    def __init__(self, stream: Any, uri: str, submit: int) -> None:
        self._stream, self._uri, self._submit = stream, uri, submit
        self._at = where()
        self._moved = 0

    def write(self, data: Any) -> Any:
        result = self._stream.write(data)
        self._moved += memoryview(data).nbytes
        return result

    def close(self) -> Any:
        failure: ErrorClass | None = None
        try:
            return self._stream.close()
        except BaseException as error:
            failure = error_class(error)
            raise
        finally:
            took = monotonic_ns() - self._submit
            moved = 0 if failure else self._moved
            record(self._uri, None, self._moved, self._submit, took, "put", moved, None, failure, self._at)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Followed:
    """An object's stream that reports its first and last byte. Other attributes are the stream's."""

    def __init__(self, stream: Any, uri: str, start: int | None, end: int | None, submit: int) -> None:
        self._stream, self._uri, self._start, self._end, self._submit = stream, uri, start, end, submit
        self._at = where()
        self._moved = 0
        self._ttfb: int | None = None
        self._open = True

    def __iter__(self) -> _Followed:
        return self

    def __next__(self) -> bytes:
        try:
            chunk: bytes = next(self._stream)
        except StopIteration:
            self._ended(None)
            raise
        except BaseException as error:
            self._ended(error_class(error))
            raise
        if self._ttfb is None:
            self._ttfb = monotonic_ns() - self._submit
        self._moved += len(chunk)
        if self._end is not None and self._moved >= self._end - (self._start or 0):
            self._ended(None)
        return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __del__(self) -> None:
        self._ended(ErrorClass.CANCELLED)

    def _ended(self, error: ErrorClass | None) -> None:
        if not self._open:
            return
        self._open = False
        asked = self._moved if self._end is None else self._end - (self._start or 0)
        took = monotonic_ns() - self._submit
        record(
            self._uri,
            self._start,
            asked,
            self._submit,
            took,
            "get" if self._start is None else "read",
            self._moved,
            self._ttfb,
            error,
            self._at,
        )
