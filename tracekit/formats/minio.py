"""Reads the output of `mc admin trace --json`: one JSON object a request, as the MinIO server saw it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.formats.base import Carries, ImportOptions, Tally
from tracekit.formats.sound import Streams
from tracekit.formats.store_requests import API_KINDS, HTTP_COLUMNS, http_op, object_name, whole_number
from tracekit.formats.text.records import Record, read_records
from tracekit.formats.times import iso_ns

__all__ = ["MinioTrace"]

_COPIES = ("copyobject", "copyobjectpart")
"""Calls whose source is in a header, which only a verbose trace has."""
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?", re.ASCII)


class MinioTrace:
    """Reads traces of S3 calls, short and (with `-v`) verbose; the verbose ones have the ranges of gets."""

    name = "minio-trace"
    about = "JSON of mc admin trace, of a MinIO server; offsets if it was verbose"
    carries = Carries(
        "ns, absolute",
        offset="with `-v`",
        length="of writes; of reads with `-v`",
        streams="client address",
        completeness="requests left out, by name",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Rank is the order of the client's address."""
        tally.shares_ranks = True
        clients = Streams(tally.clients)
        lines = 0

        def records(number: int, text: str) -> Iterator[Record]:
            nonlocal lines
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                raise ValueError("not JSON") from None
            if not isinstance(row, dict) or not isinstance(row.get("api"), str):
                raise ValueError("not a call of mc admin trace")
            lines += 1
            name = row["api"]
            call = name.removeprefix("s3.").lower()
            source = _header(_part(row, "request"), "x-amz-copy-source") if call in _COPIES else ""
            kind = "copy" if source else API_KINDS.get(call)
            if kind is None:
                tally.left_out[name[:60]] += 1
                return
            op = _op(row, kind, clients)
            yield _copied(row, source, op) if source else op

        yield from read_records(source, tally, records, columns=(*HTTP_COLUMNS, "offset", "to_uri"))
        if not lines:
            raise (
                tally.nothing("have mc admin trace write JSON")
                if tally.skipped
                else TraceFormatError(f"{source} is empty", "is this the right file?")
            )


def _op(row: dict[str, Any], kind: str, clients: Streams) -> Record:
    request, response = _part(row, "request"), _part(row, "response")
    stats = _part(row, "callStats")
    status = whole_number(row if "statusCode" in row else response, "statusCode")
    took = whole_number(stats if "duration" in stats else row, "duration")
    ttfb = whole_number(stats, "timeToFirstByte")
    op = http_op(kind, status, whole_number(stats, "tx"), whole_number(stats, "rx"))
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
        "uri": "s3://" + object_name(str(path or "").lstrip("/")) if path else "",
        "latency": took,
        "ttfb": ttfb if op["op"] in ("get", "read") and ttfb else None,
        "rank": clients.number(str(row.get("client", "")).rpartition(":")[0] or row.get("client")),
        "part": int(part) if part.isascii() and part.isdigit() and len(part) < 6 else None,
        "offset": int(asked[1]) if asked else None,
        "len": length,
    }


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
