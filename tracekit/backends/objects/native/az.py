"""Azure Blob Storage over HTTP: addresses, Shared Key signatures, SAS, bearer tokens and listings."""

from __future__ import annotations

import base64
import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import unquote

from tracekit.backends.objects.client import PAGE_OBJECTS
from tracekit.backends.objects.native.endpoint import Endpoint
from tracekit.backends.objects.native.service import (
    BadKey,
    Page,
    SignedRequest,
    check_listing,
    encoded_query,
    request_path,
    xml_text,
)

__all__ = ["AzService", "shared_key"]

_VERSION = "2023-11-03"
_ENTRY = re.compile(r"<Blob>(.*?)</Blob>", re.DOTALL)
_NAME = re.compile(r'<Name( Encoded="true")?>(.*?)</Name>', re.DOTALL)
_SIZE = re.compile(r"<Content-Length>\s*(\d+)\s*</Content-Length>")
_MARKER = re.compile(r"<NextMarker>(.+?)</NextMarker>", re.DOTALL)
_DIRECTORY = re.compile(r"<ResourceType>\s*directory\s*</ResourceType>")
_SIGNED_HEADERS = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)


@dataclass(slots=True)
class AzService:
    """One container. One of `key` (Shared Key), `sas` and `token` is given, or none for anonymous access."""

    container: str
    account: str
    located: Sequence[Endpoint]
    key: str = field(default="", repr=False)
    sas: str = field(default="", repr=False)
    token: Callable[[], str] | None = field(default=None, repr=False)
    create_only: Mapping[str, str] = field(default_factory=lambda: {"if-none-match": "*"})
    code_header: str = "x-ms-error-code"
    lists: bool = True
    put_method: str = "PUT"
    describes: bool = False
    accept_encoding: str = "identity"

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
        if key is not None and not {".", ".."}.isdisjoint(key.split("/")):
            raise BadKey("Azure cannot name a key with . or .. between slashes")
        path = request_path(endpoint, self.container, key)
        sent = {**headers, "x-ms-version": _VERSION}
        if method == "PUT" and key is not None and "comp" not in query and "x-ms-copy-source" not in headers:
            sent["x-ms-blob-type"] = "BlockBlob"
        if self.token is not None:
            sent["authorization"] = f"Bearer {self.token()}"
        elif self.key:
            sent["x-ms-date"] = formatdate(time.time(), usegmt=True)
            length = {"content-length": str(len(body))} if len(body) else {}
            sent["authorization"] = self._authorization(method, path, query, {**sent, **length})
        asked = "&".join(part for part in (encoded_query(query), self.sas) if part)
        return SignedRequest(f"{path}?{asked}" if asked else path, sent)

    def list_query(self, prefix: str, after: str, token: str) -> Mapping[str, str]:
        asked = {"restype": "container", "comp": "list", "maxresults": str(PAGE_OBJECTS)}
        if prefix:
            asked["prefix"] = prefix
        if token:
            asked["marker"] = token
        return asked

    def page(self, body: bytes) -> Page:
        text = body.decode("utf-8-sig", errors="surrogateescape")
        check_listing(text, "EnumerationResults")
        entries = []
        for entry in _ENTRY.findall(text):
            name, size = _NAME.search(entry), _SIZE.search(entry)
            if name is None or size is None:
                raise ValueError("an entry of the listing has no name or size")
            if _DIRECTORY.search(entry):
                continue
            key = xml_text(name[2])
            entries.append((unquote(key) if name[1] else key, int(size[1])))
        marker = _MARKER.search(text)
        return Page(entries, xml_text(marker[1]) if marker else "")

    def _authorization(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> str:
        return shared_key(self.account, self.key, method, path, query, headers)


def shared_key(
    account: str, key: str, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
) -> str:
    """The authorization of a request by the account's key. Names of headers are in lower case, values of `query` decoded."""
    own = "".join([f"{name}:{headers[name]}\n" for name in sorted(headers) if name.startswith("x-ms-")])
    asked = "".join([f"\n{name.lower()}:{query[name]}" for name in sorted(query)])
    listed = "\n".join([headers.get(name, "") for name in _SIGNED_HEADERS])
    text = f"{method}\n{listed}\n{own}/{account}{path}{asked}"
    digest = hmac.digest(base64.b64decode(key), text.encode("utf-8", "surrogateescape"), "sha256")
    return f"SharedKey {account}:{base64.b64encode(digest).decode()}"
