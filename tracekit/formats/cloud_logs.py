"""Reads the access logs of Google Cloud Storage (usage logs) and of Azure Storage (analytics logs).

Both are delimited text, one line a request, as the service saw it. Neither has offsets.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

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

__all__ = ["AzureLog", "GcsUsage"]

_GCS_NEEDED = (
    "time_micros",
    "cs_method",
    "cs_bucket",
    "cs_object",
    "sc_status",
    "cs_bytes",
    "sc_bytes",
    "time_taken_micros",
)
_GCS_KINDS = {
    "get_object": "get",
    "storage.objects.get": "get",
    "put_object": "put",
    "post_object": "put",
    "storage.objects.insert": "put",
    "head_object": "stat",
    "head_bucket": "stat",
    "get_object_metadata": "stat",
    "storage.buckets.get": "stat",
    "delete_object": "delete",
    "storage.objects.delete": "delete",
    "get_bucket": "list",
    "list_objects": "list",
    "storage.objects.list": "list",
    "get_service": "list",
}
_RANGES_UNKNOWN = "a get answered with 206 is a range read, whose offset is not in the log"
_AZURE = (
    "version",
    "start",
    "operation",
    "status",
    "http",
    "total_ms",
    "server_ms",
    "auth",
    "requester",
    "owner",
    "service",
    "url",
    "key",
    "request",
    "count",
    "address",
    "api",
    "request_header",
    "request_packet",
    "response_header",
    "response_packet",
    "content_length",
)
_AZURE_LEAST = len(_AZURE)
_ENTITY = r"&(?:amp|quot|lt|gt|apos|#\d{1,5});"
_FIELD = re.compile(rf'"(.*?)"(?=;|\Z)|((?!")(?:{_ENTITY}|[^;])*)', re.ASCII)
"""A field of an analytics log: quoted, or up to a semicolon that does not end an entity."""
_BARE = re.compile(r";(?:https?:|&)")
"""Begins a field without quotation marks that may hold entities."""


class GcsUsage:
    """Reads usage logs: CSV with a header that names `time_micros`, `cs_method` and so on."""

    name = "gcs-usage"
    about = "Google Cloud Storage usage log (CSV); no offsets"
    carries = Carries(
        "us, absolute",
        latency="1 us",
        offset="no",
        length="of writes",
        streams="client address",
        completeness="requests left out, by name",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Rank is the order of the client's address."""
        tally.shares_ranks = True
        clients = Streams(tally.clients)
        header: list[str] = []

        def records(number: int, text: str) -> Iterator[Record]:
            fields = _fields(text, ",")
            if fields == header:  # logs of several hours, joined
                return
            if not header:
                missing = [name for name in _GCS_NEEDED if name not in fields]
                if missing:
                    raise TraceFormatError(
                        f"{source}, line {number}: no header of a usage log ({', '.join(missing[:3])} missing)",
                        "is this the right format?",
                    )
                header.extend(fields)
                return
            if len(fields) != len(header):
                raise ValueError(f"has {len(fields)} fields, not {len(header)}")
            row = dict(zip(header, fields, strict=True))
            name = (
                row.get("cs_operation") or f"{row['cs_method']}_{'Object' if row['cs_object'] else 'Bucket'}"
            ).lower()
            kind = _GCS_KINDS.get(name)
            if kind is None:
                tally.left_out[name[:60]] += 1
                return
            done, took = whole_number(row, "time_micros"), whole_number(row, "time_taken_micros")
            if done is None:
                raise ValueError("has no time")
            sent, received = whole_number(row, "sc_bytes"), whole_number(row, "cs_bytes")
            yield {
                "t_submit": (done - (took or 0)) * 1000,
                "uri": f"gs://{row['cs_bucket']}/{object_name(row['cs_object'], encoded=False)}",
                "latency": None if took is None else took * 1000,
                "rank": client_number(row.get("c_ip"), clients),
                **http_op(kind, whole_number(row, "sc_status"), sent, received),
            }

        yield from read_records(source, tally, records, columns=HTTP_COLUMNS)
        if not header:
            raise TraceFormatError(f"{source} is empty", "is this the right file?")
        tally.note(_RANGES_UNKNOWN)


class AzureLog:
    """Reads analytics logs of versions 1.0 and 2.0: fields between semicolons, without a header."""

    name = "azure-log"
    about = "Azure Storage analytics log; no offsets"
    carries = Carries(
        "100 ns, absolute",
        latency="1 ms",
        offset="no",
        length="of writes",
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
            fields = _azure_fields(text)
            if len(fields) < _AZURE_LEAST or fields[0] not in ("1.0", "2.0"):
                raise ValueError("not an analytics log line of version 1.0 or 2.0")
            lines += 1
            row = dict(zip(_AZURE, fields, strict=False))
            kind = API_KINDS.get(row["operation"].lower())
            if kind is None or row["service"] not in ("blob", ""):
                tally.left_out[row["operation"][:60] or "(no operation)"] += 1
                return
            at, took = iso_ns(row["start"]), whole_number(row, "total_ms")
            sent = whole_number(row, "response_packet")
            received = whole_number(row, "content_length")
            status = whole_number(row, "http")
            yield {
                "t_submit": at,
                "uri": _azure_uri(row["url"], row["key"]),
                "latency": None if took is None else took * 1_000_000,
                "rank": client_number(row["address"], clients),
                **http_op(kind, status, sent, received, row["status"]),
            }

        yield from read_records(source, tally, records, columns=HTTP_COLUMNS)
        if not lines:
            raise tally.nothing("is this an Azure Storage analytics log?")
        tally.note(_RANGES_UNKNOWN)


def _azure_uri(url: str, key: str) -> str:
    """Return az://CONTAINER/BLOB of a request: of its URL, or (`/ACCOUNT/CONTAINER/BLOB`) of its object key.

    The log writes both as text of HTML. Only the URL is percent-encoded.
    """
    if url:
        name = object_name(urlsplit(_text(url)).path.lstrip("/"))
    else:
        name = object_name(_text(key).lstrip("/").partition("/")[2], encoded=False)
    return f"az://{name}" if name.strip("/") else ""


def _text(html: str) -> str:
    return re.sub(_ENTITY, lambda found: unescape(found[0]), html)


def _fields(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=separator, strict=True))
    except csv.Error as error:
        raise ValueError(f"cannot be split: {error}") from None


def _azure_fields(text: str) -> list[str]:
    """Return the fields of a line. Microsoft's samples have quotation marks inside of fields, and URLs without any."""
    if _BARE.search(text):
        return _loose_fields(text)
    try:
        return _fields(text, ";")
    except ValueError:
        return _loose_fields(text)


def _loose_fields(text: str) -> list[str]:
    fields, at = [], 0
    while found := _FIELD.match(text, at):
        fields.append(found[2] if found[1] is None else found[1])
        at = found.end() + 1
        if at > len(text):
            return fields
    raise ValueError("cannot be split: a quotation mark is not closed")
