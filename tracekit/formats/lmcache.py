"""Reads LMCache's storage traces (`.lct`, from `lmcache server --trace-level storage`).

Frames of MessagePack, each a call of LMCache's storage manager at its entry. A finished write is a `put` of each
of its objects, a read of prefetched objects a `get` of each; sizes come from the layout that the writer reserved.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.formats.base import Carries, ImportOptions, Tally
from tracekit.formats.msgpack import unpack
from tracekit.formats.packed import UpToTheBreak, opened
from tracekit.formats.sound import batch_of
from tracekit.uri import from_name

__all__ = ["LMCache"]

_BASE = "kv://lmcache/"
_VERSION = 1
_FRAME_MAX_BYTES = 64 << 20
_BATCH_ROWS = 65_536
_ITEM_BYTES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "float16": 2,
    "half": 2,
    "bfloat16": 2,
    "float32": 4,
    "float": 4,
    "float64": 8,
}
_Row = tuple[int, int, str, str, int | None, int | None, int]
"""Record number, t_submit, uri, op, size, latency, place of the call."""


class LMCache:
    """Reads traces of the level `storage`, format version 1."""

    name = "lmcache"
    about = "LMCache storage trace (.lct): KV-cache objects as gets and puts"
    carries = Carries(
        "ns, absolute",
        latency="of gets",
        offset="no",
        length="from the writer's layout",
        samples="call",
        streams="no",
        errors="no",
        completeness="cut frames, unfinished writes",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. `sample_id` is the place of the call in the log, whose objects share it."""
        frames = _frames(source, tally)
        start_ns = _header(source, next(frames, None))
        state = _Calls(start_ns, options.base or _BASE, tally)
        rows: list[_Row] = []
        ops = 0
        for number, frame in frames:
            rows += state.call(number, frame)
            if len(rows) >= _BATCH_ROWS:
                ops += len(rows)
                yield _batch(rows, tally)
                rows = []
        rows += state.open_reads()
        yield _batch(rows, tally)
        if not ops + len(rows):
            raise tally.nothing("record with lmcache server --trace-level storage")
        if state.sizes_unknown:
            tally.note(
                f"{state.sizes_unknown} gets have no length: no write in the log says their object's layout"
            )
        if state.reserved:
            tally.note(
                f"{len(state.reserved)} objects were reserved for a write that the log does not see finished"
            )
        tally.note(
            "whether a prefetch hit is not in the log: a get is a call that read objects already prefetched"
        )


@dataclass(slots=True)
class _Calls:
    """What carries over from call to call: reserved writes, sizes of objects, reads under way."""

    start_ns: int
    base: str
    tally: Tally
    sizes: dict[str, int | None] = field(default_factory=dict)
    reserved: dict[str, int | None] = field(default_factory=dict)
    reading: dict[tuple[str, ...], list[tuple[int, int]]] = field(default_factory=dict)
    sizes_unknown: int = 0

    def call(self, number: int, frame: bytes) -> list[_Row]:
        """Return the ops of one record."""
        try:
            record = unpack(frame)
            name = str(record["qualname"])
            at_ns = self.start_ns + round(float(record["t_mono"]) * 1e9)
            args = _plain(record["args"])
            uris = [self._uri(key) for key in _keys(args)]
            size = _layout_bytes(args.get("layout_desc"))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            self.tally.bad(number, "not a record of a call")
            return []
        last = name.rsplit("StorageManager.", 1)[-1]
        if last == "reserve_write":
            self.reserved.update(dict.fromkeys(uris, size))
        elif last == "finish_write":
            return [self._put(number, at_ns, uri) for uri in uris]
        elif last == "read_prefetched_results.__enter__":
            self.reading.setdefault(tuple(uris), []).append((number, at_ns))
        elif last == "finish_read_prefetched":
            begun = self.reading.get(tuple(uris))
            if begun:
                place, since = begun.pop(0)
                return self._gets(place, since, uris, at_ns - since)
        elif not last.endswith("__exit__"):
            self.tally.left_out[last[:60]] += 1
        return []

    def open_reads(self) -> list[_Row]:
        """Return the reads that the log never sees finished."""
        left = [(place, since, uris) for uris, begun in self.reading.items() for place, since in begun]
        return [row for place, since, uris in left for row in self._gets(place, since, list(uris), None)]

    def _put(self, number: int, at_ns: int, uri: str) -> _Row:
        size = self.reserved.pop(uri, self.sizes.get(uri))
        self.sizes[uri] = size
        return (number, at_ns, uri, "put", size, None, number)

    def _gets(self, place: int, since: int, uris: list[str], took_ns: int | None) -> list[_Row]:
        self.sizes_unknown += sum(self.sizes.get(uri) is None for uri in uris)
        return [(place, since, uri, "get", self.sizes.get(uri), took_ns, place) for uri in uris]

    def _uri(self, key: dict[str, Any]) -> str:
        digest = key["chunk_hash"]
        text = (
            digest.hex()
            if isinstance(digest, bytes)
            else format(digest, "x")
            if isinstance(digest, int)
            else str(digest)
        )
        group = key.get("object_group_id", 0)
        name = f"{key['model_name']}/{key['kv_rank']}/{text}" + (f".{group}" if group else "")
        return from_name(name.lstrip("/"), self.base)


def _frames(source: Path, tally: Tally) -> Iterator[tuple[int, bytes]]:
    """Yield the number (from 1) and the bytes of each frame; a frame that is cut short counts as bad."""
    with opened(source) as stream:
        log = UpToTheBreak(source, stream)
        number = 1
        while True:
            head = log.exactly(4)
            if not head and not log.broken:
                return
            size = struct.unpack(">I", head)[0] if len(head) == 4 else 0
            body = log.exactly(size) if size <= _FRAME_MAX_BYTES else b""
            if len(head) < 4 or len(body) < size:
                if number == 1:
                    raise TraceFormatError(
                        f"{source} is not an LMCache trace", "its first frame is cut short"
                    )
                tally.bad(number, f"the log is cut short here, after {number - 2} records")
                return
            yield number, body
            number += 1


def _header(source: Path, first: tuple[int, bytes] | None) -> int:
    """Return the Unix time in ns from which the log's records count."""
    try:
        header = unpack(first[1]) if first is not None else {}
        if header["magic"] not in (b"LMCT", "LMCT"):
            raise ValueError(header["magic"])
        version, start = header["format_version"], round(float(header["t_wall_start"]) * 1e9)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise TraceFormatError(
            f"{source} is not an LMCache trace", "it does not begin with an LMCT header"
        ) from error
    if version != _VERSION:
        raise TraceFormatError(f"{source} has version {version} of the format", f"known is {_VERSION}")
    return start


def _plain(value: Any) -> Any:
    """Return `value` without the tags that LMCache puts around its own types."""
    if isinstance(value, dict):
        if "__t__" in value:
            return _plain(value.get("v"))
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _keys(args: dict[str, Any]) -> list[dict[str, Any]]:
    keys = args.get("keys", [])
    return keys if isinstance(keys, list) else []


def _layout_bytes(layout: Any) -> int | None:
    """Return the size of an object of this layout; None if a type is not known."""
    if not isinstance(layout, dict):
        return None
    sizes = [_item_bytes(str(name)) for name in layout.get("dtypes", [])]
    shapes = layout.get("shapes", [])
    if not sizes or len(sizes) != len(shapes) or None in sizes:
        return None
    return sum(int(math.prod(shape)) * (size or 0) for shape, size in zip(shapes, sizes, strict=True))


def _item_bytes(name: str) -> int | None:
    short = name.removeprefix("torch.")
    return 1 if short.startswith("float8") else _ITEM_BYTES.get(short)


def _batch(rows: list[_Row], tally: Tally) -> pa.RecordBatch:
    numbers, at, uris, kinds, sizes, took, calls = (
        (list(c) for c in zip(*rows, strict=True)) if rows else ([],) * 7
    )
    columns = {
        "t_submit": at,
        "uri": uris,
        "op": kinds,
        "len": sizes,
        "bytes": [
            None if kind == "get" and ns is None else size
            for kind, size, ns in zip(kinds, sizes, took, strict=True)
        ],
        "latency": took,
        "sample_id": calls,
    }
    return batch_of(columns, numbers, tally)
