"""Reads and writes object-store op logs in tab-separated columns: those of MinIO warp and s3dlio.

Both have the same columns, found by the names in the header, with RFC 3339 times and one row
per op in order of completion. Neither has an offset or the length asked for, so these stay
null for a range read. They differ in how an object is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import TraceFormatError
from tracekit.formats.base import Carries, ExportOptions, ImportOptions, Lines, Tally
from tracekit.formats.oplog_out import WARP_COLUMNS, write_oplog
from tracekit.formats.sound import Streams, error_class, map_dictionary, op_kinds, sound_batch
from tracekit.formats.text.delimited import INTEGER, TEXT, TIMESTAMP, UNSIGNED, Layout, parse
from tracekit.formats.text.lines import Block, blocks, in_parallel
from tracekit.schema import DATA_KINDS, OPS, WRITE_KINDS
from tracekit.store.reader import TraceReader
from tracekit.uri import clean, from_name

__all__ = ["S3dlio", "Warp"]

WARP_BUCKET = "s3://warp-benchmark-bucket/"
_HOST = "^https?://|^[^:]*$|^[^/]*:[0-9]+$"
_SCHEME = "^[A-Za-z][A-Za-z0-9+.-]*://"
_NEEDED = ("op", "bytes", "file", "start", "end")
_TYPES = {
    "thread": UNSIGNED,
    "op": TEXT,
    "client_id": TEXT,
    "n_objects": INTEGER,
    "bytes": INTEGER,
    "endpoint": TEXT,
    "file": TEXT,
    "error": TEXT,
    "start": TIMESTAMP,
    "first_byte": TIMESTAMP,
    "end": TIMESTAMP,
    "duration_ns": INTEGER,
    "cat": INTEGER,
}
_EXTRA = ("client_id", "n_objects", "endpoint", "cat")
_NUMBER_BYTES = 20
_MADE_ANEW = ("idx", "last_byte")
"""Columns that other ones, or the order of the rows, say again."""


class Warp:
    """Reads and writes warp's `.csv.zst`: 11 columns in 2019, 15 today."""

    name = "warp"
    about = "MinIO warp op log (.csv.zst); no offsets"
    carries = Carries(
        "ns, absolute",
        offset="no",
        length="of a put",
        streams="client, thread",
        completeness="numbers of the ops",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Worker is the thread, rank the order of the client; keys go after `base`."""
        base = options.base or WARP_BUCKET
        return _read(source, tally, base, options.map_ops, _thread_as_it_is)

    def write(self, trace: TraceReader, sink: BinaryIO, tally: Tally, options: ExportOptions) -> int:
        """As the protocol says, in the columns of 2025."""
        return write_oplog(trace, sink, tally, WARP_COLUMNS, range_word="GET")


class S3dlio:
    """Reads and writes s3dlio's `.tsv.zst`: 13 columns; `endpoint` and `file` together are the URI."""

    name = "s3dlio"
    about = "s3dlio op log (.tsv, .tsv.zst); no offsets"
    carries = Carries(
        "ns, absolute", offset="no", length="of a put", streams="thread", completeness="numbers of the ops"
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Worker is the order of the thread's id, which is a hash."""
        return _read(source, tally, options.base, options.map_ops, Streams().numbers)

    def write(self, trace: TraceReader, sink: BinaryIO, tally: Tally, options: ExportOptions) -> int:
        """As the protocol says."""
        return write_oplog(trace, sink, tally, (*WARP_COLUMNS[:11], "end", "duration_ns"))


@dataclass(slots=True)
class _State:
    """State kept from block to block."""

    tally: Tally
    under: str | None
    worker_of: Callable[[pa.Array], pa.Array]
    map_ops: Mapping[str, str]
    ranks: Streams = field(default_factory=Streams)
    unplaced: int = 0
    rows: int = 0


@dataclass(slots=True)
class _Numbers:
    """The numbers of the ops, which the first column counts up from line to line."""

    lines: int = 0
    first: int | None = None
    last: int | None = None

    def passing(self, text: Iterator[Block], separator: str) -> Iterator[Block]:
        """Yield the blocks of `text` as they are, and note their first and last numbers."""
        mark = separator.encode()
        for block in text:
            last_line = block.data.rfind(b"\n", 0, len(block.data) - 1) + 1
            begin, end = (block.data[at : at + _NUMBER_BYTES].split(mark)[0].strip() for at in (0, last_line))
            self.first = _number(begin) if self.first is None else self.first
            self.last = _number(end) or self.last
            self.lines += block.lines
            yield block

    def missing(self) -> Iterator[str]:
        """Return a note on the numbers that are not in the log."""
        if self.first is not None and self.last is not None and self.last - self.first >= self.lines:
            said = self.last - self.first + 1
            yield f"the log has {self.lines} of the {said} ops that its own numbers (idx) count"


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) < _NUMBER_BYTES - 1 else None


def _read(
    source: Path,
    tally: Tally,
    under: str | None,
    map_ops: Mapping[str, str],
    worker_of: Callable[[pa.Array], pa.Array],
) -> Iterator[pa.RecordBatch]:
    state = _State(tally, under, worker_of, map_ops)
    text = blocks(source, tally)
    first = next(text, None)
    if first is None:
        raise TraceFormatError(f"{source} is empty", "is this the right file?")
    layout, rest = _header(source, first)

    def parsed(block: Block) -> tuple[dict[str, pa.Array], Lines, Tally]:
        part = tally.fresh()
        return *parse(block, layout, part), part

    numbers = _Numbers()
    each = chain([rest], text)
    numbered = numbers.passing(each, layout.separator) if layout.names[0] == "idx" else each
    for raw, lines, part in in_parallel(parsed, numbered):
        tally.add(part)
        batch = _ops(raw, lines, state)
        state.rows += batch.num_rows
        yield batch
    if not state.rows and tally.skipped:
        raise tally.nothing("is this the right format? if the log names hosts only, give base=URI")
    for missing in numbers.missing():
        tally.lost(missing)
    if state.unplaced:
        tally.note(f"the log has no offsets: {state.unplaced} range reads have none")


def _header(source: Path, block: Block) -> tuple[Layout, Block]:
    """Return the layout that the first line with content states, and the lines after it."""
    start, line = 0, block.first_line
    while start < len(block.data):
        end = block.data.index(b"\n", start)
        text = block.data[start:end].decode("utf-8", "replace").lstrip("\ufeff")
        start, line = end + 1, line + 1
        if not text.strip() or text.startswith("#"):
            continue
        if text.lstrip().startswith("{"):
            raise TraceFormatError(
                f"{source} is JSON, not an op log",
                "warp writes its op log (.csv.zst) when it runs with its option full",
            )
        separator = "\t" if "\t" in text else ","
        names = tuple(_known(name.strip()) for name in text.split(separator))
        missing = [name for name in _NEEDED if name not in names]
        if missing or len(set(names)) != len(names):
            raise TraceFormatError(
                f"{source}, line {line - 1}: not an op log header ({', '.join(missing) or 'a name twice'})",
                "the first line must name the columns: idx, thread, op, …, end, duration_ns",
            )
        types = {name: _TYPES.get(name, TEXT) for name in names if name and name not in _MADE_ANEW}
        done = line - block.first_line
        return Layout(names, types, separator), Block(block.data[start:], line, block.lines - done)
    raise TraceFormatError(f"{source} contains no header", "the first line must name the columns")


def _known(name: str) -> str:
    """Return the name of a column, in lower case if it is one of the format's."""
    return name.lower() if name.lower() in (*_TYPES, *_MADE_ANEW) else name


def _ops(raw: dict[str, pa.Array], lines: Lines, state: _State) -> pa.RecordBatch:
    start, end = raw["start"].cast(pa.int64()), raw["end"].cast(pa.int64())
    latency = raw["duration_ns"] if "duration_ns" in raw else pa.nulls(len(lines), pa.int64())
    if latency.null_count:
        latency = pc.coalesce(latency, pc.subtract(end, start))
    kinds = op_kinds(raw["op"], lines, state.tally, state.map_ops)
    range_read = pc.index(kinds.dictionary, "read").as_py()
    if range_read >= 0:
        state.unplaced += int(pc.sum(pc.equal(kinds.indices, range_read)).as_py() or 0)
    columns = {
        "t_submit": start,
        "uri": _uris({**raw, "file": _files(raw["file"], kinds)}, state),
        "op": kinds,
        "bytes": _moved(kinds, raw["bytes"]),
        "len": _asked(kinds, raw["bytes"]),
        "latency": latency,
        "worker": state.worker_of(raw["thread"]) if "thread" in raw else pa.nulls(len(lines), pa.int32()),
        "rank": state.ranks.numbers(raw["client_id"])
        if "client_id" in raw
        else pa.nulls(len(lines), pa.int32()),
    }
    if "first_byte" in raw:
        columns["ttfb"] = _since(start, raw["first_byte"])
    if "error" in raw:
        messages = raw["error"].dictionary.to_pylist()
        columns["error"] = map_dictionary(raw["error"], [error_class(message) for message in messages])
    unknown = [name for name in raw if name not in _TYPES and name not in OPS.names]
    columns.update({name: raw[name] for name in (*_EXTRA, *unknown) if name in raw})
    if "endpoint" in columns:
        hosts = raw["endpoint"].dictionary.to_pylist()
        columns["endpoint"] = map_dictionary(raw["endpoint"], [host and clean(host) for host in hosts])
    return sound_batch(columns, lines, state.tally)


def _uris(raw: dict[str, pa.Array], state: _State) -> pa.Array:
    """Return the objects' URIs, dictionary-encoded: each pair of endpoint and file is joined once."""
    file = raw["file"]
    files = file.dictionary
    endpoint = raw.get("endpoint")
    if (
        endpoint is None
        or not len(endpoint.dictionary)
        or (state.under is not None and _hosts(endpoint.dictionary))
    ):
        return _coded(file.indices, _named(pa.scalar(None, pa.string()), files, state))
    if len(endpoint.dictionary) == 1 and not endpoint.null_count:
        return _coded(file.indices, _named(endpoint.dictionary[0], files, state))
    many = len(files) + 1
    null = len(endpoint.dictionary)
    pairs = pa.array(_codes(endpoint, null) * many + _codes(file, len(files))).dictionary_encode()
    distinct = pairs.dictionary.to_numpy()
    hosts = _taken(endpoint.dictionary, distinct // many, null)
    return _coded(pairs.indices, _named(hosts, _taken(files, distinct % many, len(files)), state))


def _files(file: pa.Array, kinds: pa.Array) -> pa.Array:
    """Return the names of the objects: a list, or a delete of many, without a name is an op on the bucket."""
    if not file.null_count or not len(kinds.dictionary):
        return file
    of_bucket = pa.array([kind in ("list", "delete") for kind in kinds.dictionary.to_pylist()], pa.bool_())
    bare = pc.and_(pc.is_null(file), pc.fill_null(of_bucket.take(kinds.indices), False))
    return pc.if_else(bare, "", file.cast(pa.string())).dictionary_encode()


def _named(endpoint: pa.Array | pa.Scalar, file: pa.Array, state: _State) -> pa.Array:
    """Return the URIs of pairs. A host is not part of an object's name: its objects go `under` the base, if given."""
    host = pc.fill_null(endpoint, "")
    slash = pc.or_(pc.ends_with(host, "/"), pc.or_(pc.starts_with(file, "/"), pc.equal(host, "")))
    joined = _joined(host, file, slash)
    if state.under is not None:
        hosted = pc.or_(pc.equal(host, ""), pc.match_substring_regex(host, _HOST))
        below = pa.array([from_name(name or "/", state.under) for name in file.to_pylist()], pa.string())
        joined = pc.if_else(hosted, below, joined)
        if state.under == WARP_BUCKET and pc.any(hosted).as_py():
            state.tally.note(
                f"the log names no bucket: objects are taken to be under {WARP_BUCKET} (see base=)"
            )
    if _holds(file, b"://"):
        joined = pc.if_else(pc.match_substring_regex(file, _SCHEME), file, joined)
    if not pc.all(
        pc.match_substring_regex(host, _SCHEME)
    ).as_py():  # a name that has no scheme by now is not an object
        joined = pc.if_else(pc.match_substring_regex(joined, _SCHEME), joined, pa.scalar(None, pa.string()))
    return joined


def _joined(host: pa.Array | pa.Scalar, file: pa.Array, slash: pa.Array) -> pa.Array:
    """Join host and file, with a slash between where there is none; mostly all are alike, and joined at once."""
    bare = "" if pc.any(slash).as_py() else "/"
    joined = pc.binary_join_element_wise(host, file, bare)
    if bare == "/" or pc.all(slash).as_py():
        return joined
    return pc.if_else(slash, joined, pc.binary_join_element_wise(host, file, "/"))


def _holds(names: pa.Array, mark: bytes) -> bool:
    """Return whether any of `names` contains `mark`, with one scan of their bytes."""
    data = names.buffers()[2]
    return data is not None and mark in data.to_pybytes()


def _hosts(endpoints: pa.Array) -> bool:
    return bool(pc.all(pc.match_substring_regex(endpoints, _HOST)).as_py())


def _taken(values: pa.Array, places: npt.NDArray[np.int64], null: int) -> pa.Array:
    return (
        values.take(pa.array(places, mask=places == null))
        if len(values)
        else pa.nulls(len(places), pa.string())
    )


def _coded(indices: pa.Array, names: pa.Array) -> pa.Array:
    """Return a dictionary column of `names`; an index of a null name becomes null."""
    if names.null_count:
        indices = pc.if_else(pc.is_valid(names).take(indices), indices, pa.scalar(None, indices.type))
    return pa.DictionaryArray.from_arrays(indices.cast(pa.int32()), names)


def _codes(column: pa.Array, null: int) -> npt.NDArray[np.int64]:
    codes: npt.NDArray[np.int64] = np.asarray(pc.fill_null(column.indices, null)).astype(np.int64)
    return codes


def _asked(kinds: pa.Array, moved: pa.Array) -> pa.Array:
    """Return the length asked for: known for writes only, which ask for what they move."""
    return pc.if_else(_is_one_of(kinds, WRITE_KINDS), moved, pa.scalar(None, pa.int64()))


def _moved(kinds: pa.Array, size: pa.Array) -> pa.Array:
    """Return the bytes moved. For a stat, some logs have the object's size in the column, which is not moved."""
    return pc.if_else(_is_one_of(kinds, DATA_KINDS), size, 0)


def _is_one_of(kinds: pa.Array, wanted: tuple[str, ...]) -> pa.Array:
    return pc.is_in(kinds.cast(pa.string()), pa.array(wanted))


def _since(start: pa.Array, first_byte: pa.Array) -> pa.Array:
    """Return the time to first byte; null where the log has none, or one before the start."""
    ttfb = pc.subtract(first_byte.cast(pa.int64()), start)
    return pc.if_else(pc.greater_equal(ttfb, 0), ttfb, pa.scalar(None, pa.int64()))


def _thread_as_it_is(threads: pa.Array) -> pa.Array:
    return threads.cast(pa.int64(), safe=False)
