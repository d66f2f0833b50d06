"""One container through azure-storage-blob: the reference client, which production loaders use.

Its retries are off, as in every client here, and a read is one GET, however long. It serves
for comparison, and for keys that obstore cannot access; it takes several times the CPU.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import azure.core.exceptions as azure_errors
from azure.storage.blob import BlobClient, ContainerClient, ExponentialRetry
from azure.storage.blob.aio import ContainerClient as AsyncContainerClient
from azure.storage.blob.aio import ExponentialRetry as AsyncExponentialRetry

from tracekit.backends.objects import failures
from tracekit.backends.objects.azure_account import AzureSettings
from tracekit.backends.objects.client import PAGE_OBJECTS
from tracekit.backends.objects.failures import Failure
from tracekit.backends.objects.options import Transport, certificate_pair
from tracekit.backends.objects.ranges import OtherBytes, check_body, range_bytes
from tracekit.errors import ErrorClass

__all__ = ["AzureSdkClient"]

_ONE_GET_BYTES = 1 << 40
"""The SDK splits longer downloads: there are none."""
_CONNECTIONS = 1024
_ASKED_AGAIN_AFTER = (
    *(azure_errors.IncompleteReadError, azure_errors.HttpResponseError),
    *(azure_errors.DecodeError, azure_errors.ServiceResponseError),
)
logging.getLogger("azure").addHandler(logging.NullHandler())  # keeps its warnings off the terminal


class _BadKey(Exception):
    """The SDK would take `a/../b` for `b`."""


class _BodyBroke(Exception):
    """Wraps the error that broke off a body, so that the SDK's downloader does not send again."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


class AzureSdkClient:
    """One container: a synchronous client, and an asynchronous client for each event loop."""

    errors: tuple[type[Exception], ...] = (
        *(azure_errors.AzureError, TimeoutError, OSError),
        *(ValueError, _BadKey, _BodyBroke, OtherBytes),  # the SDK's parsers raise ValueError
    )

    def __init__(self, container: str, settings: AzureSettings, options: Transport) -> None:
        self._container = container
        self._settings = settings
        self._transport = options
        self._total_s = options.total_timeout_s
        self._options: dict[str, Any] = {
            "read_timeout": options.timeout_s,
            "connection_timeout": options.connect_timeout_s,
            "max_single_get_size": _ONE_GET_BYTES,
            "max_single_put_size": 256 << 20,
            "logging_enable": False,
            "permit_redirects": False,
        }
        self._sync = ContainerClient(
            settings.endpoint,
            container,
            credential=settings.sdk_credential(aio=False),
            transport=_pooled_transport(options),
            retry_policy=_OneTry(retry_total=0),
            **self._options,
        )
        self._async: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncContainerClient] = (
            weakref.WeakKeyDictionary()
        )

    def read(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        heads = _Heads()
        with _one_request():
            stream = self._sync.download_blob(
                _namable(key), offset, len(buffer), raw_response_hook=heads, decompress=False
            )
            data = stream.readall()
        return heads.fill(offset, buffer, data), heads.at

    def get(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]:
        heads = _Heads()
        with _one_request():  # the SDK requests a range anyway: `most` costs no second request
            stream = self._sync.download_blob(
                _namable(key), 0 if most else None, most or None, raw_response_hook=heads, decompress=False
            )
            data = stream.readall()
        return heads.whole(data, most), heads.at

    async def aread(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        heads = _Heads()
        async with asyncio.timeout(self._total_s):
            with _one_request():
                stream = await self._client().download_blob(
                    _namable(key), offset, len(buffer), raw_response_hook=heads, decompress=False
                )
                data = await stream.readall()
        return heads.fill(offset, buffer, data), heads.at

    async def aget(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]:
        heads = _Heads()
        async with asyncio.timeout(self._total_s):
            with _one_request():
                stream = await self._client().download_blob(
                    _namable(key),
                    0 if most else None,
                    most or None,
                    raw_response_hook=heads,
                    decompress=False,
                )
                data = await stream.readall()
        return heads.whole(data, most), heads.at

    def size(self, key: str) -> int:
        return int(self._sync.get_blob_client(_namable(key)).get_blob_properties().size)

    def pages(self, prefix: str, after: str) -> Iterator[list[tuple[str, int]]]:
        below = f"{prefix}/" if prefix else None
        for page in self._sync.list_blobs(below, results_per_page=PAGE_OBJECTS).by_page():
            found = [(blob.name, int(blob.size)) for blob in page]
            yield [(key, size) for key, size in found if key > after and (size or not key.endswith("/"))]

    def put(self, key: str, data: bytes | memoryview, overwrite: bool) -> None:
        self._sync.upload_blob(_namable(key), bytes(data), overwrite=overwrite)

    def blob(self, key: str) -> BlobClient:
        """The SDK's client of one object."""
        return self._sync.get_blob_client(_namable(key))

    def failure(self, error: Exception) -> Failure:
        if isinstance(error, _BadKey):
            return Failure(
                ErrorClass.BAD_KEY, "the Azure SDK cannot access a key with . or .. between slashes"
            )
        if isinstance(error, OtherBytes):
            return failures.other_bytes(str(error))
        if isinstance(error, _BodyBroke):
            error = error.cause
        if isinstance(error, ValueError) and "Content-Range" in str(error):
            return failures.other_bytes(str(error))
        if isinstance(error, azure_errors.ClientAuthenticationError) and not error.status_code:
            return failures.credentials_failure(str(error))
        if isinstance(error, azure_errors.HttpResponseError) and error.status_code:
            code = getattr(error, "error_code", None)
            code = getattr(code, "value", code) or ""
            headers = getattr(error.response, "headers", None) or {}
            return failures.from_status(
                error.status_code,
                code=str(code),
                message=error.message or "",
                retry_after=headers.get("Retry-After", ""),
            )
        if isinstance(error, azure_errors.ServiceResponseTimeoutError | TimeoutError):
            return failures.timeout("timed out")
        if isinstance(error, azure_errors.ServiceResponseError) and "timed out" in str(error).lower():
            return failures.timeout("timed out")
        if isinstance(
            error,
            azure_errors.ServiceRequestError
            | azure_errors.ServiceResponseError
            | azure_errors.IncompleteReadError
            | azure_errors.HttpResponseError
            | OSError,
        ):
            return failures.unreachable("no connection, or it broke off")
        return Failure(ErrorClass.IO_ERROR, failures.one_line(str(error)))

    def date(self, key: str) -> str:
        return ""

    def remove(self, key: str) -> bool:
        self._sync.delete_blob(_namable(key))
        return True

    def relocate(self, region: str) -> bool:
        return False

    def close(self) -> None:
        self._sync.close()

    async def aclose(self) -> None:
        client = self._async.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    def _client(self) -> AsyncContainerClient:
        loop = asyncio.get_running_loop()
        client = self._async.get(loop)
        if client is None:
            client = self._async[loop] = AsyncContainerClient(
                self._settings.endpoint,
                self._container,
                credential=self._settings.sdk_credential(aio=True),
                transport=_aio_transport(self._transport),
                retry_policy=_AsyncOneTry(retry_total=0),
                **self._options,
            )
        return client


def _namable(key: str) -> str:
    if not {".", ".."}.isdisjoint(key.split("/")):
        raise _BadKey
    return key


class _Heads:
    """A response hook: when the headers of the last answer arrived, and what they announce."""

    __slots__ = ("at", "length", "range", "status")

    def __init__(self) -> None:
        self.at: int | None = None
        self.status = 0
        self.length: int | None = None
        self.range: str | None = None

    def __call__(self, response: Any) -> None:
        self.at = time.monotonic_ns()
        answer = response.http_response
        self.status = answer.status_code
        length = answer.headers.get("Content-Length")
        self.length = int(length) if length is not None else None
        self.range = answer.headers.get("Content-Range")

    def fill(self, offset: int, buffer: memoryview, data: bytes) -> int:
        """Copy a range into `buffer`. Raises OtherBytes if it is another one."""
        if self.status in (200, 206) and (data or self.range):  # an empty object has no range
            check_body(len(data), range_bytes(self.range, offset, len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def whole(self, data: bytes, most: int | None) -> memoryview:
        """Return a whole body. Raises OtherBytes if it is not as long as announced."""
        if self.length is not None and self.status in (200, 206):
            check_body(len(data), self.length)
        return memoryview(data)[:most]


_sent: ContextVar[bool | None] = ContextVar("tracekit_azure_sent", default=None)
"""Within a download: whether its request was sent. None elsewhere."""


@contextmanager
def _one_request() -> Iterator[None]:
    """Keep the SDK's downloader from sending a second request when a body breaks off."""
    token = _sent.set(False)
    try:
        yield
    finally:
        _sent.reset(token)


def _note_sending() -> None:
    if _sent.get():
        raise azure_errors.ServiceResponseError("the connection broke off")
    if _sent.get() is False:
        _sent.set(True)


def _noted(response: Any) -> Any:
    """Allow the SDK its second request past the end of an empty object."""
    answer = response.http_response
    if _sent.get() and answer.status_code == 416:
        _sent.set(False)
    if _sent.get():
        stream = answer.stream_download
        answer.stream_download = lambda *given, **named: _Body(stream(*given, **named))
    return response


class _Body:
    """The bytes of a download; an error in them is raised past the SDK's downloader."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except _ASKED_AGAIN_AFTER as error:
            raise _BodyBroke(error) from error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except _ASKED_AGAIN_AFTER as error:
            raise _BodyBroke(error) from error


class _OneTry(ExponentialRetry):
    """The SDK's retry policy without retries; the base class does the rest of a policy's work."""

    def send(self, request: Any) -> Any:
        _note_sending()
        return _noted(super().send(request))  # type: ignore[no-untyped-call]


class _AsyncOneTry(AsyncExponentialRetry):
    """`_OneTry` on an event loop."""

    async def send(self, request: Any) -> Any:  # type: ignore[override]
        _note_sending()
        return _noted(await super().send(request))  # type: ignore[no-untyped-call]


def _aio_transport(options: Transport) -> Any:
    """Return the SDK's transport over a session that sends nothing twice; aiohttp would, uncounted."""
    import aiohttp
    from azure.core.pipeline.transport import AioHttpTransport

    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        proxy=None if options.proxy == "none" else options.proxy,
        trust_env=options.proxy is None,
    )
    session._retry_connection = False
    return AioHttpTransport(
        session=session,
        use_env_settings=options.proxy is None,
        connection_timeout=options.connect_timeout_s,
        read_timeout=options.timeout_s,
        connection_verify=options.ca_bundle or True,
        connection_cert=certificate_pair(options.client_cert),
    )


def _pooled_transport(options: Transport) -> Any:
    """Return the SDK's transport with a connection for each of many threads."""
    import requests
    import requests.adapters
    from azure.core.pipeline.transport import RequestsTransport

    session = requests.Session()
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.trust_env = options.proxy is None
    if options.proxy is not None and options.proxy != "none":
        session.proxies = {"http": options.proxy, "https": options.proxy}
    return RequestsTransport(
        session=session,
        session_owner=False,
        use_env_settings=options.proxy is None,
        connection_timeout=options.connect_timeout_s,
        read_timeout=options.timeout_s,
        connection_verify=options.ca_bundle or True,
        connection_cert=certificate_pair(options.client_cert),
    )
