"""What aiohttp does for the clients that use it: its connections are counted, its redirects refused."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import aiohttp

from tracekit.backends.objects import failures
from tracekit.backends.objects.failures import Failure
from tracekit.backends.objects.native.endpoint import Endpoint, broken
from tracekit.errors import ErrorClass

__all__ = ["Redirected", "no_answer", "watched"]


class Redirected(Exception):
    """The store redirects to another address, which must not get our credentials. `region` is what S3 names with it."""

    def __init__(self, region: str = "") -> None:
        super().__init__("the store redirects")
        self.region = region


def watched(count: Callable[[str], None], secure: bool) -> aiohttp.TraceConfig:
    """Return what counts connections (`secure`: with TLS) and ends a request that is redirected."""

    async def opened(*_: Any) -> None:
        count("connections_opened")
        if secure:
            count("tls_handshakes")

    async def reused(*_: Any) -> None:
        count("connections_reused")

    async def redirected(_session: Any, _context: Any, params: aiohttp.TraceRequestRedirectParams) -> None:
        raise Redirected(params.response.headers.get("x-amz-bucket-region", ""))

    watch = aiohttp.TraceConfig()
    watch.on_connection_create_end.append(opened)
    watch.on_connection_reuseconn.append(reused)
    watch.on_request_redirect.append(redirected)
    watch.freeze()
    return watch


def no_answer(error: BaseException, endpoint: Endpoint) -> Failure | None:
    """Return why there is no answer, if TLS, the system or the parser said so; libraries wrap that several times."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, aiohttp.ClientHttpProxyError):
            shown = endpoint.proxy.shown if endpoint.proxy else ""
            return failures.refused_by_proxy(found.status, shown)
        if isinstance(
            found, aiohttp.ClientResponseError
        ):  # raised for what cannot be parsed, and nothing else
            return Failure(ErrorClass.IO_ERROR, "the answer is not HTTP/1.1", retryable=True)
        plain = not isinstance(found, aiohttp.ClientError)  # aiohttp's own wrap those of the system
        if plain and isinstance(found, ssl.SSLError | socket.gaierror | ConnectionRefusedError):
            return broken(found, endpoint, connecting=True).failure
        named = getattr(found, "kwargs", None)
        waiting += [
            found.__cause__,
            found.__context__,
            named.get("error") if isinstance(named, dict) else None,
        ]
        waiting += [
            getattr(found, name, None) for name in ("os_error", "certificate_error", "inner_exception")
        ]
    return None
