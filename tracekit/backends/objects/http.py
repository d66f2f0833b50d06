"""`http://host/path` and `https://host/path`: web servers and presigned URLs, read only.

The query of a URL may be a signature. It is kept in memory, sent with the requests for that URL, and
is part of no URI that leaves this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tracekit.backends.base import ObjectInfo
from tracekit.backends.objects.client import ObjectClient
from tracekit.backends.objects.retrying import Dialect
from tracekit.backends.objects.store import ObjectHandle, ObjectStoreBackend
from tracekit.backends.objects.uri import split
from tracekit.errors import BackendError, ErrorClass
from tracekit.store_options import backend_table
from tracekit.uri import clean, scheme_of
from tracekit.validation import assign

__all__ = ["HttpOptions", "WebBackend", "backend", "http_backend"]

_queries: dict[str, dict[str, str]] = {}
"""By scheme and host, then by path: the queries that this process was given."""


@dataclass(frozen=True, slots=True, init=False)
class HttpOptions:
    """The options of `http` and `https`. Raises UsageError for an unknown name or an invalid value."""

    client: str
    timeout_s: float
    retries: int
    connect_timeout_s: float
    total_timeout_s: float | None
    ca_bundle: str | None
    client_cert: str | None
    proxy: str | None
    pool_size: int
    http2: bool
    verify_checksums: bool

    def __init__(self, **options: Any) -> None:
        assign(self, backend_table("https"), options)


class WebBackend(ObjectStoreBackend):
    """Objects of web servers of one scheme. Thread-safe. URLs may have a query; nothing else shows it."""

    def preflight(self, uri: str) -> None:
        self.stat(uri)

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        """Yield the object at `uri`: a web server has no listing."""
        yield self.stat(uri)

    def stat(self, uri: str) -> ObjectInfo:
        return super().stat(_kept(uri))

    def date(self, uri: str) -> str:
        return super().date(_kept(uri))

    def open(self, uri: str, *, page_cache_mode: str = "default") -> ObjectHandle:
        return super().open(_kept(uri), page_cache_mode=page_cache_mode)

    def put(self, uri: str, data: bytes | memoryview, *, overwrite: bool = False) -> int:
        raise BackendError(
            f"{clean(uri)}: a web server is read only", "choose another target", ErrorClass.UNSUPPORTED
        )


def backend(*, scheme: str = "https", **options: Any) -> WebBackend:
    """The backend of `https://` or `http://`. Raises UsageError for an unknown option or an invalid value."""
    from tracekit.backends.objects.native.client import NativeClient
    from tracekit.backends.objects.native.endpoint import endpoints_of, limits_of
    from tracekit.backends.objects.native.web import WebService

    chosen = HttpOptions(**options)

    def connect(host: str, count: Callable[[str], None]) -> ObjectClient:
        place = f"{scheme}://{host}"
        service = WebService(endpoints_of([place], chosen), _queries.setdefault(place, {}))
        return NativeClient(service, limits_of(chosen), count, chosen.verify_checksums)

    dialect = Dialect(
        scheme=scheme,
        container="host",
        endpoint="the server",
        credentials_hint="the URL may have expired; give a new one",
        region_hint="give the URL that it redirects to",
        bad_key_hint="",
    )
    return WebBackend(dialect, connect, chosen.retries)


http_backend = partial(backend, scheme="http")


def _kept(uri: str) -> str:
    """Remember the query of `uri`, and return the rest."""
    bare, _, query = uri.partition("#")[0].partition("?")
    if query:
        address = split(bare)
        place = f"{scheme_of(bare)}://{address.container}"
        _queries.setdefault(place, {})[address.key] = query
    return bare
