"""One container through azure-storage-blob: the reference client, which production loaders use.

Its retries are off, as in every client here, and a read is one GET, however long. It serves
for comparison, and for keys that obstore cannot access; it takes several times the CPU.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import azure.core.exceptions as azure_errors
from azure.storage.blob.aio import ContainerClient as AsyncContainerClient
from azure.storage.blob.aio import ExponentialRetry as AsyncExponentialRetry

from tracekit.backends.objects import failures
from tracekit.backends.objects.aio_connections import Redirected, no_answer, watched
from tracekit.backends.objects.azure_account import AzureSettings
from tracekit.backends.objects.checksum import verify_counted
from tracekit.backends.objects.client import PAGE_OBJECTS
from tracekit.backends.objects.failures import NO_LISTING, NO_STORE, Failure, ForeignAnswer
from tracekit.backends.objects.limits import TooLong, within
from tracekit.backends.objects.listing import next_token
from tracekit.backends.objects.loop_thread import LoopClients
from tracekit.backends.objects.native.endpoint import Endpoint, endpoint_of
from tracekit.backends.objects.options import Transport
from tracekit.backends.objects.ranges import OtherBytes, check_body, range_bytes, whole_bytes
from tracekit.errors import ErrorClass

__all__ = ["AzureSdkClient"]

_ONE_REQUEST_BYTES = 1 << 40
"""The SDK splits longer downloads and uploads: there are none."""
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
        *(ValueError, zlib.error, _BadKey, _BodyBroke, OtherBytes),  # the SDK's parsers raise the first two
        *(TooLong, Redirected),
    )

    def __init__(
        self,
        container: str,
        settings: AzureSettings,
        options: Transport,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._container = container
        self._settings = settings
        self._transport = options
        self._endpoint = endpoint_of(settings.endpoint, options, ca_bundle=options.ca_bundle)
        self._total_s = options.total_timeout_s
        self._checksums = options.verify_checksums
        self._options: dict[str, Any] = {
            "read_timeout": options.timeout_s,
            "connection_timeout": options.connect_timeout_s,
            "max_single_get_size": _ONE_REQUEST_BYTES,
            "max_single_put_size": _ONE_REQUEST_BYTES,
            "logging_enable": False,
            "permit_redirects": False,
        }
        self._count = count
        self._loops: LoopClients[AsyncContainerClient] = LoopClients(f"tracekit-{container}", self._make)

    def read(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        moved: tuple[int, int | None] = self._loops.run(self.aread(key, offset, buffer))
        return moved

    def get(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]:
        found: tuple[memoryview | None, int | None] = self._loops.run(self.aget(key, most))
        return found

    async def aread(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        heads = _Heads()
        data = await self._download(key, offset, len(buffer), heads)
        return heads.fill(offset, buffer, data), heads.at

    async def aget(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]:
        heads = _Heads()  # the SDK requests a range anyway: `most` costs no second request
        data = await self._download(key, 0 if most else None, most or None, heads)
        body = heads.whole(data, most)
        if self._checksums and heads.complete(len(data)):
            verify_counted(heads.headers, memoryview(data), self._count)
        return body, heads.at

    async def _download(self, key: str, offset: int | None, length: int | None, heads: _Heads) -> bytes:
        async with self._limited() as client:
            with _one_request():
                stream = await client.download_blob(
                    _namable(key), offset, length, raw_response_hook=heads, decompress=False
                )
                return await stream.readall()

    def size(self, key: str) -> int:
        size = self._loops.run(self._size(key))
        if size is None:
            raise OtherBytes("the answer to a HEAD has no Content-Length")
        return int(size)

    async def _size(self, key: str) -> int | None:
        async with self._limited() as client:
            return (await client.get_blob_client(_namable(key)).get_blob_properties()).size

    def pages(self, prefix: str, after: str) -> Iterator[list[tuple[str, int]]]:
        below = f"{prefix}/" if prefix else None
        listing: Any = None

        async def following() -> list[Any] | None:
            nonlocal listing
            async with self._limited() as client:
                if listing is None:
                    listing = client.list_blobs(below, results_per_page=PAGE_OBJECTS).by_page()
                try:
                    return [blob async for blob in await anext(listing)]
                except StopAsyncIteration:
                    return None
                except (AttributeError, ValueError, azure_errors.DecodeError):  # how the SDK takes other XML
                    raise ForeignAnswer(NO_LISTING) from None

        marker = ""
        while (page := self._loops.run(following())) is not None:
            found = [(blob.name or "", -1 if blob.size is None else int(blob.size)) for blob in page]
            marker = listing.continuation_token and next_token(listing.continuation_token, marker)
            yield [(key, size) for key, size in found if key > after and (size or not key.endswith("/"))]

    def put(self, key: str, data: bytes | memoryview, overwrite: bool) -> None:
        self._loops.run(self._put(_namable(key), bytes(data), overwrite))

    async def _put(self, key: str, data: bytes, overwrite: bool) -> None:
        async with self._limited() as client:
            heads = _Heads()
            try:
                await client.upload_blob(key, data, overwrite=overwrite, raw_response_hook=heads)
                failures.check_taken(heads.body)
            except (azure_errors.HttpResponseError, UnicodeDecodeError) as error:
                if 200 <= (getattr(error, "status_code", None) or 200) < 300:  # it should be 201
                    raise ForeignAnswer(NO_STORE) from None
                raise

    def failure(self, error: Exception) -> Failure:
        if isinstance(error, _BadKey):
            return Failure(
                ErrorClass.BAD_KEY, "the Azure SDK cannot access a key with . or .. between slashes"
            )
        if isinstance(error, TooLong):
            return failures.too_long()
        if isinstance(error, Redirected) or isinstance(error.__cause__, Redirected):
            return Failure(ErrorClass.WRONG_REGION, "the store redirects")
        if isinstance(error, OtherBytes):
            return failures.other_bytes(str(error))
        if isinstance(error, ForeignAnswer):
            return failures.foreign(error)
        if isinstance(error, _BodyBroke):
            error = error.cause
        if isinstance(error, ValueError) and ("Content-Range" in str(error) or "int()" in str(error)):
            return failures.other_bytes("the answer has no valid Content-Range")
        if isinstance(error, azure_errors.ClientAuthenticationError) and not error.status_code:
            return failures.credentials_failure(str(error))
        if isinstance(error, azure_errors.HttpResponseError) and 200 <= (error.status_code or 0) < 300:
            return failures.other_bytes(f"HTTP {error.status_code} is no answer to a GET")
        if isinstance(error, azure_errors.HttpResponseError) and error.status_code:
            code = getattr(error, "error_code", None)
            code = getattr(code, "value", code) or ""
            told = getattr(error.response, "headers", None) or {}
            headers = {name.lower(): value for name, value in told.items()}
            return failures.from_status(
                error.status_code,
                code=str(code),
                message=error.message or "",
                retry_after_s=failures.retry_after(headers),
            )
        why = no_answer(error, self._endpoint)
        if why is not None:
            return why
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
        return str(self._loops.run(self._date()))

    async def _date(self) -> str:
        heads = _Heads()
        async with self._limited() as client:
            try:
                await client.get_container_properties(raw_response_hook=heads)
            except azure_errors.HttpResponseError as error:
                return str((getattr(error.response, "headers", None) or {}).get("Date", ""))
        return heads.date

    def remove(self, key: str) -> bool:
        self._loops.run(self._remove(_namable(key)))
        return True

    async def _remove(self, key: str) -> None:
        async with self._limited() as client:
            await client.delete_blob(key)

    def relocate(self, region: str) -> bool:
        return False

    def close(self) -> None:
        self._loops.close()

    async def aclose(self) -> None:
        await self._loops.aclose()

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[AsyncContainerClient]:
        """Yield the client for a request of limited time. Making the client is no part of a request."""
        client = await self._loops.client()
        async with within(self._total_s):
            yield client

    async def _make(self, stack: AsyncExitStack) -> AsyncContainerClient:
        credential = self._settings.sdk_credential(aio=True)
        if hasattr(credential, "close"):
            stack.push_async_callback(credential.close)
        client = AsyncContainerClient(
            self._settings.endpoint,
            self._container,
            credential=credential,
            transport=_aio_transport(self._endpoint, self._transport, self._count),
            retry_policy=_OneTry(retry_total=0),
            **self._options,
        )
        stack.push_async_callback(client.close)
        return client


def _namable(key: str) -> str:
    if not {".", ".."}.isdisjoint(key.split("/")):
        raise _BadKey
    return key


class _Heads:
    """A response hook: when the headers of the last answer arrived, and what they announce."""

    __slots__ = ("at", "body", "date", "headers", "length", "range", "status")

    def __init__(self) -> None:
        self.at: int | None = None
        self.status = 0
        self.length: int | None = None
        self.range: str | None = None
        self.date = ""
        self.headers: dict[str, str] = {}
        self.body = b""
        """That of the answer to an upload."""

    def __call__(self, response: Any) -> None:
        self.at = time.monotonic_ns()
        answer = response.http_response
        self.status = answer.status_code
        self.headers = {name.lower(): value for name, value in answer.headers.items()}
        length = self.headers.get("content-length")
        self.length = int(length) if length is not None else None
        self.range = self.headers.get("content-range")
        self.date = self.headers.get("date", "")
        if answer.request.method == "PUT":
            self.body = answer.body()

    def fill(self, offset: int, buffer: memoryview, data: bytes) -> int:
        """Copy a range into `buffer`. Raises OtherBytes if it is another one."""
        if self.status in (200, 206) and (data or self.range):  # an empty object has no range
            check_body(len(data), range_bytes(self.range, offset, len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def whole(self, data: bytes, most: int | None) -> memoryview:
        """Return a whole body, or its first `most` bytes. Raises OtherBytes if they are others."""
        if self.range is not None and self.status in (200, 206):
            wanted = whole_bytes(self.range, self.length) if not most else range_bytes(self.range, 0, most)
            check_body(len(data), wanted)
        elif self.length is not None and self.status in (200, 206):
            check_body(len(data), self.length)
        return memoryview(data)[:most]

    def complete(self, count: int) -> bool:
        """Return whether `count` bytes are all of the object."""
        return self.range is None or self.range.rpartition("/")[2] == str(count)


class _Download:
    """One download: whether its request was sent, and its answer."""

    __slots__ = ("answer", "sent")

    def __init__(self) -> None:
        self.sent = False
        self.answer: Any = None


_download: ContextVar[_Download | None] = ContextVar("tracekit_azure_download", default=None)


@contextmanager
def _one_request() -> Iterator[None]:
    """Keep the SDK's downloader from sending a second request; close an answer that it drops."""
    download = _Download()
    token = _download.set(download)
    try:
        yield
    except BaseException:
        if download.answer is not None:
            download.answer.close()
        raise
    finally:
        _download.reset(token)


def _note_sending() -> None:
    download = _download.get()
    if download is not None and download.sent:
        raise OtherBytes("the answer is shorter than the requested range")
    if download is not None:
        download.sent = True


def _noted(response: Any) -> Any:
    """Allow the SDK its second request past the end of an empty object."""
    answer, download = response.http_response, _download.get()
    if download is not None:
        download.answer = getattr(answer, "internal_response", None)
        download.sent = answer.status_code != 416
        stream = answer.stream_download
        answer.stream_download = lambda *given, **named: _Body(stream(*given, **named))
    return response


class _Body:
    """The bytes of a download; an error in them is raised past the SDK's downloader."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except _ASKED_AGAIN_AFTER as error:
            raise _BodyBroke(error) from error


class _OneTry(AsyncExponentialRetry):
    """The SDK's retry policy without retries; the base class does the rest of a policy's work."""

    async def send(self, request: Any) -> Any:  # type: ignore[override]
        _note_sending()
        return _noted(await super().send(request))  # type: ignore[no-untyped-call]


def _aio_transport(endpoint: Endpoint, options: Transport, count: Callable[[str], None]) -> Any:
    """Return the SDK's transport over a session that sends nothing twice; aiohttp would, uncounted."""
    import aiohttp
    from azure.core.pipeline.transport import AioHttpTransport

    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=endpoint.context or True),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        proxy=endpoint.proxy.with_login if endpoint.proxy else None,
        trust_env=False,
        trace_configs=[watched(count, endpoint.context is not None)],
    )
    session._retry_connection = False
    return AioHttpTransport(
        session=session,
        use_env_settings=False,
        connection_timeout=options.connect_timeout_s,
        read_timeout=options.timeout_s,
    )
