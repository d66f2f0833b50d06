"""Reads S3 server access logs: one line a request, as the service saw it.

Times have a resolution of one second and latencies of one millisecond. A range GET has the
status 206; its range is not in the log, so its offset stays null. The size of the object,
which the log does have, is the extra column `object_size`. A copy has two lines, one for each
of its objects, that share a request id: together they are one op.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import TraceFormatError
from tracekit.formats.base import Carries, ImportOptions, Lines, Tally
from tracekit.formats.sound import Streams, batch_of, error_class, map_dictionary, sound_batch
from tracekit.formats.store_requests import object_name
from tracekit.formats.text.lines import Block, ahead, blocks, decoded_lines

__all__ = ["S3AccessLog"]

_LINE = (
    r"^\S+ (?P<bucket>\S+) \[(?P<time>[^\]]{20,30})\] (?P<client>\S+) \S+ (?P<request>\S+) (?P<operation>\S+) (?P<key>\S+) "
    r'(?:"(?P<asked>.*?)"|-) (?P<status>\d{3}|-) (?P<code>\S+) (?P<sent>\d{1,18}|-) (?P<size>\d{1,18}|-) '
    r"(?P<total>\d{1,12}|-) (?P<turn>\d{1,12}|-)(?: |$)"
)
_NUMBERS = ("status", "sent", "size", "total", "turn")
_KINDS = {
    "REST.GET.OBJECT": "get",
    "WEBSITE.GET.OBJECT": "get",
    "WEBSITE.HEAD.OBJECT": "stat",
    "REST.SELECT.OBJECT": "read",
    "REST.PUT.OBJECT": "put",
    "REST.POST.OBJECT": "put",
    "REST.PUT.PART": "part",
    "REST.POST.UPLOAD": "complete",
    "REST.DELETE.UPLOAD": "abort",
    "REST.HEAD.OBJECT": "stat",
    "REST.HEAD.BUCKET": "stat",
    "REST.GET.BUCKET": "list",
    "REST.GET.BUCKETVERSIONS": "list",
    "REST.GET.UPLOAD": "list",
    "REST.GET.UPLOADS": "list",
    "REST.DELETE.OBJECT": "delete",
    "BATCH.DELETE.OBJECT": "delete",
    "S3.EXPIRE.OBJECT": "delete",
    "S3.CREATE.DELETEMARKER": "delete",
    "S3.DELETE.UPLOAD": "abort",
}
_COPIES = ("REST.COPY.OBJECT", "REST.COPY.PART")
_READ = "_GET"
"""Ends the name of the line on the source of a copy; the other line, on the target, has the name without it."""
_OF_COPIES = (*_COPIES, *(f"{name}{_READ}" for name in _COPIES))
_PARTIAL = 206
_FAILED = 400
_PART = r"[?&]partNumber=(?P<part>\d{1,5})(?:[& ]|$)"


class S3AccessLog:
    """Reads server access logs of S3 and of stores that imitate them."""

    name = "s3-access-log"
    about = "S3 server access log; one-second times, no offsets"
    carries = Carries(
        "1 s, absolute",
        latency="1 ms",
        offset="no",
        length="of a put",
        streams="client address",
        completeness="requests left out, by name",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Rank is the order of the remote address."""
        tally.shares_ranks = True
        state = _Reading(tally)
        for block in ahead(blocks(source, tally)):
            yield from state.batches(block)
        if not state.lines:
            raise TraceFormatError(f"{source} contains no S3 access log line", "is this the right format?")
        state.close()
        tally.note("times are whole seconds, and ops of one second keep the order of the log")


class _Reading:
    """State kept from block to block: the order of clients, and copies of which one line has been seen."""

    def __init__(self, tally: Tally) -> None:
        self.lines = 0
        self._tally = tally
        self._clients = Streams(tally.clients)
        self._own: Counter[str] = Counter()
        self._parts = 0
        self._copies: dict[tuple[str, str], dict[str, Any]] = {}

    def batches(self, block: Block) -> Iterator[pa.RecordBatch]:
        """Yield the ops of a block of lines."""
        fields, lines = _fields(block, self._tally)
        self.lines += len(lines)
        operation = fields["operation"]
        counts = dict(
            zip(*(column.to_pylist() for column in pc.value_counts(operation).flatten()), strict=True)
        )
        for name, count in counts.items():
            if name not in _KINDS and name not in _OF_COPIES:
                self._tally.left_out[name[:60]] += count
            elif name.startswith("S3."):
                self._own[name] += count
        if not counts.keys().isdisjoint(_OF_COPIES):
            yield self._copy_ops(fields, lines)
        known = pc.is_in(operation, pa.array(_KINDS))
        rows = {name: column.filter(known) for name, column in fields.items()}
        yield _ops(rows, lines[np.asarray(known)], self._clients, self._tally)

    def close(self) -> None:
        """Count what has no other half, and note which requests no client has made."""
        for copy in self._copies.values():
            self._tally.left_out[copy["operation"]] += 1
        if self._parts:
            self._tally.note(
                f"parts that the store copied from other objects: {self._parts}; each is a copy with a part number"
            )
        if self._own:
            counts = ", ".join(f"{name} {count}" for name, count in self._own.items())
            self._tally.note(f"requests by the service itself, not by a client: {counts}")

    def _copy_ops(self, fields: dict[str, pa.Array], lines: Lines) -> pa.RecordBatch:
        """Return the copies of which both lines have been seen; the target's line has the times."""
        chosen = pc.is_in(fields["operation"], pa.array(_OF_COPIES))
        table = pa.table({**fields, "line": pa.array(lines)}).filter(chosen)
        done: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for row in table.to_pylist():
            reads = row["operation"].endswith(_READ)
            half = row["request"], row["operation"].removesuffix(_READ)
            other = self._copies.get(half)
            if other is None or other["operation"] == row["operation"]:
                if other is not None:
                    self._tally.left_out[row["operation"]] += 1
                self._copies[half] = row
                continue
            del self._copies[half]
            done.append((other, row) if reads else (row, other))
        parts = [_part_number(to["asked"]) for to, _ in done]
        self._parts += len(parts) - parts.count(None)
        errors = [
            error_class(f"{to['status']} {to['code']}") if (to["status"] or 0) >= _FAILED else None
            for to, _ in done
        ]
        return batch_of(
            {
                "t_submit": [to["time"] for to, _ in done],
                "uri": [object_name(f"s3://{source['bucket']}/{source['key']}") for _, source in done],
                "to_uri": [object_name(f"s3://{to['bucket']}/{to['key']}") for to, _ in done],
                "op": ["copy"] * len(done),
                "latency": [None if to["total"] is None else to["total"] * 1_000_000 for to, _ in done],
                "error": errors,
                "rank": [self._clients.number(to["client"]) for to, _ in done],
                "part": parts,
                "object_size": [source["size"] for _, source in done],
            },
            [to["line"] for to, _ in done],
            self._tally,
        )


def _fields(block: Block, tally: Tally) -> tuple[dict[str, pa.Array], Lines]:
    """Return the fields of the lines that are such, and their numbers; `time` is ns since the Unix epoch."""
    numbered = list(decoded_lines(block, tally))
    lines = np.array([number for number, _ in numbered], np.int64)
    parts = pc.extract_regex(pa.array([text for _, text in numbered], pa.string()), _LINE)
    names = [field.name for field in parts.type]
    fields = dict(zip(names, parts.flatten(), strict=True))
    times = fields["time"].dictionary_encode()
    stamps = pa.array([_ns(text) for text in times.dictionary.to_pylist()], pa.int64())
    fields["time"] = stamps.take(times.indices)
    good = pc.is_valid(fields["time"])
    tally.bad_lines(lines[~np.asarray(good)], "not an S3 access log line")
    kept = {name: column.filter(good) for name, column in fields.items()}
    for name in _NUMBERS:
        kept[name] = pc.if_else(pc.equal(kept[name], "-"), None, kept[name]).cast(pa.int64())
    return kept, lines[np.asarray(good)]


def _ns(text: str | None) -> int | None:
    """Return ns since the Unix epoch; -1, which no op may have, if they are more than 64 bits."""
    try:
        at = datetime.strptime(text or "", "%d/%b/%Y:%H:%M:%S %z")
    except ValueError:
        return None
    stamp = int(at.timestamp()) * 10**9
    return stamp if abs(stamp) < 2**63 else -1


def _part_number(asked: str | None) -> int | None:
    """Return the number of the part that a request line is about."""
    found = re.search(_PART, asked or "")
    return int(found["part"]) if found else None


def _ops(fields: dict[str, pa.Array], lines: Lines, clients: Streams, tally: Tally) -> pa.RecordBatch:
    operation = fields["operation"].dictionary_encode()
    kind = pa.array([_KINDS[name] for name in operation.dictionary.to_pylist()], pa.string()).take(
        operation.indices
    )
    kind = pc.if_else(
        pc.and_(pc.equal(kind, "get"), pc.fill_null(pc.equal(fields["status"], _PARTIAL), False)),
        "read",
        kind,
    )
    reads = pc.is_in(kind, pa.array(["get", "read"]))
    writes = pc.is_in(kind, pa.array(["put", "part"]))
    failed = pc.fill_null(pc.greater_equal(fields["status"], _FAILED), False)
    moved = pc.if_else(reads, pc.fill_null(fields["sent"], 0), pc.if_else(writes, fields["size"], 0))
    nothing = pa.scalar(None, pa.int64())
    sized = pc.and_(pc.is_in(kind, pa.array(["get", "read", "stat"])), pc.invert(failed))
    errors = pc.if_else(
        failed,
        pc.binary_join_element_wise(fields["status"].cast(pa.string()), fields["code"], " "),
        pa.scalar(None, pa.string()),
    ).dictionary_encode()
    key = pc.if_else(pc.equal(fields["key"], "-"), "", fields["key"])
    named = pc.binary_join_element_wise(
        pc.binary_join_element_wise("s3://", fields["bucket"], ""), key, "/"
    ).dictionary_encode()
    columns = {
        "t_submit": fields["time"],
        "uri": map_dictionary(named, [object_name(name) for name in named.dictionary.to_pylist()]),
        "op": kind.dictionary_encode(),
        "bytes": pc.if_else(failed, 0, moved),
        "len": pc.if_else(writes, fields["size"], nothing),
        "latency": pc.multiply(fields["total"], 1_000_000),
        "ttfb": pc.if_else(reads, pc.multiply(fields["turn"], 1_000_000), nothing),
        "error": map_dictionary(errors, [error_class(text) for text in errors.dictionary.to_pylist()]),
        "rank": clients.numbers(fields["client"]),
        "part": pc.extract_regex(fields["asked"], _PART).flatten()[0].cast(pa.int32()),
        "object_size": pc.if_else(sized, fields["size"], nothing),
    }
    return sound_batch(columns, lines, tally)
