"""Records `np.fromfile`, and with it `np.load`, which reads arrays by it.

NumPy reads through a C `FILE*` made from a descriptor, which neither Python's file objects nor
preload libraries see. Each call is one row, provided that the capture records files at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from tracekit.capture import session as sessions
from tracekit.capture.hooks.descriptors import uri_of_descriptor
from tracekit.capture.outcome import error_class
from tracekit.capture.replacing import replace
from tracekit.capture.session import hook_failed, record

__all__ = ["install"]


def install(numpy: Any) -> Callable[[], None]:
    """Record `numpy.fromfile` of binary data."""
    original = numpy.fromfile

    def fromfile(file: Any, *args: Any, **kwargs: Any) -> Any:
        source = _source(file, args, kwargs)
        if source is None:
            return original(file, *args, **kwargs)
        uri, offset = source
        submit = monotonic_ns()
        try:
            array = original(file, *args, **kwargs)
        except OSError as error:
            record(uri, offset, None, submit, monotonic_ns() - submit, "read", 0, None, error_class(error))
            raise
        record(uri, offset, array.nbytes, submit, monotonic_ns() - submit, "read", array.nbytes)
        return array

    fromfile.__doc__, fromfile.__name__ = original.__doc__, "fromfile"
    return replace([(numpy, "fromfile", fromfile)])


def _source(file: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, int] | None:
    """The URI and first byte of a read; None if files are not captured, or are recorded elsewhere."""
    session = sessions.active()
    if session is None or not session.sees("files"):
        return None
    try:
        text = args[2] if len(args) > 2 else kwargs.get("sep", "")
        offset = int(args[3] if len(args) > 3 else kwargs.get("offset", 0))
        if text:
            return None
        if hasattr(file, "fileno"):
            uri, offset = uri_of_descriptor(file.fileno()), offset + file.tell()
        else:
            uri = f"file://{os.path.abspath(os.fsdecode(file))}"
            uri = uri if session.paths.admits(uri) else None
        return None if uri is None else (uri, offset)
    except Exception as error:  # noqa: BLE001 - the array is read anyway
        hook_failed("numpy", error)
        return None
