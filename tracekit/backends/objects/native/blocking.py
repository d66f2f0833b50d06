"""Blocking HTTP connections, kept for reuse. Ctrl-C interrupts a wait in the main thread."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable

from tracekit.backends.objects.native.endpoint import Broken, Endpoint, Limits, broken
from tracekit.backends.objects.native.wire import Malformed, Reception, Refused
from tracekit.errors import ErrorClass

__all__ = ["BlockingPool"]

_JOINED_BYTES = 64 << 10
"""Bodies up to this size are sent together with the head."""


class BlockingPool:
    """Connections to one endpoint; a connection belongs to one thread at a time. Starts anew after a fork."""

    def __init__(self, endpoint: Endpoint, limits: Limits, count: Callable[[str], None]) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._count = count
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def exchange(self, head: bytes, body: bytes | memoryview, reception: Reception) -> int:
        """Send one request and receive its answer; return when the first byte came, in ns.

        Raises Broken or Refused. The connection is closed whenever the answer is not whole.
        """
        end = time.monotonic() + self._limits.total_s
        connection = self._reused() or self._connect()
        whole = False
        try:
            first = self._converse(connection, head, body, reception, end)
            whole = True
            return first
        except Malformed as error:
            raise Broken(ErrorClass.IO_ERROR, str(error)) from None
        except OSError as error:
            raise broken(error, self._endpoint, connecting=False) from None
        finally:
            if whole and reception.reusable and len(self._idle) < self._limits.pool_size:
                self._idle.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _converse(
        self,
        connection: socket.socket,
        head: bytes,
        body: bytes | memoryview,
        reception: Reception,
        end: float,
    ) -> int:
        unsent: OSError | None = None
        try:
            if len(body) <= _JOINED_BYTES:
                connection.sendall(head + bytes(body) if body else head)
            else:
                connection.sendall(head)
                connection.sendall(body)
        except (BrokenPipeError, ConnectionResetError) as error:
            unsent = error  # the store may have answered already, with the reason
        first = 0
        while True:
            count = connection.recv_into(reception.buffer())
            if not first:
                first = time.monotonic_ns()
            if not count:
                if reception.ended():
                    return first
                raise unsent or ConnectionResetError("the connection broke off")
            if reception.received(count):
                if unsent is not None:
                    reception.reusable = False
                return first
            if time.monotonic() > end:
                raise Broken(
                    ErrorClass.TIMEOUT, "the request took longer than total_timeout_s", retryable=False
                )

    def _reused(self) -> socket.socket | None:
        if self._pid != os.getpid():  # after a fork the connections are the parent's
            with self._lock:
                self._idle, self._pid = [], os.getpid()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            ready = select.poll()
            ready.register(connection, select.POLLIN)
            if not ready.poll(0):
                self._count("connections_reused")
                return connection
            connection.close()  # the store closed it, or sent what nobody asked for

    def _connect(self) -> socket.socket:
        endpoint = self._endpoint
        target = endpoint.proxy or endpoint
        connection = None
        try:
            connection = socket.create_connection((target.host, target.port), self._limits.connect_s)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if endpoint.context is not None:
                if endpoint.proxy is not None:
                    self._tunnel(connection)
                connection = endpoint.context.wrap_socket(connection, server_hostname=endpoint.host)
                self._count("tls_handshakes")
        except (OSError, ValueError) as error:
            if connection is not None:
                connection.close()
            raise broken(error, endpoint, connecting=True) from None
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        connection.settimeout(min(self._limits.byte_s, self._limits.total_s))
        self._count("connections_opened")
        return connection

    def _tunnel(self, connection: socket.socket) -> None:
        """Have the proxy connect to the endpoint."""
        connection.sendall(tunnel_request(self._endpoint))
        reception = Reception("HEAD", lambda _: None)  # the answer to CONNECT has no body
        try:
            while True:
                count = connection.recv_into(reception.buffer())
                if not count:
                    raise Broken(
                        ErrorClass.UNREACHABLE, f"the proxy {_shown(self._endpoint)} closed the connection"
                    )
                if reception.received(count):
                    break
        except (Malformed, Refused) as error:
            raise Broken(ErrorClass.UNREACHABLE, f"the proxy {_shown(self._endpoint)}: {error}") from None
        check_tunnel(self._endpoint, reception)


def tunnel_request(endpoint: Endpoint) -> bytes:
    """Return the CONNECT request for the endpoint."""
    where = f"{endpoint.host}:{endpoint.port}"
    login = endpoint.proxy.authorization if endpoint.proxy else ""
    extra = f"proxy-authorization: {login}\r\n" if login else ""
    return f"CONNECT {where} HTTP/1.1\r\nhost: {where}\r\n{extra}\r\n".encode("latin-1")


def check_tunnel(endpoint: Endpoint, reception: Reception) -> None:
    """Raise Broken if the proxy refused to connect."""
    status = reception.answer.status if reception.answer else 0
    if not 200 <= status < 300:
        kind = ErrorClass.PERMISSION if status == 407 else ErrorClass.UNREACHABLE
        raise Broken(kind, f"the proxy {_shown(endpoint)} refused to connect: HTTP {status}", status >= 500)


def _shown(endpoint: Endpoint) -> str:
    return endpoint.proxy.shown if endpoint.proxy else ""
