"""The HTTP side of the proxy: takes requests on the loopback, sends them on, and streams both bodies.

Nothing of an answer is changed but the headers of the connection. A request is sent once (aiohttp sends an idempotent
one again if a kept connection turns out to be closed); if the store cannot be reached, the client gets an
answer 502 and decides itself whether to try again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from xml.sax.saxutils import escape

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tracekit.capture.proxy.exchange import Exchange, Exchanges
from tracekit.capture.proxy.upstream import HOP_BY_HOP, Refused, Upstream
from tracekit.errors import ErrorClass, UsageError

__all__ = ["Server"]

_HEADER_BYTES = 64 * 1024
_BUFFER_BYTES = 256 * 1024
_CONNECT_S = 30.0
_GRACE_S = 1.0
_OWN_HEADERS = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
"""Headers that the HTTP library would add to a request."""


class Server:
    """Serves on a port of the loopback between `start` and `stop`, in one event loop."""

    def __init__(self, upstream: Upstream, exchanges: Exchanges, ca_bundle: str | None) -> None:
        self._upstream, self._exchanges = upstream, exchanges
        self._tls: ssl.SSLContext | bool = (
            True if ca_bundle is None else ssl.create_default_context(cafile=ca_bundle)
        )

    async def start(self, port: int) -> int:
        """Begin to serve, and return the port. Raises UsageError if the port is taken."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            auto_decompress=False,
            read_bufsize=_BUFFER_BYTES,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            skip_auto_headers=_OWN_HEADERS,
            trust_env=True,
        )
        server = web.Server(
            self._handle,
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            read_bufsize=_BUFFER_BYTES,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=_GRACE_S)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", port).start()
        except OSError as error:
            await self.stop()
            reason = (error.strerror or str(error)).rpartition(": ")[2]
            raise UsageError(
                f"port={port} of 127.0.0.1: {reason}", "give another port=, or 0 for any"
            ) from None
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """End the requests under way, and serve no more."""
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        target = request.raw_path
        if not target.startswith("/"):
            return _error(400, "InvalidURI", "tracekit proxy: the request is not addressed to a server")
        exchange = self._exchanges.begin(
            self._upstream.understand(request.method, target, request.headers), request.headers
        )
        error: ErrorClass | None = None
        try:
            response, error = await self._pass_on(request, target, exchange)
            return response
        except asyncio.CancelledError:  # the client has gone
            error = ErrorClass.CANCELLED
            raise
        finally:
            exchange.ended(error)

    async def _pass_on(
        self, request: web.BaseRequest, target: str, exchange: Exchange
    ) -> tuple[web.StreamResponse, ErrorClass | None]:
        """Send the request to the store and its answer to the client; return what broke it off, if anything did."""
        try:
            route = self._upstream.route(request.method, target, CIMultiDict(request.headers))
        except Refused as refused:
            return _error(403, refused.code, str(refused)), ErrorClass.PERMISSION
        body = _body(request, exchange, unwrap=route.unwrap) if request.body_exists else None
        try:
            answer = await self._session.request(
                request.method,
                URL(route.url, encoded=True),
                headers=route.headers,
                data=body,
                allow_redirects=False,
            )
        except TimeoutError as error:
            return _error(
                502, "BadGateway", f"tracekit proxy: {self._upstream.shown}: {error}"
            ), ErrorClass.TIMEOUT
        except (aiohttp.ClientError, OSError) as error:
            reason = f"tracekit proxy: {self._upstream.shown} cannot be reached: {error}"
            return _error(502, "BadGateway", reason), ErrorClass.UNREACHABLE
        async with answer:
            exchange.answered(answer.status, answer.headers)
            return await _return(request, answer, exchange)


async def _return(
    request: web.BaseRequest, answer: aiohttp.ClientResponse, exchange: Exchange
) -> tuple[web.StreamResponse, ErrorClass | None]:
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    for name, value in answer.headers.items():
        if name.lower() not in HOP_BY_HOP:
            response.headers.add(name, value)
    if (
        "Content-Length" not in answer.headers
        and request.method != "HEAD"
        and answer.status not in (204, 304)
    ):
        response.enable_chunked_encoding()
    try:
        await response.prepare(request)
        while True:
            try:
                data = await answer.content.readany()
            except (aiohttp.ClientError, OSError) as error:
                _break_off(request)
                short = isinstance(error, aiohttp.ClientPayloadError)
                return response, ErrorClass.SHORT_READ if short else ErrorClass.UNREACHABLE
            if not data:
                break
            exchange.received(data)
            await response.write(data)
        await response.write_eof()
    except ConnectionError:  # the client has gone
        return response, ErrorClass.CANCELLED
    return response, None


def _break_off(request: web.BaseRequest) -> None:
    """End the connection to the client, which takes what it got for incomplete, as it is."""
    if request.transport is not None:
        request.transport.close()


async def _body(request: web.BaseRequest, exchange: Exchange, *, unwrap: bool) -> AsyncIterator[bytes]:
    if request.headers.get("Expect", "").lower() == "100-continue":
        # The client waits for this before it sends the body; aiobotocore waits without end.
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    pieces = _unwrapped(request.content) if unwrap else request.content.iter_any()
    async for piece in pieces:
        exchange.sent(piece)
        yield piece


async def _unwrapped(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield the data in the chunks of a body in the coding aws-chunked."""
    while True:
        head = await content.readline()
        left = int(head.partition(b";")[0].strip() or b"0", 16)
        if not left:
            break
        while left:
            piece = await content.read(min(left, _BUFFER_BYTES))
            if not piece:
                raise ConnectionResetError("the body ended inside a chunk")
            left -= len(piece)
            yield piece
        await content.readline()
    while await content.readany():  # the trailers
        pass


def _error(status: int, code: str, reason: str) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{escape(reason)}</Message></Error>'
    return web.Response(status=status, text=text, content_type="application/xml")
