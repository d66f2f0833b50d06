"""Reads Mooncake's public request traces: one JSON object a request, with the hashes of its KV-cache blocks.

The traces hold requests to a model, not requests to storage. The model of storage is a cache that forgets nothing:
a block that an earlier request has named is a `get`, any other a `put`, each of `block_bytes` bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.formats.base import Carries, ImportOptions, Tally
from tracekit.formats.sound import batch_of
from tracekit.formats.text.lines import Block, ahead, blocks, decoded_lines
from tracekit.units import format_size
from tracekit.uri import from_name

__all__ = ["Mooncake"]

_BASE = "kv://mooncake/"


class Mooncake:
    """Reads request traces with `timestamp` (ms) and `hash_ids`."""

    name = "mooncake"
    about = "Mooncake request trace (JSON lines with hash_ids): KV-cache blocks as gets and puts"
    carries = Carries(
        "ms, from the start",
        latency="no",
        offset="no",
        length="by block_bytes",
        samples="request",
        streams="no",
        errors="no",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. `sample_id` is the place of the request in the log, from 0."""
        stored: set[object] = set()
        requests = gets = puts = 0
        for block in ahead(blocks(source, tally, block_bytes=1 << 20)):
            rows: list[tuple[int, int, str, str, int]] = []
            for line, at_ms, hashes in _requests(block, tally):
                for hash_id in hashes:
                    known = hash_id in stored
                    stored.add(hash_id)
                    gets, puts = gets + known, puts + (not known)
                    uri = from_name(str(hash_id), options.base or _BASE)
                    rows.append((line, at_ms * 1_000_000, uri, "get" if known else "put", requests))
                requests += 1
            yield _batch(rows, options.block_bytes, tally)
        if not requests:
            raise TraceFormatError(f"{source} contains no request with hash_ids", "is this a Mooncake trace?")
        tally.note(
            f"model: {requests} requests name {len(stored)} blocks of {format_size(options.block_bytes)} each (block_bytes=);"
            f" a block's first request puts it, later ones get it: {puts} puts, {gets} gets; nothing is ever evicted"
        )


def _requests(block: Block, tally: Tally) -> Iterator[tuple[int, int, list[object]]]:
    """Yield the line, the time in ms and the block hashes of each request."""
    for number, text in decoded_lines(block, tally):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            tally.bad(number, "not JSON")
            continue
        at, hashes = (row.get("timestamp"), row.get("hash_ids")) if isinstance(row, dict) else (None, None)
        if not isinstance(at, int | float) or isinstance(at, bool) or not 0 <= at < 1e13:
            tally.bad(number, "has no timestamp in ms")
        elif not isinstance(hashes, list) or not all(
            isinstance(h, int | str) and not isinstance(h, bool) for h in hashes
        ):
            tally.bad(number, "has no list hash_ids")
        else:
            yield number, round(at), hashes


def _batch(rows: list[tuple[int, int, str, str, int]], size: int, tally: Tally) -> pa.RecordBatch:
    lines, at, uris, kinds, samples = (
        (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 5
    )
    sizes = [size] * len(lines)
    columns = {"t_submit": at, "uri": uris, "op": kinds, "len": sizes, "bytes": sizes, "sample_id": samples}
    return batch_of(columns, lines, tally)
