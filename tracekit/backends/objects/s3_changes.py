"""Changes of one bucket of S3, or of Google Cloud Storage, whose XML API has the same requests.

They go through the native client whichever client reads: the other libraries hide single parts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape

from tracekit.backends.objects.failures import Failure
from tracekit.backends.objects.native.client import HttpFailure, NativeClient
from tracekit.backends.objects.native.service import xml_text

__all__ = ["S3Changes"]

_UPLOAD: Final = re.compile(r"<UploadId>(.*?)</UploadId>", re.DOTALL)


class S3Changes:
    """One bucket. `vendor` is the prefix of the store's own headers: `amz`, or `goog`."""

    errors = NativeClient.errors

    def __init__(self, client: NativeClient, vendor: str = "amz") -> None:
        self._client = client
        self._vendor = vendor

    def relocate(self, region: str) -> bool:
        return self._client.relocate(region)

    def begin(self, key: str) -> str:
        answer = self._client.request("POST", key, query={"uploads": ""})[1]
        found = _UPLOAD.search(answer.decode("utf-8", "replace"))
        if found is None:
            raise ValueError("the store did not name the upload that it began")
        return xml_text(found[1])

    def part(self, key: str, upload: str, number: int, data: memoryview) -> str:
        query = {"partNumber": str(number), "uploadId": upload}
        return self._client.request("PUT", key, query=query, body=data)[0].headers.get("etag", "")

    def complete(self, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> None:
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(tag)}</ETag></Part>"
            for number, tag in parts
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        self._checked("POST", key, query={"uploadId": upload}, body=body)

    def abort(self, key: str, upload: str) -> None:
        self._client.request("DELETE", key, query={"uploadId": upload})

    def copy(self, container: str, key: str, to_key: str) -> None:
        """Copy an object; onto itself, its metadata are replaced, because nothing else could change."""
        source = quote(f"/{container}/{key}", safe="/-_.~", errors="surrogateescape")
        self._checked(
            "PUT",
            to_key,
            headers={
                f"x-{self._vendor}-copy-source": source,
                f"x-{self._vendor}-metadata-directive": "REPLACE" if key == to_key else "COPY",
            },
        )

    def delete(self, key: str) -> None:
        self._client.request("DELETE", key)

    def failure(self, error: Exception) -> Failure:
        return self._client.failure(error)

    def close(self) -> None:
        self._client.close()

    def _checked(
        self,
        method: str,
        key: str,
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """Send a request that takes long: the store sends status 200 first, and an error in the body later."""
        answer, text = self._client.request(method, key, query=query, headers=headers, body=body)
        if b"<Error>" in text:
            raise HttpFailure(answer, text)
