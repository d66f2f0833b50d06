"""Changes of one bucket of S3: uploads in parts, copies, deletions.

They go through the native client whichever client reads: the other libraries hide single parts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias
from urllib.parse import quote
from xml.sax.saxutils import escape

from tracekit.backends.objects.failures import NO_STORE, TOO_LONG, Failure, ForeignAnswer
from tracekit.backends.objects.limits import CopyLimit
from tracekit.backends.objects.native.client import NativeClient
from tracekit.backends.objects.native.endpoint import Broken, too_long
from tracekit.backends.objects.native.service import xml_text
from tracekit.errors import ErrorClass

__all__ = ["Copy", "S3Changes"]

Copy: TypeAlias = Callable[[NativeClient, str, str, str], None]
"""Copies a key of a container to a key of the client's own."""
_UPLOAD: Final = re.compile(r"<UploadId>(.*?)</UploadId>", re.DOTALL)


class S3Changes:
    """One bucket of S3, or of a store that has the same uploads and `copy` of its own."""

    errors = NativeClient.errors

    def __init__(self, client: NativeClient, copy: Copy | None = None) -> None:
        self._client = client
        self._copy = copy or _s3_copy

    def relocate(self, region: str) -> bool:
        return self._client.relocate(region)

    def begin(self, key: str) -> str:
        answer = self._client.request("POST", key, query={"uploads": ""})[1]
        found = _UPLOAD.search(answer.decode("utf-8", "replace"))
        if found is None:
            raise ForeignAnswer(NO_STORE)
        return xml_text(found[1])

    def part(self, key: str, upload: str, number: int, data: memoryview) -> str:
        query = {"partNumber": str(number), "uploadId": upload}
        tag = self._client.request("PUT", key, query=query, body=data)[0].headers.get("etag")
        if not tag:
            raise ValueError("the store did not name the part that it took (ETag)")
        return tag

    def complete(self, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> None:
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(tag)}</ETag></Part>"
            for number, tag in parts
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        _, answer = self._client.request("POST", key, query={"uploadId": upload}, body=body)
        _check(answer, b"<CompleteMultipartUploadResult")

    def abort(self, key: str, upload: str) -> None:
        self._client.request("DELETE", key, query={"uploadId": upload})

    def copy(self, container: str, key: str, to_key: str) -> None:
        self._copy(self._client, container, key, to_key)

    def delete(self, key: str) -> None:
        self._client.request("DELETE", key)

    def failure(self, error: Exception) -> Failure:
        return self._client.failure(error)

    def close(self) -> None:
        self._client.close()


def _s3_copy(client: NativeClient, container: str, key: str, to_key: str) -> None:
    """Copy an object; onto itself, its metadata are replaced, because nothing else could change."""
    source = quote(f"/{container}/{key}", safe="/-_.~", errors="surrogateescape")
    directive = "REPLACE" if key == to_key else "COPY"
    headers = {"x-amz-copy-source": source, "x-amz-metadata-directive": directive}
    limit = CopyLimit(client.limits.total_s if math.isfinite(client.limits.total_s) else None)
    try:
        told = client.request("PUT", to_key, headers=headers, total_s=limit.longest_s)[1]
    except Broken as error:
        if error.failure.detail != TOO_LONG:
            raise
        raise too_long(limit.broken) from None
    _check(told, b"<CopyObjectResult")


def _check(text: bytes, element: bytes) -> None:
    """Raise for an empty body: of a request that takes long, the store sends status 200 first.

    It counts as a failure of the server, as in boto3.
    """
    if not text.strip():
        raise Broken(ErrorClass.SERVER_ERROR, "the store did not say how the request ended")
    if element not in text:
        raise ForeignAnswer(NO_STORE)
