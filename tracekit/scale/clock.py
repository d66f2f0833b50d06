"""The offset between the monotonic clocks of two hosts, by the fastest of many exchanges over a TCP socket.

The other clock is read between our two readings, so its offset is known to half the round trip, whatever the network does: that
is the error bound. This module knows sockets and clocks, and nothing of replays.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from tracekit.errors import TracekitError

__all__ = ["ClockServer", "Offset", "drifted", "estimate", "measure"]

PINGS = 50
_TIME = struct.Struct("!q")
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Offset:
    """`offset_ns` added to a reading of our clock is the other clock's; it is wrong by at most `error_ns`."""

    offset_ns: int
    error_ns: int


def estimate(exchanges: Iterable[tuple[int, int, int]]) -> Offset:
    """Return the offset from exchanges of (ours before, theirs, ours after), by the one with the least round trip.

    Raises ValueError if there is none.
    """
    before, theirs, after = min(exchanges, key=lambda each: each[2] - each[0])
    return Offset(theirs - (before + after) // 2, (after - before + 1) // 2)


def drifted(first: Offset, last: Offset) -> Offset:
    """Return the first of two offsets of one pair of clocks with an error that covers the time up to the last."""
    moved = abs(last.offset_ns - first.offset_ns)
    return Offset(first.offset_ns, max(first.error_ns, moved + last.error_ns))


def measure(address: tuple[str, int], *, pings: int = PINGS) -> Offset:
    """Return the offset to the clock of the `ClockServer` at `address`. Raises TracekitError if it does not answer."""
    try:
        with socket.create_connection(address, timeout=_TIMEOUT_S) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return estimate([_exchange(connection) for _ in range(pings)])
    except (OSError, EOFError) as error:
        raise TracekitError(
            f"the clock of the coordinator at {address[0]}:{address[1]} cannot be read: {error}",
            "check the network",
        ) from error


def _exchange(connection: socket.socket) -> tuple[int, int, int]:
    before = time.monotonic_ns()
    connection.sendall(b"?")
    answer = b""
    while len(answer) < _TIME.size:
        more = connection.recv(_TIME.size - len(answer))
        if not more:
            raise EOFError("it hung up")
        answer += more
    after = time.monotonic_ns()
    return before, _TIME.unpack(answer)[0], after


class ClockServer:
    """Answers each byte with a reading of this host's monotonic clock, in a thread of its own; a context manager."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._listener = socket.create_server((host, 0), backlog=1024)
        self._listener.setblocking(False)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._wake, self._ended = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="tracekit-clock", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._wake.close()
        self._thread.join()

    def __enter__(self) -> ClockServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(self._listener, selectors.EVENT_READ)
            ready.register(self._ended, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    if key.fileobj is self._ended:
                        for each in list(ready.get_map().values()):
                            each.fileobj.close()  # type: ignore[union-attr]
                        return
                    if key.fileobj is self._listener:
                        with contextlib.suppress(OSError):  # it hung up before it was accepted
                            connection, _ = self._listener.accept()
                            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                            ready.register(connection, selectors.EVENT_READ)
                    elif isinstance(key.fileobj, socket.socket) and not _answered(key.fileobj):
                        ready.unregister(key.fileobj)
                        key.fileobj.close()


def _answered(connection: socket.socket) -> bool:
    """Answer what came on `connection`; return whether it is still open."""
    try:
        asked = connection.recv(64)
        connection.sendall(b"".join(_TIME.pack(time.monotonic_ns()) for _ in asked))
    except OSError:
        return False
    return bool(asked)
