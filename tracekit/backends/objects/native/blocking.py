"""Blocking HTTP connections, kept for reuse. Ctrl-C interrupts a wait in the main thread."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable

from tracekit.backends.objects import failures
from tracekit.backends.objects.native.checks import RangeCheck
from tracekit.backends.objects.native.endpoint import (
    Broken,
    Endpoint,
    Limits,
    broken,
    malformed,
    too_long,
)
from tracekit.backends.objects.native.exchange import STALE, WHOLE, Progress, compiled_exchange, exchange
from tracekit.backends.objects.native.http2 import Http2Socket, chosen
from tracekit.backends.objects.native.wire import Malformed, Reception, Refused
from tracekit.errors import ErrorClass

__all__ = ["BlockingPool"]

_JOINED_BYTES = 64 << 10
"""Bodies up to this size are sent together with the head."""
_SENT_BYTES = 1 << 20
_TURNS = 8
"""How often a wait for a whole body looks whether bytes still come."""


class BlockingPool:
    """Connections to one endpoint; a connection belongs to one thread at a time. Starts anew after a fork."""

    def __init__(self, endpoint: Endpoint, limits: Limits, count: Callable[[str], None]) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._count = count
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()
        plain = endpoint.context is None and limits.total_s == math.inf
        self._compiled = compiled_exchange() if plain else None

    def exchange(
        self, head: bytes, body: bytes | memoryview, reception: Reception, total_s: float | None = None
    ) -> int:
        """Send one request and receive its answer; return when the first byte came, in ns.

        Raises Broken or Refused. The connection is closed whenever the answer is not whole.
        """
        end = time.monotonic() + (self._limits.total_s if total_s is None else total_s)
        connection = self._reused() or self._connect()
        connection.end = end
        with _Lent(self, connection) as lent:
            first = _converse(connection, head, body, reception)
            lent.reusable = reception.reusable
            return first

    def read(self, head: bytes, check: RangeCheck) -> int:
        """`exchange` for a range: without the interpreter lock, as long as its answer is the usual one."""
        if self._compiled is None or not check.writable:
            return self.exchange(head, b"", check.reception)
        while True:
            connection = self._popped()
            fresh = connection is None
            connection = connection or self._connect()
            connection.end = math.inf
            with _Lent(self, connection) as lent:
                done = connection.progress
                how = exchange(
                    self._compiled, connection.fd, head, check.buffer, check.offset, done, look=not fresh
                )
                if how == STALE:
                    continue  # it is closed
                if not fresh:
                    self._count("connections_reused")
                if how == WHOLE:
                    check.filled = lent.reusable = True
                    return done.first
                first = _taken_over(connection, head, check.reception, done)
                lent.reusable = check.reception.reusable
                return first

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def give_back(self, connection: _Connection) -> None:
        """Keep a connection for the next request, if there is room for it."""
        if len(self._idle) < self._limits.pool_size:
            self._idle.append(connection)
        else:
            connection.close()

    def broken(self, error: OSError) -> Broken:
        """Return what the failure of a connection means."""
        return broken(error, self._endpoint, connecting=False)

    def _reused(self) -> _Connection | None:
        while (connection := self._popped()) is not None:
            if connection.silent():
                self._count("connections_reused")
                return connection
            connection.close()  # the store closed it, or sent what nobody asked for
        return None

    def _popped(self) -> _Connection | None:
        """An idle connection, which need not be open still."""
        if self._pid != os.getpid():  # after a fork the connections are the parent's
            with self._lock:
                self._idle, self._pid = [], os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _connect(self) -> _Connection:
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
        self._count("connections_opened")
        if isinstance(connection, ssl.SSLSocket) and chosen(connection):
            return _Connection(Http2Socket(connection), self._limits)
        return _Connection(connection, self._limits)

    def _tunnel(self, connection: socket.socket) -> None:
        """Have the proxy connect to the endpoint."""
        end = time.monotonic() + self._limits.connect_s
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
                if time.monotonic() > end:
                    raise TimeoutError
        except (Malformed, Refused) as error:
            raise Broken(ErrorClass.UNREACHABLE, f"the proxy {_shown(self._endpoint)}: {error}") from None
        check_tunnel(self._endpoint, reception)


class _Lent:
    """A connection while one request uses it. It is closed afterwards unless it is `reusable`."""

    __slots__ = ("_connection", "_pool", "reusable")

    def __init__(self, pool: BlockingPool, connection: _Connection) -> None:
        self._pool = pool
        self._connection = connection
        self.reusable = False

    def __enter__(self) -> _Lent:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None and self.reusable:
            self._pool.give_back(self._connection)
            return
        self._connection.close()
        if isinstance(error, Malformed):
            raise malformed(error) from None
        if isinstance(error, OSError):
            raise self._pool.broken(error) from None


class _Connection:
    """One connection. Without TLS it blocks in the kernel, which wakes the thread once for a whole body.

    Python's own time-outs would cost a system call before each, and wake it for every segment.
    """

    __slots__ = ("_limits", "_plain", "_progress", "_ready", "_socket", "_turn_s", "end", "fd")

    def __init__(self, connected: socket.socket | Http2Socket, limits: Limits) -> None:
        self.end = math.inf
        """When the current request must be whole, in seconds of the monotonic clock."""
        self.fd = connected.fileno()
        self._progress: Progress | None = None
        self._socket = connected
        self._limits = limits
        self._plain = None if isinstance(connected, ssl.SSLSocket | Http2Socket) else connected
        self._ready = select.poll()
        self._ready.register(connected, select.POLLIN)
        self._turn_s = limits.byte_s / _TURNS if self._plain is not None else limits.byte_s
        if self._plain is not None:
            self._plain.settimeout(None)
        self._wait_at_most(self._turn_s)

    @property
    def progress(self) -> Progress:
        """Where the exchange in C keeps what it has done."""
        if self._progress is None:
            self._progress = Progress()
        return self._progress

    def send(self, data: bytes | memoryview) -> None:
        """Send all of `data`. Raises TimeoutError if the store takes nothing for too long."""
        rest = memoryview(data)
        patience = time.monotonic() + self._limits.byte_s
        while rest:
            self._bound()
            try:
                sent = self._socket.send(rest[:_SENT_BYTES])
            except (BlockingIOError, TimeoutError):
                sent = 0
            if sent:
                rest = rest[sent:]
                patience = time.monotonic() + self._limits.byte_s
            elif time.monotonic() >= patience:
                raise TimeoutError

    def receive(self, buffer: memoryview, whole: bool, since_s: float | None = None) -> int:
        """Receive into `buffer`: until it is full, if `whole`. Return the bytes, 0 at the end of the stream.

        `since_s` is when the wait for the next byte began, if not now.
        """
        patience = (time.monotonic() if since_s is None else since_s) + self._limits.byte_s
        while True:
            self._bound()
            try:
                if whole and self._plain is not None:
                    return self._plain.recv_into(buffer, 0, socket.MSG_WAITALL)
                return self._socket.recv_into(buffer)
            except (BlockingIOError, TimeoutError):
                if time.monotonic() >= patience:
                    raise TimeoutError from None

    def silent(self) -> bool:
        """Whether nothing has arrived: neither the end of the stream nor bytes that nobody asked for."""
        if isinstance(self._socket, Http2Socket):
            return self._socket.usable()
        return not self._ready.poll(0)

    def close(self) -> None:
        self._socket.close()

    def _bound(self) -> None:
        """Wait no longer than the request may take, if that is limited."""
        if self.end != math.inf:
            left_s = self.end - time.monotonic()
            if left_s <= 0:
                raise too_long()
            self._wait_at_most(min(self._turn_s, left_s))

    def _wait_at_most(self, seconds: float) -> None:
        if self._plain is None:
            self._socket.settimeout(seconds)
            return
        whole = int(seconds)
        value = struct.pack("@ll", whole, max(int((seconds - whole) * 1e6), 0 if whole else 1))
        self._plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def _converse(connection: _Connection, head: bytes, body: bytes | memoryview, reception: Reception) -> int:
    """Send a request and receive its answer; return when the first byte came, in ns."""
    unsent: OSError | None = None
    try:
        if len(body) <= _JOINED_BYTES:
            connection.send(head + bytes(body) if body else head)
        else:
            connection.send(head)
            connection.send(body)
    except (BrokenPipeError, ConnectionResetError) as error:
        unsent = error  # the store may have answered already, with the reason
    return _received(connection, reception, unsent)


def _taken_over(connection: _Connection, head: bytes, reception: Reception, done: Progress) -> int:
    """Go on with an exchange that C handed back; return when the first byte came, in ns."""
    if done.sent < len(head):
        return _converse(connection, head[done.sent :], b"", reception)
    if done.in_room:
        reception.buffer()[: done.in_room] = done.head()
        if reception.received(done.in_room):
            return done.first
    if done.in_body:
        reception.received(done.in_body)  # not the last: they are in the buffer already
    if done.error not in (0, errno.EAGAIN, errno.EINTR):
        raise OSError(done.error, os.strerror(done.error))
    return _received(connection, reception, None, done.first, done.heard / 1e9)


def _received(
    connection: _Connection,
    reception: Reception,
    unsent: OSError | None,
    first: int = 0,
    since_s: float | None = None,
) -> int:
    """Receive the rest of an answer; return when its first byte came, in ns (`first`, if it has come)."""
    while True:
        count = connection.receive(reception.buffer(), reception.filling, since_s)
        since_s = None
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
        raise Broken.of(failures.refused_by_proxy(status, _shown(endpoint)))


def _shown(endpoint: Endpoint) -> str:
    return endpoint.proxy.shown if endpoint.proxy else ""
