"""HTTP connections of event loops. Each loop has its own; a cancelled request closes its connection."""

from __future__ import annotations

import asyncio
import socket
import time
import weakref
from collections.abc import Callable
from typing import cast

from tracekit.backends.objects.native.blocking import check_tunnel, tunnel_request
from tracekit.backends.objects.native.endpoint import Endpoint, Limits, broken, malformed, too_long
from tracekit.backends.objects.native.http2 import Http2, chosen
from tracekit.backends.objects.native.wire import Malformed, Reception, Refused

__all__ = ["LoopPool"]

_JOINED_BYTES = 64 << 10
_FRAMES_BYTES = 256 << 10


class LoopPool:
    """Connections to one endpoint, by event loop."""

    def __init__(self, endpoint: Endpoint, limits: Limits, count: Callable[[str], None]) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._count = count
        self._idle: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Connection]] = (
            weakref.WeakKeyDictionary()
        )

    async def exchange(self, head: bytes, body: bytes | memoryview, reception: Reception) -> int:
        """Send one request and receive its answer; return when the first byte came, in ns."""
        loop = asyncio.get_running_loop()
        idle = self._idle.get(loop)
        if idle is None:
            idle = self._idle[loop] = []
        connection = None
        while idle and connection is None:
            connection = idle.pop()
            if not connection.usable:
                connection = None
        if connection is None:
            connection = await self._connect(loop)
        else:
            self._count("connections_reused")
        try:
            first = await connection.exchange(head, body, reception)
        except Malformed as error:
            raise malformed(error) from None
        except OSError as error:
            raise broken(error, self._endpoint, connecting=False) from None
        if connection.usable and reception.reusable and len(idle) < self._limits.pool_size:
            idle.append(connection)
        else:
            connection.abort()
        return first

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        for connection in self._idle.pop(asyncio.get_running_loop(), []):
            connection.abort()

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        endpoint, limits = self._endpoint, self._limits
        target = endpoint.proxy or endpoint
        connection = _Connection(loop, limits)
        try:
            async with asyncio.timeout(limits.connect_s):
                if endpoint.context is None or endpoint.proxy is None:
                    await loop.create_connection(
                        lambda: connection,
                        target.host,
                        target.port,
                        ssl=endpoint.context,
                        server_hostname=endpoint.host if endpoint.context else None,
                    )
                else:
                    await self._through_tunnel(loop, connection)
        except (OSError, ValueError, Malformed, Refused) as error:
            connection.abort()
            raise broken(error, endpoint, connecting=True) from None
        except BaseException:
            connection.abort()
            raise
        if endpoint.context is not None:
            self._count("tls_handshakes")
        self._count("connections_opened")
        return connection

    async def _through_tunnel(self, loop: asyncio.AbstractEventLoop, connection: _Connection) -> None:
        endpoint = self._endpoint
        proxy = endpoint.proxy
        assert proxy is not None and endpoint.context is not None
        plain = _Connection(loop, self._limits)
        transport, _ = await loop.create_connection(lambda: plain, proxy.host, proxy.port)
        reception = Reception("HEAD", lambda _: None)
        try:
            await plain.exchange(tunnel_request(endpoint), b"", reception)
            check_tunnel(endpoint, reception)
            secured = await loop.start_tls(
                transport,
                connection,
                endpoint.context,
                server_hostname=endpoint.host,
            )
        except BaseException:
            plain.abort()
            raise
        assert secured is not None
        connection.connection_made(secured)


class _Connection(asyncio.BufferedProtocol):
    """One connection. It receives one answer at a time, straight into the buffer of the body."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self.usable = False
        self._loop = loop
        self._limits = limits
        self._transport: asyncio.Transport | None = None
        self._reception: Reception | None = None
        self._done: asyncio.Future[None] | None = None
        self._first = 0
        self._heard = 0.0  # when the last byte came, or the request was sent
        self._end = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._spare = bytearray(256)
        self._http2: Http2 | None = None
        self._frames = memoryview(b"")
        self._rest = memoryview(b"")  # of a request by HTTP/2, that the store has no room for yet

    async def exchange(self, head: bytes, body: bytes | memoryview, reception: Reception) -> int:
        loop, transport = self._loop, self._transport
        if transport is None:
            raise ConnectionResetError
        self._reception, self._first = reception, 0
        self._done = loop.create_future()
        self._heard = loop.time()
        self._end = self._heard + self._limits.total_s
        if self._http2 is not None:
            self._rest = memoryview(head + bytes(body))
            self._push(self._http2, transport)
        elif len(body) <= _JOINED_BYTES:
            transport.write(head + bytes(body) if body else head)
        else:
            transport.write(head)
            transport.write(body)
        if self._watch is None:
            self._watch = loop.call_later(min(self._limits.byte_s, self._limits.total_s), self._look)
        try:
            await self._done
        except BaseException:
            self.abort()
            raise
        finally:
            self._reception = self._done = None
        return self._first

    def abort(self) -> None:
        """Close at once; nothing is written into a buffer afterwards."""
        self.usable = False
        self._reception = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: the transports of other loops, such as uvloop, are no subclasses of asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        self.usable = True
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if chosen(transport.get_extra_info("ssl_object")):
            self._http2 = Http2()
            self._frames = memoryview(bytearray(_FRAMES_BYTES))  # asyncio slices it

    def get_buffer(self, sizehint: int) -> memoryview | bytearray:
        if self._http2 is not None:
            return self._frames
        return self._spare if self._reception is None else self._reception.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        http2, transport = self._http2, self._transport
        if http2 is None or transport is None:
            self._take(nbytes)
            return
        self._heard = self._loop.time()
        try:
            told = memoryview(http2.received(bytes(self._frames[:nbytes])))
            self._push(http2, transport)
        except (Malformed, OSError) as error:
            self._fail(error)
            return
        self.usable = self.usable and http2.usable
        while told:
            room = self._spare if self._reception is None else self._reception.buffer()
            count = min(len(room), len(told))
            room[:count] = told[:count]
            told = told[count:]
            self._take(count)

    def _push(self, http2: Http2, transport: asyncio.Transport) -> None:
        """Send what the store has room for."""
        while self._rest and (taken := http2.take(self._rest)):
            self._rest = self._rest[taken:]
        if out := http2.outgoing():
            transport.write(out)

    def _take(self, nbytes: int) -> None:
        reception = self._reception
        if reception is None:  # bytes that nobody asked for
            self.abort()
            return
        if not self._first:
            self._first = time.monotonic_ns()
        self._heard = self._loop.time()
        try:
            whole = reception.received(nbytes)
        except Exception as error:  # noqa: BLE001 - asyncio would print it; the waiter gets it
            self._fail(error)
            return
        if whole:
            self._succeed()

    def eof_received(self) -> bool:
        self._lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)

    def _lost(self, cause: Exception | None) -> None:
        self.usable = False
        if self._reception is not None and cause is None and self._reception.ended():
            self._succeed()
        else:
            self._fail(cause or ConnectionResetError("the connection broke off"))

    def _succeed(self) -> None:
        self._reception = None
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self, error: Exception) -> None:
        self.usable = False
        self._reception = None
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    def _look(self) -> None:
        """End a request that waits too long for its next byte or as a whole; one timer serves many requests."""
        self._watch = None
        if self._done is None or self._done.done():
            return  # the next request sets it again
        now = self._loop.time()
        if now >= self._end:
            self._fail(too_long())
        elif now >= self._heard + self._limits.byte_s:
            self._fail(TimeoutError())
        else:
            left = min(self._heard + self._limits.byte_s, self._end) - now
            self._watch = self._loop.call_later(left, self._look)
