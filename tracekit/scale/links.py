"""Idle TCP connections to hosts, by which the kernel notices that one is cut off or gone."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Sequence
from typing import Protocol

__all__ = ["Links", "keep_alive"]

_ANSWER_S = 4.0
"""How long a host may take to accept a connection."""
_IDLE_S, _BETWEEN_S, _PROBES = 1, 1, 3
_UNDER_WAY = (errno.EINPROGRESS, errno.EALREADY, errno.EAGAIN)


class _HasOptions(Protocol):
    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def keep_alive(connection: _HasOptions) -> None:
    """Have the kernel end a connection whose other side has not answered for 4 s, however busy the process there is."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _BETWEEN_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)


class Links:
    """One connection to a listening port of each host; nothing is sent."""

    def __init__(self, addresses: Sequence[tuple[str, int]]) -> None:
        self._addresses = addresses
        self._began = time.monotonic()
        self._open: dict[int, socket.socket] = {}
        self._cut: dict[int, str] = {}
        for index, (host, port) in enumerate(addresses):
            try:
                family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
                self._open[index] = link = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                self._cut[index] = f"{host}: {error.strerror or error}"
                continue
            link.setblocking(False)
            keep_alive(link)
            self._note(index, link.connect_ex(address))

    def cut(self) -> dict[int, str]:
        """Return why each host cannot be reached that cannot, by its number."""
        late = time.monotonic() - self._began > _ANSWER_S
        for index, link in list(self._open.items()):
            error = link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not error and late and not _connected(link):
                error = errno.ETIMEDOUT
            self._note(index, error)
        return self._cut

    def close(self) -> None:
        """Close all connections."""
        for link in self._open.values():
            link.close()
        self._open.clear()

    def _note(self, index: int, error: int) -> None:
        if error and error not in _UNDER_WAY:
            host, port = self._addresses[index]
            self._cut[index] = f"{host}:{port} does not answer: {os.strerror(error)}"
            self._open.pop(index).close()


def _connected(link: socket.socket) -> bool:
    try:
        link.getpeername()
    except OSError:
        return False
    return True
