"""Messages between the coordinator and the hosts of a replay: a JSON object, and bytes that belong to it.

A message is two lengths, the JSON and the bytes. Nothing that is received is ever executed.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["CHUNK", "Channel", "Message", "ProtocolError", "packed", "receive"]

CHUNK = 1 << 16
"""Bytes of a file that one message carries: few, so that a slow network shows that it gets on."""
_HEAD = struct.Struct("!II")
_UNANSWERED_S = 10.0
"""How long what was sent may stay without an answer of the other system before the connection counts as lost."""
_MOST_JSON = 64 << 20
_MOST_BYTES = 16 << 20


class ProtocolError(ConnectionError):
    """What came is no message."""


class Message(dict[str, Any]):
    """The JSON object of a message. `kind` says what it is; `data` are its bytes."""

    data: bytes = b""

    @property
    def kind(self) -> str:
        return str(self.get("kind"))


def packed(kind: str, data: bytes = b"", **values: Any) -> bytes:
    """Return a message as bytes."""
    text = json.dumps({"kind": kind, **values}).encode()
    return _HEAD.pack(len(text), len(data)) + text + data


def _lengths(head: bytes) -> tuple[int, int]:
    text, data = _HEAD.unpack(head)
    if text > _MOST_JSON or data > _MOST_BYTES:
        raise ProtocolError(f"a message of {text} and {data} bytes is not one of ours")
    return text, data


def _message(text: bytes, data: bytes) -> Message:
    try:
        found = Message(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"what came is no message: {error}") from error
    found.data = data
    return found


async def receive(reader: asyncio.StreamReader) -> Message:
    """Return the next message. Raises ConnectionError or EOFError when there is none."""
    text, data = _lengths(await reader.readexactly(_HEAD.size))
    return _message(await reader.readexactly(text), await reader.readexactly(data))


class Channel:
    """A connection on which several threads may send, and one receives."""

    def __init__(self, address: tuple[str, int], timeout_s: float) -> None:
        self._socket = socket.create_connection(address, timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_UNANSWERED_S * 1000))
        self._socket.settimeout(None)
        self._lock = threading.Lock()

    def send(self, kind: str, data: bytes = b"", **values: Any) -> None:
        """Send a message. Raises OSError if the other side is gone."""
        message = packed(kind, data, **values)
        with self._lock:
            self._socket.sendall(message)

    def receive(self) -> Message:
        """Wait for the next message. Raises OSError or EOFError when there is none."""
        text, data = _lengths(self._exactly(_HEAD.size))
        return _message(self._exactly(text), self._exactly(data))

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        left = size
        take: Callable[[int], bytes] = self._socket.recv
        while left:
            part = take(min(left, CHUNK))
            if not part:
                raise EOFError("the coordinator has gone")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
