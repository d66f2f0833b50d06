"""One bucket through aiobotocore: the reference client, which production loaders in Python use.

Its retries are off, as in every client here. Each event loop has its own client; calls from
threads run on one loop in a thread. It serves for comparison, and for keys that obstore
cannot access; it takes several times the CPU.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import aiobotocore.session
import aiohttp
import botocore.exceptions as boto_errors
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from botocore import UNSIGNED
from botocore.parsers import ResponseParserError

from tracekit.backends.objects import failures
from tracekit.backends.objects.aio_connections import Redirected, no_answer, watched
from tracekit.backends.objects.aws import (
    AwsSettings,
    check_sendable,
    credential_errors,
    shipped_data,
    why_no_credentials,
)
from tracekit.backends.objects.checksum import verify_counted
from tracekit.backends.objects.client import PAGE_OBJECTS
from tracekit.backends.objects.failures import NO_LISTING, NO_STORE, Failure, ForeignAnswer
from tracekit.backends.objects.limits import TooLong, within
from tracekit.backends.objects.listing import next_token
from tracekit.backends.objects.loop_thread import LoopClients
from tracekit.backends.objects.native.endpoint import endpoint_of
from tracekit.backends.objects.options import Transport, certificate_pair
from tracekit.backends.objects.ranges import OtherBytes, check_body, range_bytes, whole_bytes
from tracekit.errors import ErrorClass

__all__ = ["AiobotocoreClient"]


class _NoCredentials(Exception):
    """The AWS chain has no credentials, or they cannot be obtained."""


class _Options(Transport, Protocol):
    @property
    def requester_pays(self) -> bool: ...
    @property
    def version_id(self) -> str | None: ...


_CONNECTIONS = 1024
"""More than any gate admits at once: the gate is the limit, not a hidden queue here."""
_OF_A_LISTING = frozenset({"IsTruncated", "KeyCount", "MaxKeys", "Name", "Contents"})
"""What botocore finds in the XML of a listing, and in no other."""
logging.getLogger("aiobotocore").addHandler(logging.NullHandler())  # keeps its warnings off the terminal
_DECIDED: dict[str, Any] = {
    "s3": {},
    "retry_mode": "legacy",
    "defaults_mode": "legacy",
    "sts_regional_endpoints": "regional",
    "account_id_endpoint_mode": "preferred",
    "request_min_compression_size_bytes": 10240,
    "s3_disable_express_session_auth": False,
    "csm_enabled": False,
}
"""What botocore would take from the environment or the profile, and is no part of the contract of `aws`."""
_CREDENTIAL_ERRORS = (
    _NoCredentials,
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.SSOError,
    boto_errors.TokenRetrievalError,
)


class AiobotocoreClient:
    """One bucket."""

    errors: tuple[type[Exception], ...] = (
        boto_errors.BotoCoreError,
        boto_errors.ClientError,
        ResponseParserError,
        aiohttp.ClientError,
        TimeoutError,
        OSError,
        _NoCredentials,
        ValueError,
        OtherBytes,
        Redirected,
        TooLong,
    )

    def __init__(
        self,
        bucket: str,
        settings: AwsSettings,
        options: _Options,
        count: Callable[[str], None],
    ) -> None:
        self._bucket = bucket
        self._settings = settings
        self._region = settings.region
        url = settings.endpoint or settings.aws_endpoint(None, settings.region)
        self._endpoint = endpoint_of(url, options, ca_bundle=settings.ca_bundle)
        self._version = {"VersionId": options.version_id} if options.version_id else {}
        self._payer = {"RequestPayer": "requester"} if options.requester_pays else {}
        self._total_s = options.total_timeout_s
        self._count = count
        self._checksums = options.verify_checksums
        proxies = None if options.proxy is None else {"http": options.proxy, "https": options.proxy}
        if options.proxy == "none":
            proxies = {}
        self._loops: LoopClients[Any] = LoopClients(f"tracekit-{bucket}", self._make)
        virtual, _ = settings.style(bucket)
        self._config = AioConfig(
            retries={"total_max_attempts": 1},
            connect_timeout=options.connect_timeout_s,
            read_timeout=options.timeout_s,
            proxies=proxies,
            client_cert=certificate_pair(options.client_cert),
            max_pool_connections=_CONNECTIONS,
            http_session_cls=_counting(count, not (settings.endpoint or "").startswith("http:")),
            signature_version=UNSIGNED if settings.anonymous else "s3v4",
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            use_dualstack_endpoint=settings.dualstack,
            use_fips_endpoint=settings.fips,
            s3={
                "addressing_style": "virtual" if virtual else "path",
                "use_accelerate_endpoint": False,
                "use_dualstack_endpoint": settings.dualstack,
            },
        )

    def read(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        moved: tuple[int, int | None] = self._loops.run(self.aread(key, offset, buffer))
        return moved

    def get(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]:
        found: tuple[memoryview | None, int | None] = self._loops.run(self.aget(key, most))
        return found

    async def aread(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        last = offset + len(buffer) - 1
        async with self._limited():
            answer = await self._get(key, Range=f"bytes={offset}-{last}")
            first = time.monotonic_ns()
            async with answer["Body"] as body:
                expected = range_bytes(answer.get("ContentRange"), offset, len(buffer))
                check_body(answer.get("ContentLength", expected), expected)
                data = await body.read()
        check_body(len(data), expected)
        buffer[: len(data)] = data
        return len(data), first

    async def aget(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]:
        async with self._limited():
            answer = await self._get(key)
            first = time.monotonic_ns()
            async with answer["Body"] as body:
                length = answer.get("ContentLength")
                if "ContentRange" in answer or answer["ResponseMetadata"]["HTTPStatusCode"] != 200:
                    length = whole_bytes(answer.get("ContentRange"), length)
                if most is not None and length is not None and length > most:
                    return None, first
                data = await body.read()
        if length is not None:
            check_body(len(data), length)
        if self._checksums:
            verify_counted(answer["ResponseMetadata"]["HTTPHeaders"], memoryview(data), self._count)
        return memoryview(data)[:most], first

    async def _get(self, key: str, **asked: Any) -> Any:
        return await self._call("get_object", Key=key, **asked, **self._version)

    def size(self, key: str) -> int:
        answer = self._loops.run(self._call("head_object", Key=key, **self._version))
        if "ContentLength" not in answer:
            raise OtherBytes("the answer to a HEAD has no Content-Length")
        return int(answer["ContentLength"])

    def pages(self, prefix: str, after: str) -> Iterator[list[tuple[str, int]]]:
        asked: dict[str, Any] = {"MaxKeys": PAGE_OBJECTS, "Prefix": f"{prefix}/" if prefix else ""}
        if after:
            asked["StartAfter"] = after
        while True:
            try:
                answer = self._loops.run(self._call("list_objects_v2", **asked))
            except (ForeignAnswer, ResponseParserError):
                raise ForeignAnswer(NO_LISTING) from None
            if _OF_A_LISTING.isdisjoint(answer):
                raise ForeignAnswer(NO_LISTING)
            found = [(entry.get("Key"), entry.get("Size")) for entry in answer.get("Contents", [])]
            if any(None in entry for entry in found):
                raise ValueError("an entry of the listing has no key or size")
            more = answer.get("IsTruncated")
            if more:
                token = answer.get("NextContinuationToken", "")
                asked["ContinuationToken"] = next_token(token, asked.get("ContinuationToken", ""))
            yield [(key, size) for key, size in found if size or not key.endswith("/")]
            if not more:
                return

    def put(self, key: str, data: bytes | memoryview, overwrite: bool) -> None:
        condition = {} if overwrite else {"IfNoneMatch": "*"}
        self._loops.run(self._call("put_object", Key=key, Body=bytes(data), **condition))

    def failure(self, error: Exception) -> Failure:
        if isinstance(error, boto_errors.ClientError):
            metadata = error.response.get("ResponseMetadata", {})
            status = int(metadata.get("HTTPStatusCode", 0))
            headers = metadata.get("HTTPHeaders", {})
            answer = error.response.get("Error", {})
            code = str(answer.get("Code", ""))
            return failures.from_status(
                status,
                code="" if code.isdigit() else code,
                message=answer.get("Message", ""),
                region=headers.get("x-amz-bucket-region", "") or answer.get("Region", ""),
                retry_after_s=failures.retry_after(headers),
            )
        if isinstance(error, _CREDENTIAL_ERRORS):
            return failures.credentials_failure(str(error))
        if isinstance(error, TooLong):
            return failures.too_long()
        redirected = error if isinstance(error, Redirected) else _cause(error)
        if isinstance(redirected, Redirected):
            return failures.redirected(redirected.region)
        if isinstance(error, OtherBytes):
            return failures.other_bytes(str(error))
        if isinstance(error, ForeignAnswer):
            return failures.foreign(error)
        if isinstance(error, ResponseParserError):  # its text shows the body
            return failures.foreign(ForeignAnswer(NO_STORE))
        why = no_answer(error, self._endpoint)
        if why is not None:
            return why
        if isinstance(error, boto_errors.ConnectTimeoutError | boto_errors.EndpointConnectionError):
            return failures.unreachable("no connection")
        if isinstance(error, boto_errors.ReadTimeoutError | TimeoutError):
            return failures.timeout("timed out")
        if isinstance(error, boto_errors.HTTPClientError | aiohttp.ClientError | OSError):
            return failures.unreachable("the connection broke off")
        return Failure(ErrorClass.IO_ERROR, failures.one_line(str(error).replace("\n", " ")))

    def date(self, key: str) -> str:
        try:
            answer = self._loops.run(self._call("list_objects_v2", MaxKeys=1))
        except boto_errors.ClientError as error:
            answer = error.response
        return str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", ""))

    def remove(self, key: str) -> bool:
        self._loops.run(self._call("delete_object", Key=key))
        return True

    def relocate(self, region: str) -> bool:
        self._region = region
        self._loops.renew()
        return True

    def close(self) -> None:
        self._loops.close()

    async def aclose(self) -> None:
        await self._loops.aclose()

    async def _call(self, operation: str, **arguments: Any) -> Any:
        async with self._limited() as client:
            return await getattr(client, operation)(Bucket=self._bucket, **arguments, **self._payer)

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[Any]:
        """Yield the client for a request of limited time. Making the client is no part of a request."""
        client = await self._loops.client()
        async with within(self._total_s):
            yield client

    async def _make(self, stack: AsyncExitStack) -> Any:
        session = aiobotocore.session.AioSession(profile=self._settings.profile)
        session.register_component("data_loader", shipped_data())
        known = session.get_component("config_store")
        for name, value in _DECIDED.items():
            known.set_config_variable(name, value)
        if not self._settings.anonymous:
            await _require_credentials(session)
        client = await stack.enter_async_context(
            session.create_client(
                "s3",
                endpoint_url=self._settings.endpoint,
                region_name=self._region,
                verify=(self._endpoint.context and self._settings.ca_bundle)
                or True,  # None: REQUESTS_CA_BUNDLE
                config=self._config,
            )
        )
        client.meta.events.register_first("before-call.s3", _follow_no_redirect)
        client.meta.events.register_last("before-call.s3", _expect_nothing)
        if self._checksums:
            client.meta.events.register_last("before-call.s3.GetObject", _ask_for_checksum)
        return client


def _follow_no_redirect(params: dict[str, Any], **_: Any) -> None:
    """Turn off botocore's redirects: it would send again uncounted, and without a region forever."""
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _expect_nothing(params: dict[str, Any], **_: Any) -> None:
    """Send the body at once: aiohttp waits without end for a store that answers a put before it has the body."""
    params["headers"].pop("Expect", None)


def _ask_for_checksum(params: dict[str, Any], **_: Any) -> None:
    """Ask for the checksum of a whole object; by botocore's own option, it would compare some kinds itself."""
    if "Range" not in params["headers"]:
        params["headers"]["x-amz-checksum-mode"] = "ENABLED"


async def _require_credentials(session: Any) -> None:
    """Raise _NoCredentials in one line; a request would raise a different error for each cause."""
    try:
        found = await session.get_credentials()
        if found is None:
            raise _NoCredentials("no AWS credentials in the environment, profile, SSO cache or instance")
        frozen = await found.get_frozen_credentials()
        check_sendable(frozen.access_key, frozen.token)
    except credential_errors() as error:
        raise _NoCredentials(f"no AWS credentials: {why_no_credentials(error)}") from None


def _cause(error: Exception) -> object:
    """Return the error that botocore has wrapped."""
    return getattr(error, "kwargs", {}).get("error")


def _counting(count: Callable[[str], None], secure: bool) -> type[AIOHTTPSession]:
    """Return a class of sessions whose connections are counted.

    It also turns off what aiohttp would send by itself: a GET after a closed connection, and redirects.
    Neither would be counted, and a redirect would carry the session token to another host. It raises
    ForeignAnswer for a success with a body that is no XML: botocore would make an error 500 of it.
    """

    class OneTrySession(AIOHTTPSession):  # type: ignore[misc]
        async def _get_session(self, proxy_url: str | None) -> Any:
            session = await super()._get_session(proxy_url)
            session._retry_connection = False
            if not session.trace_configs:
                session.trace_configs.append(watched(count, secure))
            return session

        async def send(self, request: Any) -> Any:
            answer = await super().send(request)
            if answer.status_code == 200 and not request.stream_output:
                failures.check_taken(await answer.content)
            return answer

    return OneTrySession
