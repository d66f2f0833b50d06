"""What an S3 request does: the kind of op, the object, and the bytes that it asks for.

Knows the REST interface of S3 with path-style addresses, and no HTTP library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import unescape

from tracekit.backends.objects.uri import join
from tracekit.capture.ranges import asked_range

__all__ = ["OTHER_REQUESTS", "Asked", "deleted_keys", "failed_keys", "is_error", "store_code", "understand"]

OTHER_REQUESTS = "other_requests"
"""The counter of requests that are no op, such as the start of an upload."""
_LISTINGS = frozenset(("uploads", "versions"))
_PARAMETERS = frozenset(
    (
        "list-type",
        "prefix",
        "delimiter",
        "marker",
        "max-keys",
        "start-after",
        "continuation-token",
        "encoding-type",
        "fetch-owner",
        "key-marker",
        "version-id-marker",
        "upload-id-marker",
        "max-uploads",
        "x-id",
        "allow-unordered",
        "optional-object-attributes",
    )
)
"""Query parameters of a listing. Any other names a property of the bucket."""
_OF_AN_OBJECT = re.compile(
    r"versionid|x-id|x-amz-.*|response-.*|partnumber|uploadid|awsaccesskeyid|expires|signature"
)
"""Query parameters of requests for an object itself. Any other names a property of it."""
_CODE = re.compile(rb"<Code>([^<]{1,80})</Code>")
_ERROR = re.compile(rb"\s*(?:<\?xml[^>]*\?>\s*)?<Error\b")
_KEY = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)
_FAILED = re.compile(rb"<Error>(.*?)</Error>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as an op. `kind` is None if the schema has no word for it, such as for the start of an upload.

    A request that deletes `many` objects names them in its body. A `copy` with a `part` is a part of an upload that
    the store makes of another object.
    """

    kind: str | None
    uri: str
    offset: int | None = None
    length: int | None = None
    part: int | None = None
    upload: str | None = None
    to_uri: str | None = None
    many: bool = False
    block: str | None = None
    """The store's name of a part that has no number yet."""


def understand(method: str, target: str, headers: Mapping[str, str]) -> Asked:
    """Return what the request with this target (path and query, as sent) asks for."""
    path, _, query = target.partition("?")
    bucket, _, key = (unquote(part, errors="surrogateescape") for part in path[1:].partition("/"))
    asked = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    if not bucket:
        return Asked("list" if method == "GET" else None, "s3://")
    if not key:
        return _of_bucket(method, bucket, asked)
    return _of_object(method, bucket, key, asked, headers)


def _of_bucket(method: str, bucket: str, asked: Mapping[str, str]) -> Asked:
    uri = join("s3", bucket, asked.get("prefix", ""))
    if method == "POST" and "delete" in asked:
        return Asked("delete", uri, many=True)
    if method == "HEAD":
        return Asked("stat", uri)
    if method != "GET":
        return Asked(None, uri)
    of_listing = all(name in _PARAMETERS or name.lower().startswith("x-amz-") for name in asked)
    return Asked("list" if of_listing or not _LISTINGS.isdisjoint(asked) else "stat", uri)


def _of_object(
    method: str, bucket: str, key: str, asked: Mapping[str, str], headers: Mapping[str, str]
) -> Asked:
    uri, upload = join("s3", bucket, key), asked.get("uploadId")
    property_of_it = any(_OF_AN_OBJECT.fullmatch(name.lower()) is None for name in asked)
    if method == "HEAD" or (method == "GET" and property_of_it):
        return Asked("stat", uri)
    if method == "GET":
        return Asked("list", uri) if upload is not None else _get(uri, asked, headers)
    if method == "POST":
        return Asked("complete" if upload is not None else None, uri, upload=upload)
    if property_of_it or method not in ("PUT", "DELETE"):
        return Asked(None, uri)
    if method == "DELETE":
        return Asked("delete" if upload is None else "abort", uri, upload=upload)
    return _put(uri, upload, asked, headers)


def _get(uri: str, asked: Mapping[str, str], headers: Mapping[str, str]) -> Asked:
    if "Range" in headers:
        return Asked("read", uri, *asked_range(headers["Range"]))
    return Asked("read" if "partNumber" in asked else "get", uri)


def _put(uri: str, upload: str | None, asked: Mapping[str, str], headers: Mapping[str, str]) -> Asked:
    size = headers.get("x-amz-decoded-content-length") or headers.get("Content-Length") or ""
    length = int(size) if size.isdecimal() else None
    number = asked.get("partNumber", "") if upload is not None else ""
    part = int(number) if number.isdecimal() else None
    source = headers.get("x-amz-copy-source")
    if source is None:
        return Asked("put" if upload is None else "part", uri, length=length, part=part, upload=upload)
    bucket, _, key = (
        unquote(source.partition("?versionId=")[0], errors="surrogateescape").lstrip("/").partition("/")
    )
    offset, length = asked_range(headers.get("x-amz-copy-source-range", ""))
    return Asked("copy", join("s3", bucket, key), offset, length, part, upload, to_uri=uri)


def deleted_keys(body: bytes) -> list[str]:
    """The keys that the body of DeleteObjects names."""
    return [_text(key) for key in _KEY.findall(body)]


def failed_keys(answer: bytes) -> dict[str, str]:
    """The keys that the answer to DeleteObjects says were not deleted, with the store's code for each."""
    found = {}
    for entry in _FAILED.findall(answer):
        if (key := _KEY.search(entry)) is not None:
            found[_text(key[1])] = store_code(entry)
    return found


def store_code(answer: bytes) -> str:
    """The store's own code in the body of an error; empty if there is none."""
    found = _CODE.search(answer)
    return found[1].decode("ascii", "replace") if found is not None else ""


def is_error(answer: bytes) -> bool:
    """Whether the body is an error, which some requests report with status 200."""
    return _ERROR.match(answer) is not None


def _text(key: bytes) -> str:
    return unescape(key.decode("utf-8", "surrogateescape"), {"&quot;": '"', "&apos;": "'"})
