"""Reads the output of `mc admin trace --json`: one JSON object a request, as the MinIO server saw it.

An object is a line, or (to a terminal, and of old versions of mc) many lines, of which the first is `{` and the last `}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote_to_bytes

import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.formats.base import Carries, ImportOptions, Tally
from tracekit.formats.sound import Streams
from tracekit.formats.store_requests import (
    API_KINDS,
    HTTP_COLUMNS,
    client_number,
    http_op,
    object_name,
    whole_number,
)
from tracekit.formats.text.records import Record, read_records
from tracekit.formats.times import iso_ns
from tracekit.schema import DATA_KINDS, READ_KINDS

__all__ = ["MinioTrace"]

_COPIES = ("copyobject", "copyobjectpart")
"""Calls whose source is in a header, which only a verbose trace has."""
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?", re.ASCII)
_LENGTHS = ("x-amz-decoded-content-length", "content-length")
"""Headers that tell the size of a body: of one that is signed in chunks, the second counts the signatures too."""
_NOT_ESCAPED = "/$&+,:;=@-_.~"
"""What Go leaves as it is in the path of a URL, besides letters and digits."""
_LINES = 10_000


class MinioTrace:
    """Reads traces of S3 calls, short and (with `-v`) verbose; the verbose ones have the ranges of gets."""

    name = "minio-trace"
    about = "JSON of mc admin trace, of a MinIO server; offsets if it was verbose"
    carries = Carries(
        "ns, absolute",
        offset="with `-v`",
        length="of writes; of reads with `-v`",
        streams="client address, without `-v`",
        completeness="requests left out, by name",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Rank is the order of the client's address."""
        tally.shares_ranks = True
        clients = Streams(tally.clients)
        objects = _Objects(tally)
        calls = 0
        sized_with_headers = 0

        def records(number: int, text: str) -> Iterator[Record]:
            nonlocal calls, sized_with_headers
            whole = objects.add(number, text)
            if whole is None:
                return
            try:
                row = json.loads(whole)
            except (ValueError, RecursionError):
                raise ValueError("not JSON") from None
            if not isinstance(row, dict) or not isinstance(row.get("api"), str):
                raise ValueError("not a call of mc admin trace")
            calls += 1
            name = row["api"]
            call = name.removeprefix("s3.").lower()
            source = _header(_part(row, "request"), "x-amz-copy-source") if call in _COPIES else ""
            kind = "copy" if source else API_KINDS.get(call)
            if kind is None:
                tally.left_out[name[:60]] += 1
                return
            op = _op(row, kind, clients)
            if op["bytes"] and op["op"] in DATA_KINDS and _body_length(row, kind) is None:
                sized_with_headers += 1
            yield _copied(row, source, op) if source else op

        yield from read_records(source, tally, records, columns=(*HTTP_COLUMNS, "offset", "to_uri"))
        objects.close()
        if sized_with_headers:
            tally.note(
                f"the bytes of {sized_with_headers} requests are as the server counts them, which may be with headers"
                " (some 100 a request); mc admin trace -v has the lengths"
            )
        if not calls:
            raise (
                tally.nothing("have mc admin trace write JSON")
                if tally.skipped
                else TraceFormatError(f"{source} is empty", "is this the right file?")
            )


class _Objects:
    """Puts the objects together that are written over many lines."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._begun: list[str] = []
        self._begin = 0

    def add(self, number: int, text: str) -> str | None:
        """Return the object that a line is or ends; None if it is only begun."""
        if text[0] == "{" and self._begun:
            self.close()
        if not self._begun and text.rstrip() != "{":
            return text
        if not self._begun:
            self._begin = number
        self._begun.append(text)
        if text[0] == "}" or len(self._begun) > _LINES:
            whole = "\n".join(self._begun)
            self._begun = []
            return whole
        return None

    def close(self) -> None:
        """Count the object that has begun as a bad line: it has no end."""
        if self._begun:
            self._tally.bad(self._begin, "an object without an end")
            self._begun = []


def _op(row: dict[str, Any], kind: str, clients: Streams) -> Record:
    request, response = _part(row, "request"), _part(row, "response")
    stats = _part(row, "callStats")
    status = whole_number(row if "statusCode" in row else response, "statusCode")
    took = whole_number(stats if "duration" in stats else row, "duration")
    ttfb = whole_number(stats, "timeToFirstByte")
    sent, received, body = whole_number(stats, "tx"), whole_number(stats, "rx"), _body_length(row, kind)
    if body is not None:
        sent, received = None if sent is None else min(sent, body), body
    op = http_op(kind, status, sent, received)
    path = row.get("path", request.get("path"))
    query = parse_qs(str(row.get("query") or request.get("rawQuery") or ""))
    part = query.get("partNumber", [""])[0]
    asked = _RANGE.fullmatch(_header(request, "range"))
    length = int(asked[2]) - int(asked[1]) + 1 if asked and asked[2] else op["len"]
    if asked and asked[2] and isinstance(op["bytes"], int):  # what is sent beyond the range is no data
        op["bytes"] = min(op["bytes"], max(int(asked[2]) - int(asked[1]) + 1, 0))
    return {
        **op,
        "t_submit": iso_ns(row.get("time", request.get("time"))),
        "uri": "s3://" + _path_name(str(path or "").lstrip("/")) if path else "",
        "latency": took,
        "ttfb": ttfb if op["op"] in ("get", "read") and ttfb else None,
        "rank": client_number(row.get("client"), clients),
        "part": int(part) if part.isascii() and part.isdigit() and len(part) < 6 else None,
        "offset": int(asked[1]) if asked else None,
        "len": length,
    }


def _body_length(row: dict[str, Any], kind: str) -> int | None:
    """Return the size of the body that holds a request's data, by its headers; None if they are not in the log."""
    message = _part(row, "response" if kind in READ_KINDS else "request")
    told = (_header(message, name) for name in _LENGTHS)
    return next((int(text) for text in told if re.fullmatch(r"\d{1,18}", text, re.ASCII)), None)


def _path_name(path: str) -> str:
    """Return the object of a logged path.

    The server logs a path as it was sent only if Go would escape it in another way, and decoded otherwise.
    """
    if quote(unquote_to_bytes(path), safe=_NOT_ESCAPED) == path:  # as Go would: it has not been sent so
        return object_name(path, encoded=False)
    return object_name(path)


def _copied(row: dict[str, Any], source: str, op: Record) -> Record:
    """Return a copy, or a part that the store copied: of its source, and a range of that, to what the request names."""
    asked = _RANGE.fullmatch(_header(_part(row, "request"), "x-amz-copy-source-range"))
    begin, end = (int(asked[1]), asked[2]) if asked else (None, None)
    return {
        **op,
        "uri": "s3://" + object_name(source.partition("?versionId=")[0].lstrip("/")),
        "to_uri": op["uri"],
        "offset": begin,
        "len": int(end) - begin + 1 if begin is not None and end else None,
    }


def _part(row: dict[str, Any], name: str) -> dict[str, Any]:
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def _header(request: dict[str, Any], name: str) -> str:
    headers = _part(request, "headers")
    value = next((value for key, value in headers.items() if key.lower() == name), "")
    return str(value[0] if isinstance(value, list) and value else value)
