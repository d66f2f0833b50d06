"""Google Cloud Storage over HTTP: the XML API for reads, listings and uploads in parts; the JSON API for the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from tracekit.backends.objects.native.endpoint import Endpoint
from tracekit.backends.objects.native.s3 import s3_list_query, s3_page
from tracekit.backends.objects.native.service import Page, SignedRequest, encoded_query, request_path

__all__ = ["COMPOSED", "COPY_SOURCE", "GsService"]

COPY_SOURCE = "x-goog-copy-source"
"""The header of a copy: `bucket/key` of its source, not encoded. It is not sent, but makes the path."""
COMPOSED = "x-goog-composed"
"""The header of a request to make an object of others, likewise."""


@dataclass(slots=True)
class GsService:
    """One bucket. `token` returns a login token; None for anonymous access."""

    bucket: str
    located: Sequence[Endpoint]
    token: Callable[[], str] | None = field(default=None, repr=False)
    create_only: Mapping[str, str] = field(default_factory=lambda: {"x-goog-if-generation-match": "0"})
    code_header: str = "x-guploader-error-code"
    lists: bool = True
    put_method: str = "POST"
    describes: bool = True
    accept_encoding: str = (
        "gzip"  # else Google decompresses objects that are stored as gzip, and ignores ranges
    )

    def endpoints(self) -> Sequence[Endpoint]:
        return self.located

    def relocate(self, region: str) -> bool:
        return False

    def moment(self) -> object:
        return None

    def signed(
        self,
        endpoint: Endpoint,
        method: str,
        key: str | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes | memoryview,
    ) -> SignedRequest:
        sent = dict(headers)
        asked = dict(query)
        if self.token is not None:
            sent["authorization"] = f"Bearer {self.token()}"
        source = sent.pop(COPY_SOURCE, None)
        if key is None or method in ("GET", "HEAD") or (asked and source is None):
            path = request_path(endpoint, _segment(self.bucket), key)
        elif source is not None:
            container, _, name = source.partition("/")
            path = (
                f"{_object(endpoint, container, name)}/rewriteTo/b/{_segment(self.bucket)}/o/{_segment(key)}"
            )
        elif sent.pop(COMPOSED, None):
            path = f"{_object(endpoint, self.bucket, key)}/compose"
        elif method == "DELETE":
            path = _object(endpoint, self.bucket, key)
        else:
            path = f"{endpoint.base}/upload/storage/v1/b/{_segment(self.bucket)}/o"
            asked |= {"uploadType": "media", "name": key}
            if sent.pop("x-goog-if-generation-match", None):
                asked["ifGenerationMatch"] = "0"
        text = encoded_query(asked)
        return SignedRequest(f"{path}?{text}" if text else path, sent)

    def list_query(self, prefix: str, after: str, token: str) -> Mapping[str, str]:
        return s3_list_query(prefix, after, token)

    def page(self, body: bytes) -> Page:
        return s3_page(body)


def _object(endpoint: Endpoint, bucket: str, key: str) -> str:
    """Return the path of an object in the JSON API."""
    return f"{endpoint.base}/storage/v1/b/{_segment(bucket)}/o/{_segment(key)}"


def _segment(name: str) -> str:
    return quote(name, safe="-_.~", errors="surrogateescape")
