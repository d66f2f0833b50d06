"""Azure Blob Storage behind the proxy: what a request does, and where it goes.

Clients address the proxy as they do an emulator: the account is the first part of the path. A Shared Key signature covers
the path, not the host, so it holds if the store has the account in its path too; for any other store the request
is signed again, if it was signed with the user's own key. SAS and bearer tokens are passed on.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

from multidict import CIMultiDict

from tracekit.backends.objects.azure_account import AzureSettings
from tracekit.backends.objects.native.az import shared_key
from tracekit.backends.objects.uri import join
from tracekit.capture.proxy.requests import Asked
from tracekit.capture.proxy.upstream import Refused, Route, passed_on
from tracekit.capture.ranges import asked_range

__all__ = ["AzureUpstream"]

_PROPERTIES = frozenset(("metadata", "blocklist", "tags", "pagelist", "acl", "lease", "properties", "stats"))
_CONNECTION = ("blobendpoint", "defaultendpointsprotocol", "endpointsuffix", "usedevelopmentstorage")
"""Fields of a connection string that lead to another endpoint."""


class AzureUpstream:
    """The blob endpoint of one account."""

    def __init__(self, settings: AzureSettings) -> None:
        self._settings = settings
        self._key = settings.secret if settings.kind == "key" else ""
        self._root = f"/{settings.account}"
        """The path under which clients find the account at the proxy."""
        self.shown = settings.endpoint
        self.unsigned_because = "" if self._key else "no account key is set"

    @property
    def path(self) -> str:
        """What follows the host in the proxy's endpoint."""
        return self._root

    def environment(self, endpoint: str) -> dict[str, str]:
        """The variables that lead clients to the proxy at `endpoint`, with the user's credential in them."""
        return {
            **self.shown_environment(endpoint),
            "AZURE_STORAGE_CONNECTION_STRING": self._connection_string(endpoint),
        }

    def shown_environment(self, endpoint: str) -> dict[str, str]:
        """The same without the connection string, which holds a credential."""
        return {
            "AZURE_STORAGE_ENDPOINT": endpoint,  # polars, obstore and others in Rust
            "AZURE_STORAGE_BLOB_ENDPOINT": endpoint,
            "AZURE_ALLOW_HTTP": "true",
        }

    def _connection_string(self, endpoint: str) -> str:
        given = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
        parts = [part for part in given.split(";") if part.strip()]
        kept = [part for part in parts if part.partition("=")[0].strip().lower() not in _CONNECTION]
        if not any(part.lower().startswith("accountname=") for part in kept):
            kept.append(f"AccountName={self._settings.account}")
            named = {"key": "AccountKey", "sas": "SharedAccessSignature"}.get(self._settings.kind)
            if named is not None:
                kept.append(f"{named}={self._settings.secret}")
        return ";".join(("DefaultEndpointsProtocol=http", *kept, f"BlobEndpoint={endpoint}"))

    def route(self, method: str, target: str, headers: CIMultiDict[str]) -> Route:
        """Return where the request goes. Raises Refused if the store could not check its signature."""
        kept = passed_on(headers)
        base = urlsplit(self._settings.endpoint)
        kept["Host"] = base.netloc
        path, mark, query = target.partition("?")
        theirs = base.path.rstrip("/") + self._below(path)
        signed = headers.get("Authorization", "")
        if signed.startswith("SharedKey ") and theirs != path:
            if not self._key or not hmac.compare_digest(self._signed(method, path, query, headers), signed):
                raise Refused(
                    "AuthenticationFailed",
                    "tracekit proxy: the request is not signed with the account key that the proxy has, so it cannot"
                    " be signed for the store; start the proxy with the credentials of the client",
                )
            kept["Authorization"] = self._signed(method, theirs, query, headers)
        return Route(f"{base.scheme}://{base.netloc}{theirs}{mark}{query}", kept)

    def _below(self, path: str) -> str:
        """The path without the account."""
        named = path == self._root or path.startswith(f"{self._root}/")
        return (path[len(self._root) :] if named else path) or "/"

    def _signed(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> str:
        asked: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True, errors="surrogateescape"):
            name = name.lower()
            asked[name] = f"{asked[name]},{value}" if name in asked else value
        sent = {name.lower(): value for name, value in headers.items()}
        if sent.get("content-length") == "0":
            del sent["content-length"]
        return shared_key(self._settings.account, self._key, method, path, asked, sent)

    def understand(self, method: str, target: str, headers: Mapping[str, str]) -> Asked:
        """Return what the request with this target (path and query, as sent) asks for."""
        path, _, query = target.partition("?")
        asked = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
        named = self._below(path)[1:].partition("/")
        container, _, blob = (unquote(part, errors="surrogateescape") for part in named)
        if not container:
            return Asked("list" if method == "GET" and asked.get("comp") == "list" else None, "az://")
        if not blob or asked.get("restype") == "container":
            return _of_container(method, container, asked)
        uri = join("az", container, blob)
        component = asked.get("comp", "")
        if method == "HEAD" or (method == "GET" and component in _PROPERTIES):
            return Asked("stat", uri)
        if method == "GET" and not component:
            given = headers.get("x-ms-range") or headers.get("Range")
            return Asked("get", uri) if given is None else Asked("read", uri, *asked_range(given))
        if method == "DELETE" and not component:
            return Asked("delete", uri)
        return self._put(uri, component, asked, headers) if method == "PUT" else Asked(None, uri)

    def _put(self, uri: str, component: str, asked: Mapping[str, str], headers: Mapping[str, str]) -> Asked:
        size = headers.get("Content-Length", "")
        length = int(size) if size.isdecimal() else None
        source = headers.get("x-ms-copy-source")
        if component == "block":
            if source is not None:
                length = asked_range(headers.get("x-ms-source-range", ""))[1]
            return Asked("part", uri, length=length, upload=uri, block=asked.get("blockid", ""))
        if component == "blocklist":
            return Asked("complete", uri, upload=uri)
        if component == "appendblock":
            return Asked("write", uri, length=length)
        if component == "page" and headers.get("x-ms-page-write", "").lower() == "update":
            return Asked("write", uri, *asked_range(headers.get("x-ms-range") or headers.get("Range") or ""))
        if component:
            return Asked(None, uri)
        if source is not None:
            return Asked("copy", self._source(source), to_uri=uri)
        whole = headers.get("x-ms-blob-type", "").lower() == "blockblob"
        return Asked("put" if whole else None, uri, length=length)

    def _source(self, url: str) -> str:
        """The blob that a copy reads, as a URI; of another account, as it is given, without its query."""
        parts = urlsplit(url)
        own = urlsplit(self._settings.endpoint)
        roots = {own.netloc: own.path.rstrip("/")}
        root = roots.get(parts.netloc, self._root if parts.path.startswith(f"{self._root}/") else None)
        if root is None or not parts.path.startswith(f"{root}/"):
            return url.partition("?")[0]
        container, _, blob = unquote(parts.path[len(root) + 1 :], errors="surrogateescape").partition("/")
        return join("az", container, blob)


def _of_container(method: str, container: str, asked: Mapping[str, str]) -> Asked:
    if method == "GET" and asked.get("comp") == "list":
        return Asked("list", join("az", container, asked.get("prefix", "")))
    return Asked("stat" if method in ("GET", "HEAD") else None, join("az", container, ""))
