"""Reads elbencho's op logs (`--opslog`): JSON lines, one before and one after each operation, times in ms."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracekit.errors import ErrorClass
from tracekit.formats.base import Carries, ImportOptions, Tally
from tracekit.formats.sound import LEFT_OUT, OP_WORDS
from tracekit.formats.store_requests import API_KINDS, whole_number
from tracekit.formats.text.records import Record, read_records
from tracekit.formats.times import iso_ns
from tracekit.uri import from_name

__all__ = ["Elbencho"]

_COLUMNS = ("offset", "len", "bytes", "latency", "worker", "error")
_RANGES = ("read", "write", "part")
_WHOLE = ("get", "put")
_Key = tuple[int | None, str, str, int | None, int | None]


class Elbencho:
    """Reads the log of any of elbencho's modes. An operation that has no second line never ended."""

    name = "elbencho"
    about = "elbencho op log (--opslog): offsets, times in ms"
    carries = Carries(
        "1 ms, absolute",
        latency="1 ms",
        streams="worker",
        errors="yes or no",
        completeness="ops left out, by name",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Worker is elbencho's rank of the worker."""
        begun: dict[_Key, list[tuple[int, int]]] = defaultdict(list)
        lines = 0

        def records(number: int, text: str) -> Iterator[Record]:
            nonlocal lines
            row = _row(text)
            lines += 1
            key = (
                whole_number(row, "worker_rank"),
                str(row["op_name"]),
                str(row["entry_name"]),
                whole_number(row, "offset"),
                whole_number(row, "length"),
            )
            at = iso_ns(row["date"])
            if not row["is_finished"]:
                begun[key].append((number, at))
                return
            start = begun[key].pop(0)[1] if begun[key] else None
            yield from _op(
                key,
                at if start is None else start,
                None if start is None else at - start,
                row["is_error"],
                options,
                tally,
            )

        def unended() -> Iterator[tuple[int, Record]]:
            for key, waiting in begun.items():
                for number, at in waiting:
                    for op in _op(key, at, None, False, options, tally):
                        yield number, {**op, "bytes": None}

        yield from read_records(source, tally, records, columns=_COLUMNS, rest=unended)
        if not lines:
            raise tally.nothing("write the log with elbencho --opslog")
        left = sum(len(waiting) for waiting in begun.values())
        if left:
            tally.note(f"{left} operations do not end in the log")
        tally.note("times are whole ms")


def _row(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    wanted = ("date", "op_name", "entry_name", "is_finished", "is_error")
    if not isinstance(row, dict) or any(name not in row for name in wanted):
        raise ValueError("not an operation of an elbencho op log")
    return row


def _op(
    key: _Key, start: int, took: int | None, failed: object, options: ImportOptions, tally: Tally
) -> Iterator[Record]:
    rank, name, entry, offset, length = key
    word = name.lower().removeprefix("s3")
    kind = options.map_ops.get(name.lower()) or API_KINDS.get(word) or OP_WORDS.get(word) or LEFT_OUT
    if kind == LEFT_OUT or not entry:
        tally.left_out[name[:60]] += 1
        return
    ranged = kind in _RANGES
    yield {
        "t_submit": start,
        "uri": from_name(entry, options.base or ("s3://" if name.startswith("S3") else None)),
        "op": "read" if kind == "get" and offset else kind,
        "offset": offset if ranged or (kind == "get" and offset) else None,
        "len": length if ranged or kind in _WHOLE else None,
        "bytes": (0 if failed else length) if ranged or kind in _WHOLE else 0,
        "latency": took,
        "worker": rank if rank is not None and rank >= 0 else None,
        "error": ErrorClass.IO_ERROR if failed else None,
    }
