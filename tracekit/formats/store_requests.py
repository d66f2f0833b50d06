"""What the requests to an object store are called, and what they do: shared by the readers of stores' own logs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from tracekit.formats.sound import Streams, error_class
from tracekit.schema import READ_KINDS, WRITE_KINDS

__all__ = ["API_KINDS", "HTTP_COLUMNS", "client_number", "http_op", "object_name", "whole_number"]

API_KINDS = {
    "getobject": "get",
    "getblob": "get",
    "readfile": "get",
    "selectobjectcontent": "read",
    "selectobject": "read",
    "putobject": "put",
    "putblob": "put",
    "postpolicybucket": "put",
    "insertobject": "put",
    "postobject": "put",
    "putobjectpart": "part",
    "uploadpart": "part",
    "putblock": "part",
    "completemultipartupload": "complete",
    "putblocklist": "complete",
    "abortmultipartupload": "abort",
    "headobject": "stat",
    "headbucket": "stat",
    "getblobproperties": "stat",
    "getblobmetadata": "stat",
    "getcontainerproperties": "stat",
    "getobjectmetadata": "stat",
    "deleteobject": "delete",
    "deleteblob": "delete",
    "putpage": "write",
    "appendblock": "write",
    "listobjectsv1": "list",
    "listobjectsv2": "list",
    "listobjects": "list",
    "listobjectversions": "list",
    "listbuckets": "list",
    "listblobs": "list",
    "listcontainers": "list",
    "getblocklist": "list",
    "listmultipartuploads": "list",
    "listobjectparts": "list",
    "getbucket": "list",
}
"""Names of API calls in lower case, of S3, Azure and Google; a call that is not here moves no object data."""

HTTP_COLUMNS = ("len", "bytes", "latency", "ttfb", "rank", "part", "error", "object_size")
_PARTIAL = 206
_FAILED = 400
_ENDS_A_NAME = re.compile(r"[?#\x00-\x1f\x7f]")
_WITH_PORT = re.compile(r"(\[[^\]]*\]|[^:]*):\d+", re.ASCII)


def http_op(
    kind: str, status: int | None, sent: int | None, received: int | None, code: str = ""
) -> dict[str, object]:
    """Return the columns of a request that moved `sent` bytes to the client and `received` from it.

    A get that was answered with a part of the object is a `read`.
    """
    failed = status is not None and status >= _FAILED
    if kind == "get" and status == _PARTIAL:
        kind = "read"
    moved = sent if kind in READ_KINDS else received if kind in WRITE_KINDS else 0
    return {
        "op": kind,
        "bytes": 0 if failed else moved,
        "len": received if kind in WRITE_KINDS else None,
        "error": error_class(f"{status} {code}") if failed else None,
    }


def object_name(name: str, *, encoded: bool = True) -> str:
    """Return a logged name, percent-decoded if it is `encoded`, but for the characters that would end it in a URI."""
    plain = unquote(name, errors="replace") if encoded else name
    return _ENDS_A_NAME.sub(lambda found: f"%{ord(found[0]):02X}", plain)


def client_number(address: object, clients: Streams) -> int:
    """Return the number of the client with an address, whatever its port. Requests without an address have one of their own."""
    found = _WITH_PORT.fullmatch(address) if isinstance(address, str) else None
    return clients.number(found[1] if found else str(address or ""))


def whole_number(row: Mapping[str, object], name: str) -> int | None:
    """Return the number in a field, None if it is empty. Raises ValueError if it is no number."""
    value = row.get(name)
    if value is None or value == "" or value == "-":
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"its {name} is not a number: {str(value)[:40]}")
    text = str(value)
    if not re.fullmatch(r"-?\d{1,19}", text, re.ASCII):
        raise ValueError(f"its {name} is not a number: {text[:40]!r}")
    return int(text)
