"""The native client: one container over HTTP/1.1, every request sent once and every byte checked.

It follows no redirect. The status, Content-Range and length of an answer are held against the request
before its bytes are believed. It keeps working after a fork.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from tracekit.backends.objects import failures
from tracekit.backends.objects.checksum import verify_counted
from tracekit.backends.objects.failures import CREDENTIALS_MARK, Failure, ForeignAnswer
from tracekit.backends.objects.listing import next_token
from tracekit.backends.objects.native.blocking import BlockingPool
from tracekit.backends.objects.native.checks import (
    HttpFailure,
    RangeCheck,
    Told,
    Untold,
    WholeCheck,
    any_answer,
    refused,
    succeeded,
    told_size,
)
from tracekit.backends.objects.native.endpoint import Broken, Endpoint, Limits
from tracekit.backends.objects.native.looped import LoopPool
from tracekit.backends.objects.native.service import BadKey, Service
from tracekit.backends.objects.native.wire import (
    Answer,
    NoRoom,
    Overlong,
    Reception,
    Refused,
    request_head,
)
from tracekit.backends.objects.ranges import OtherBytes
from tracekit.errors import ErrorClass

__all__ = ["NativeClient"]

_ANY_RANGE = "bytes=0-0"


class _Site:
    """The connections to one endpoint."""

    def __init__(self, endpoint: Endpoint, limits: Limits, count: Callable[[str], None]) -> None:
        self.endpoint = endpoint
        self.blocking = BlockingPool(endpoint, limits, count)
        self.looped = LoopPool(endpoint, limits, count)


class NativeClient:
    """One container. `count` adds one to a counter of the backend."""

    errors: tuple[type[Exception], ...] = (
        Broken,
        Refused,
        OtherBytes,
        BadKey,
        ValueError,
        RuntimeError,
        OSError,
    )

    def __init__(
        self, service: Service, limits: Limits, count: Callable[[str], None], checksums: bool
    ) -> None:
        self._service = service
        self.limits = limits
        self._count = count
        self._checksums = checksums
        self._sites = self._made()
        self._turn = itertools.count()
        self._heads: tuple[object, dict[tuple[_Site, str], tuple[bytes, bytes]]] = (None, {})
        """The heads of range GETs of this moment, before and after the range."""

    def read(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        check = RangeCheck(offset, buffer)
        site = self._site()
        try:
            first = site.blocking.read(self._range_head(site, key, check), check)
        except Overlong as error:
            raise refused(check.reception, error) from None
        if not check.filled:
            succeeded(check.reception, first)
        return check.count(), first

    def get(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]:
        check = WholeCheck(most)
        try:
            first = self._send("GET", key, check.reception)
        except Overlong:
            return None, None
        return self._verified(check), first

    async def aread(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        check = RangeCheck(offset, buffer)
        site = self._site()
        first = await self._exchanged(site, self._range_head(site, key, check), check.reception)
        return check.count(), first

    async def aget(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]:
        check = WholeCheck(most)
        try:
            site = self._site()
            head = self._head(site, "GET", key, None, None, b"")
            first = await self._exchanged(site, head, check.reception)
        except Overlong:
            return None, None
        return self._verified(check), first

    def size(self, key: str) -> int:
        if not self._service.lists:
            return self._size_by_get(key)
        return self._size_by_head(key)

    def _size_by_get(self, key: str) -> int:
        """Return the size that a GET of one byte tells: a presigned URL is signed for GET alone."""
        reception = Reception("GET", told_size)
        try:
            self._send("GET", key, reception, headers={"range": "bytes=0-0"})
        except Told as told:
            return told.size
        except Untold:
            return self._size_by_head(key)
        except HttpFailure as error:
            if error.answer.status == 416:
                return 0
            raise
        return len(reception.body)  # without a length, the whole body came

    def _size_by_head(self, key: str) -> int:
        answer, _ = self.request("HEAD", key)
        if answer.length is None:
            raise OtherBytes("the answer to a HEAD has no Content-Length")
        return answer.length

    def pages(self, prefix: str, after: str) -> Iterator[list[tuple[str, int]]]:
        token = ""
        while True:
            query = self._service.list_query(f"{prefix}/" if prefix else "", after, token)
            page = self._service.page(self.request("GET", None, query=query)[1])
            token = page.token and next_token(page.token, token)
            yield [
                (key, size) for key, size in page.entries if key > after and (size or not key.endswith("/"))
            ]
            if not token:
                return

    def put(self, key: str, data: bytes | memoryview, overwrite: bool) -> None:
        headers = {
            "content-type": "application/octet-stream",
            **({} if overwrite else self._service.create_only),
        }
        _, told = self.request(
            self._service.put_method,
            key,
            headers=headers,
            body=memoryview(data).cast("B") if len(data) else b"",
        )
        failures.check_taken(told, as_json=self._service.describes)

    def date(self, key: str) -> str:
        try:
            if self._service.lists:
                query = self._service.list_query("", "", "")
                return self.request("GET", None, query=query)[0].headers.get("date", "")
            return self.request("GET", key, headers={"range": "bytes=0-0"})[0].headers.get("date", "")
        except HttpFailure as error:
            return error.answer.headers.get("date", "")

    def remove(self, key: str) -> bool:
        self.request("DELETE", key)
        return True

    def request(
        self,
        method: str,
        key: str | None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
        total_s: float | None = None,
    ) -> tuple[Answer, bytes]:
        """Send one request and return its answer and body. Raises HttpFailure unless it succeeded.

        `total_s` is how long it may take, if not as long as other requests.
        """
        reception = Reception(method, any_answer)
        self._send(method, key, reception, query, headers, body, total_s)
        assert reception.answer is not None
        told = bytes(reception.body)
        if method != "GET":  # what an object holds is nobody's business
            failures.check_no_page(told)
            if (
                told.lstrip().startswith(b"<") and b"<Error>" in told
            ):  # S3 sends status 200 first, and the error after it
                raise HttpFailure(replace(reception.answer, status=500), told)
        return reception.answer, told

    def failure(self, error: Exception) -> Failure:
        if isinstance(error, HttpFailure):
            return self._http_failure(error)
        if isinstance(error, Broken):
            return error.failure
        if isinstance(error, ForeignAnswer):
            return failures.foreign(error)
        text = str(error)
        if isinstance(error, BadKey):
            return Failure(ErrorClass.BAD_KEY, text)
        if CREDENTIALS_MARK in text:
            return failures.credentials_failure(text.partition(CREDENTIALS_MARK)[2])
        if isinstance(error, NoRoom):
            return Failure(ErrorClass.OUT_OF_MEMORY, text)
        if isinstance(error, OtherBytes | Overlong):
            return failures.other_bytes(text)
        return Failure(ErrorClass.IO_ERROR, failures.one_line(text))

    def relocate(self, region: str) -> bool:
        if not self._service.relocate(region):
            return False
        self._sites = self._made()
        return True

    def close(self) -> None:
        for site in self._sites:
            site.blocking.close()

    async def aclose(self) -> None:
        for site in self._sites:
            await site.looped.aclose()

    def _made(self) -> list[_Site]:
        return [_Site(endpoint, self.limits, self._count) for endpoint in self._service.endpoints()]

    def _site(self) -> _Site:
        sites = self._sites
        if len(sites) == 1:
            return sites[0]
        site = sites[next(self._turn) % len(sites)]
        self._count(f"requests {site.endpoint.authority}")
        return site

    def _head(
        self,
        site: _Site,
        method: str,
        key: str | None,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        body: bytes | memoryview,
    ) -> bytes:
        endpoint = site.endpoint
        request = self._service.signed(endpoint, method, key, query or {}, headers or {}, body)
        extra: dict[str, str] = {"user-agent": "tracekit", "accept-encoding": self._service.accept_encoding}
        if len(body) or method in ("PUT", "POST"):
            extra["content-length"] = str(len(body))
        target = request.target
        if endpoint.forwards:
            target = f"{endpoint.scheme}://{endpoint.authority}{target}"
            if endpoint.proxy is not None and endpoint.proxy.authorization:
                extra["proxy-authorization"] = endpoint.proxy.authorization
        return request_head(method, target, endpoint.authority, {**request.headers, **extra})

    def _range_head(self, site: _Site, key: str, check: RangeCheck) -> bytes:
        moment = self._service.moment()
        if moment is None:
            return self._head(site, "GET", key, None, {"range": check.range}, b"")
        known = self._heads
        if known[0] != moment:
            known = self._heads = (moment, {})
        parts = known[1].get((site, key))
        if parts is None:
            head = self._head(site, "GET", key, None, {"range": _ANY_RANGE}, b"")
            before, _, after = head.partition(f"\r\nrange: {_ANY_RANGE}\r\n".encode())
            parts = known[1][site, key] = (before, after)
        return b"%b\r\nrange: %b\r\n%b" % (parts[0], check.range.encode(), parts[1])

    def _send(
        self,
        method: str,
        key: str | None,
        reception: Reception,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
        total_s: float | None = None,
    ) -> int:
        site = self._site()
        head = self._head(site, method, key, query, headers, body)
        try:
            first = site.blocking.exchange(head, body, reception, total_s)
        except Overlong as error:
            raise refused(reception, error) from None
        return succeeded(reception, first)

    async def _exchanged(self, site: _Site, head: bytes, reception: Reception) -> int:
        try:
            first = await site.looped.exchange(head, b"", reception)
        except Overlong as error:
            raise refused(reception, error) from None
        return succeeded(reception, first)

    def _verified(self, check: WholeCheck) -> memoryview:
        """Return the whole body. Raises OtherBytes if the store's checksum says otherwise."""
        body, answer = check.body(), check.reception.answer
        assert answer is not None
        if self._checksums:
            verify_counted(answer.headers, body, self._count)
        return body if check.most is None else body[: check.most]

    def _http_failure(self, error: HttpFailure) -> Failure:
        headers = error.answer.headers
        text = error.body.decode("utf-8", errors="replace")
        code = headers.get(self._service.code_header, "")
        region = headers.get("x-amz-bucket-region", "")
        return failures.from_status(
            error.answer.status,
            text,
            code=code,
            region=region,
            retry_after_s=failures.retry_after(headers),
        )
