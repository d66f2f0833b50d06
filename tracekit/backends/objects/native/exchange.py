"""The exchange of a range GET in C, which runs without the interpreter lock: found, compiled and called.

Where there is neither the compiled library nor a C compiler, the client does the same in Python.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tracekit.c_library import find_library

__all__ = ["STALE", "WHOLE", "Progress", "compiled_exchange", "exchange"]

_log = logging.getLogger("tracekit")
WHOLE, STALE = 0, 1
"""All bytes came as asked for; or nothing was sent, because the connection was closed or had unread bytes."""
_ROOM_BYTES = 8 << 10


class Progress(ctypes.Structure):
    """What an exchange has done; the fields are those of `exchange.c`. `room` has the head."""

    sent: int
    first: int
    heard: int
    in_room: int
    in_body: int
    error: int
    _fields_ = [(name, ctypes.c_int64) for name in ("sent", "first", "heard", "in_room", "in_body", "error")]

    def __init__(self) -> None:
        super().__init__()
        self.room = ctypes.create_string_buffer(_ROOM_BYTES)

    def head(self) -> bytes:
        """What was received in the room: the head of the answer, or its start, and what came with it."""
        return ctypes.string_at(self.room, self.in_room)


@cache
def compiled_exchange() -> Callable[..., int] | None:
    """The C function, or None where it cannot be had."""
    try:
        found = find_library(Path(__file__).with_name("exchange.c"))
        function = None if found is None else ctypes.CDLL(str(found)).tracekit_exchange
    except (OSError, AttributeError) as error:
        _log.debug("reads from stores run in Python: %s", error)
        return None
    if function is not None:
        word, place = ctypes.c_int64, ctypes.c_void_p
        function.restype = word
        function.argtypes = (
            ctypes.c_int, ctypes.c_int, ctypes.c_char_p, word, place, word, place, word, word, place,
        )  # fmt: skip
    return function


def exchange(
    function: Callable[..., int],
    fd: int,
    head: bytes,
    buffer: memoryview,
    offset: int,
    done: Progress,
    *,
    look: bool,
) -> int:
    """Send `head` and receive the bytes from `offset` on into `buffer`; return how it went.

    With `look`, nothing is sent if the connection is not silent.
    """
    body = ctypes.c_char.from_buffer(buffer)
    return function(
        fd,
        look,
        head,
        len(head),
        ctypes.addressof(done.room),
        _ROOM_BYTES,
        ctypes.addressof(body),
        len(buffer),
        offset,
        ctypes.addressof(done),
    )
