"""S3 over HTTP: addresses, signatures (version 4) and listings. Secrets stay in the signer."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from tracekit.backends.objects.client import PAGE_OBJECTS
from tracekit.backends.objects.listing import next_token
from tracekit.backends.objects.native.endpoint import Endpoint
from tracekit.backends.objects.native.service import (
    Page,
    SignedRequest,
    check_listing,
    encoded_query,
    request_path,
    xml_text,
)

__all__ = ["S3Service", "Signer", "s3_list_query", "s3_page"]

_EMPTY_HASH = hashlib.sha256(b"").hexdigest()
_ENTRY = re.compile(r"<Contents>(.*?)</Contents>", re.DOTALL)
_KEY = re.compile(r"<Key>(.*?)</Key>", re.DOTALL)
_SIZE = re.compile(r"<Size>\s*(\d+)\s*</Size>")
_TOKEN = re.compile(r"<NextContinuationToken>(.*?)</NextContinuationToken>", re.DOTALL)
_URL_ENCODED = re.compile(r"<EncodingType>\s*url\s*</EncodingType>")
_TRUNCATED = re.compile(r"<IsTruncated>\s*true\s*</IsTruncated>")


class Signer:
    """AWS signature version 4. The key of a day, and the date of a second, are computed once.

    A `range` is sent but not signed, as in requests by presigned URLs: one signature serves for all ranges of an
    object while its date is the same. The answer tells which bytes it has, and is held against the request.
    """

    def __init__(self, credentials: Callable[[], Any], service: str = "s3") -> None:
        self._credentials = credentials
        self._service = service
        self._key: tuple[tuple[str, str, str], bytes] = (("", "", ""), b"")
        self._second = 0
        self._date = ""

    def moment(self) -> tuple[int, Any]:
        """Return what signatures depend on besides their requests: the second, and the credentials."""
        return int(time.time()), self._credentials()

    def headers(
        self,
        region: str,
        method: str,
        host: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        payload: str,
    ) -> dict[str, str]:
        """Return `headers` with the signature; path and query are encoded already."""
        known = self._credentials()
        second = int(time.time())
        if second != self._second:
            self._date, self._second = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second)), second
        date = self._date
        signed = {**headers, "x-amz-content-sha256": payload, "x-amz-date": date}
        if known.token:
            signed["x-amz-security-token"] = known.token
        named = sorted([("host", host), *[each for each in signed.items() if each[0] != "range"]])
        names = ";".join([name for name, _ in named])
        listed = "".join([f"{name}:{value}\n" for name, value in named])
        canonical = f"{method}\n{path}\n{query}\n{listed}\n{names}\n{payload}"
        scope = f"{date[:8]}/{region}/{self._service}/aws4_request"
        digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}"
        signature = hmac.digest(
            self._day_key(known.secret_key, date[:8], region), text.encode(), "sha256"
        ).hex()
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={known.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return signed

    def _day_key(self, secret: str, day: str, region: str) -> bytes:
        wanted = (secret, day, region)
        if self._key[0] != wanted:
            key = f"AWS4{secret}".encode()
            for part in (day, region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = (wanted, key)
        return self._key[1]


@dataclass(slots=True)
class S3Service:
    """One bucket. `locate(region)` returns its addresses; `signer` is None for anonymous access."""

    bucket: str
    region: str
    virtual: bool
    signer: Signer | None
    locate: Callable[[str], Sequence[Endpoint]]
    requester_pays: bool = False
    version_id: str | None = None
    checksums: bool = False
    create_only: Mapping[str, str] = field(default_factory=lambda: {"if-none-match": "*"})
    code_header: str = "x-amz-error-code"
    lists: bool = True
    put_method: str = "PUT"
    describes: bool = False
    accept_encoding: str = "identity"

    def endpoints(self) -> Sequence[Endpoint]:
        return self.locate(self.region)

    def moment(self) -> object:
        return () if self.signer is None else self.signer.moment()

    def relocate(self, region: str) -> bool:
        self.region = region
        return True

    def signed(
        self,
        endpoint: Endpoint,
        method: str,
        key: str | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes | memoryview,
    ) -> SignedRequest:
        path = request_path(endpoint, "" if self.virtual else self.bucket, key)
        if self.version_id is not None and key is not None and method in ("GET", "HEAD"):
            query = {**query, "versionId": self.version_id}
        asked = encoded_query(query)
        if self.requester_pays:
            headers = {**headers, "x-amz-request-payer": "requester"}
        if self.checksums and method == "GET" and key is not None and "range" not in headers:
            headers = {**headers, "x-amz-checksum-mode": "ENABLED"}
        if self.signer is not None:
            if not len(body):
                payload = _EMPTY_HASH
            elif endpoint.context is not None:
                payload = "UNSIGNED-PAYLOAD"  # TLS protects it
            else:
                payload = hashlib.sha256(body).hexdigest()
            headers = self.signer.headers(
                self.region, method, endpoint.authority, path, asked, headers, payload
            )
        return SignedRequest(f"{path}?{asked}" if asked else path, headers)

    def list_query(self, prefix: str, after: str, token: str) -> Mapping[str, str]:
        return {**s3_list_query(prefix, after, token), "encoding-type": "url"}

    def page(self, body: bytes) -> Page:
        return s3_page(body)


def s3_list_query(prefix: str, after: str, token: str) -> dict[str, str]:
    """Return the query of ListObjectsV2."""
    asked = {"list-type": "2", "max-keys": str(PAGE_OBJECTS)}
    if prefix:
        asked["prefix"] = prefix
    if token:
        asked["continuation-token"] = token
    elif after:
        asked["start-after"] = after
    return asked


def s3_page(body: bytes) -> Page:
    """Parse the answer to ListObjectsV2."""
    text = body.decode("utf-8", errors="surrogateescape")
    check_listing(text, "ListBucketResult")
    encoded = _URL_ENCODED.search(text) is not None
    entries = []
    for entry in _ENTRY.findall(text):
        key, size = _KEY.search(entry), _SIZE.search(entry)
        if key is None or size is None:
            raise ValueError("an entry of the listing has no key or size")
        name = xml_text(key[1])
        entries.append((unquote_plus(name, errors="surrogateescape") if encoded else name, int(size[1])))
    if _TRUNCATED.search(text) is None:
        return Page(entries, "")
    token = _TOKEN.search(text)
    return Page(entries, next_token(xml_text(token[1]) if token else "", ""))
