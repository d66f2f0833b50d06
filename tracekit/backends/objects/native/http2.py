"""HTTP/2 for connections that speak HTTP/1.1: requests and answers are translated, one at a time on a connection.

So whatever is held against an answer is held against it here too. It uses the package h2.
"""

from __future__ import annotations

import contextlib
import ssl
from collections import deque
from typing import TYPE_CHECKING

from tracekit.backends.objects.native.wire import Malformed
from tracekit.errors import UsageError

if TYPE_CHECKING:
    import h2.connection
    import h2.events

__all__ = ["Http2", "Http2Socket", "chosen", "require_h2"]

_END = b"\r\n\r\n"
_WINDOW_BYTES = 16 << 20
"""How much the store may send before it hears that it has been received."""
_RECEIVED_BYTES = 256 << 10
_NO_BODY = ("204", "304")
_OF_A_CONNECTION = frozenset({"host", "connection", "proxy-authorization"})


def require_h2() -> None:
    """Raise UsageError if the package for HTTP/2 is not installed."""
    try:
        import h2.connection  # noqa: F401
    except ImportError:
        raise UsageError(
            "http2= needs the package h2, which is not installed", "pip install 'tracekit[http2]'"
        ) from None


def chosen(secured: object) -> bool:
    """Return whether the two ends of a TLS connection have agreed on HTTP/2."""
    protocol = getattr(secured, "selected_alpn_protocol", None)
    return protocol is not None and protocol() == "h2"


class Http2:
    """The state of one connection. Does no I/O: `outgoing` is to be sent, `received` takes what came."""

    def __init__(self) -> None:
        import h2.config
        import h2.connection
        import h2.settings

        known = h2.config.H2Configuration(client_side=True, header_encoding="latin-1")
        self._h2 = h2.connection.H2Connection(known)
        codes = h2.settings.SettingCodes
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                codes.ENABLE_PUSH: 0,
                codes.INITIAL_WINDOW_SIZE: _WINDOW_BYTES,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_WINDOW_BYTES)
        self._head = b""
        self._unsent = 0  # bytes of the request's body
        self._stream = 0
        self._chunked = self._head_only = False
        self._answering = False
        """Whether the answer to the current request is not whole."""
        self.usable = True
        """Whether another request can be sent."""

    def outgoing(self) -> bytes:
        return self._h2.data_to_send()

    def take(self, data: memoryview) -> int:
        """Take bytes of a request in HTTP/1.1; return how many, 0 if the store must first make room.

        Raises BrokenPipeError if the store has answered already and takes no more.
        """
        from h2.exceptions import H2Error

        try:
            return self._take_body(data) if self._unsent else self._take_head(bytes(data))
        except H2Error as error:
            self.usable = False
            raise ConnectionResetError(f"the request cannot be sent: {type(error).__name__}") from None

    def _take_body(self, data: memoryview) -> int:
        if not self._answering:
            raise BrokenPipeError
        room = min(
            len(data),
            self._unsent,
            self._h2.local_flow_control_window(self._stream),
            self._h2.max_outbound_frame_size,
        )
        if room <= 0:
            return 0
        self._unsent -= room
        self._h2.send_data(self._stream, bytes(data[:room]), end_stream=not self._unsent)
        return room

    def received(self, data: bytes) -> bytes:
        """Return what `data` is in HTTP/1.1. Raises Malformed, or ConnectionResetError if the store gives up."""
        from h2.exceptions import H2Error

        try:
            return b"".join([self._translated(event) for event in self._h2.receive_data(data)])
        except H2Error as error:
            self.usable = False
            raise Malformed(
                f"the answer breaks the rules of HTTP/2: {error or type(error).__name__}"
            ) from None

    def _take_head(self, data: bytes) -> int:
        end = data.find(_END)
        if end < 0:
            raise ValueError("the head of a request is sent as a whole")
        line, *fields = data[:end].decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ")
        named = dict(field.split(": ", 1) for field in fields)
        self._unsent = int(named.get("content-length", "0"))
        self._head_only = method == "HEAD"
        self._answering = True
        self._stream = self._h2.get_next_available_stream_id()
        headers = [
            (":method", method),
            (":scheme", "https"),
            (":authority", named["host"]),
            (":path", target),
            *((name, value) for name, value in named.items() if name not in _OF_A_CONNECTION),
        ]
        self._h2.send_headers(self._stream, headers, end_stream=not self._unsent)
        return end + len(_END)

    def _translated(self, event: h2.events.Event) -> bytes:
        import h2.events as events

        if isinstance(event, events.ConnectionTerminated):
            self.usable = False
            if self._answering and (event.last_stream_id or 0) < self._stream:
                raise ConnectionResetError("the store closes the connection")
            return b""
        if getattr(event, "stream_id", None) != self._stream:
            return b""
        if isinstance(event, events.ResponseReceived):
            return self._response(event)
        if isinstance(event, events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, self._stream)
            if not self._chunked or not event.data:
                return event.data
            return b"%x\r\n%b\r\n" % (len(event.data), event.data)
        if isinstance(event, events.StreamEnded):
            self._answering = False
            return b"0\r\n\r\n" if self._chunked else b""
        if isinstance(event, events.StreamReset) and self._answering:
            self.usable = False
            raise ConnectionResetError("the store reset the request")
        return b""

    def _response(self, event: h2.events.ResponseReceived) -> bytes:
        fields = [(str(name), str(value)) for name, value in event.headers]
        status = next((value for name, value in fields if name == ":status"), "")
        lines = [f"{name}: {value}\r\n" for name, value in fields if not name.startswith(":")]
        known = any(name == "content-length" for name, _ in fields)
        self._chunked = not (known or self._head_only or status in _NO_BODY)
        if self._chunked:
            lines.append("transfer-encoding: chunked\r\n")
        return f"HTTP/1.1 {status} \r\n{''.join(lines)}\r\n".encode("latin-1")


class Http2Socket:
    """A TLS connection whose ends have agreed on HTTP/2, as one that speaks HTTP/1.1."""

    def __init__(self, secured: ssl.SSLSocket) -> None:
        self._socket = secured
        self._http2 = Http2()
        self._unsent = bytearray()
        self._unread: deque[memoryview] = deque()

    def fileno(self) -> int:
        return self._socket.fileno()

    def settimeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def close(self) -> None:
        self._socket.close()

    def send(self, data: memoryview) -> int:
        """Take bytes of a request; return how many. What is taken is sent by and by.

        Raises BrokenPipeError if the store takes no more; it may have answered.
        """
        self._flush()
        taken = self._http2.take(data)
        if not taken:
            if not self._pull():
                raise BrokenPipeError
            return 0
        with contextlib.suppress(TimeoutError):  # it is taken, and the next call goes on
            self._flush()
        return taken

    def recv_into(self, buffer: memoryview) -> int:
        """Receive bytes of an answer; return how many, 0 at the end of the connection."""
        while not self._unread:
            self._flush()
            if not self._pull():
                return 0
        part = self._unread.popleft()
        count = min(len(part), len(buffer))
        buffer[:count] = part[:count]
        if count < len(part):
            self._unread.appendleft(part[count:])
        return count

    def usable(self) -> bool:
        """Whether another request can be sent: what came meanwhile is of the connection, and does not end it."""
        waits = self._socket.gettimeout()
        self._socket.settimeout(0)
        try:
            while self._pull():
                pass
        except ssl.SSLWantReadError:
            self._socket.settimeout(waits)
            return self._http2.usable and not self._unread
        except (OSError, Malformed):
            return False
        return False

    def _flush(self) -> None:
        self._unsent += self._http2.outgoing()
        while self._unsent:
            with memoryview(self._unsent) as rest:
                sent = self._socket.send(rest)
            del self._unsent[:sent]

    def _pull(self) -> bool:
        """Receive what is there; return False at the end of the connection."""
        data = self._socket.recv(_RECEIVED_BYTES)
        if data and (told := self._http2.received(data)):
            self._unread.append(memoryview(told))
        return bool(data)
