"""Reads S3 server access logs: one line a request, as the service saw it.

Times have a resolution of one second and latencies of one millisecond. A range GET has the
status 206; its range is not in the log, so its offset stays null. The size of the object,
which the log does have, is the extra column `object_size`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import polars as pl
import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.formats.base import Carries, ImportOptions, Tally
from tracekit.formats.sound import Streams, error_class, map_dictionary, sound_batch
from tracekit.formats.text.lines import Block, ahead, blocks, decoded_lines

__all__ = ["S3AccessLog"]

_LINE = (
    r"^\S+ (?P<bucket>\S+) \[(?P<time>[^\]]{20,30})\] (?P<client>\S+) \S+ \S+ (?P<operation>\S+) (?P<key>\S+) "
    r'(?:".*?"|-) (?P<status>\d{3}|-) (?P<code>\S+) (?P<sent>\d{1,18}|-) (?P<size>\d{1,18}|-) '
    r"(?P<total>\d{1,12}|-) (?P<turn>\d{1,12}|-)(?: |$)"
)
_NUMBERS = ("status", "sent", "size", "total", "turn")
_KINDS = {
    "REST.GET.OBJECT": "get", "REST.PUT.OBJECT": "put", "REST.PUT.PART": "put", "REST.POST.OBJECT": "put",
    "REST.HEAD.OBJECT": "stat", "REST.HEAD.BUCKET": "stat", "REST.GET.BUCKET": "list", "REST.GET.BUCKETVERSIONS": "list",
    "REST.DELETE.OBJECT": "delete", "BATCH.DELETE.OBJECT": "delete",
    "S3.EXPIRE.OBJECT": "delete", "S3.CREATE.DELETEMARKER": "delete", "WEBSITE.GET.OBJECT": "get",
}  # fmt: skip
_PARTIAL = 206
_ENDS_A_NAME = re.compile(r"[?#\x00-\x1f\x7f]")


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
        completeness="requests left out",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Rank is the order of the remote address."""
        clients = Streams()
        lines = 0
        own: Counter[str] = Counter()
        for block in ahead(blocks(source, tally)):
            frame = _fields(block, tally)
            lines += frame.height
            ops = frame.filter(pl.col("kind").is_not_null())
            for operation in frame.filter(pl.col("kind").is_null())["operation"]:
                tally.left_out[operation[:60]] += 1
            own.update(ops.filter(pl.col("operation").str.starts_with("S3."))["operation"])
            yield _ops(ops, clients, tally)
        if not lines:
            raise TraceFormatError(f"{source} contains no S3 access log line", "is this the right format?")
        if own:
            counts = ", ".join(f"{name} {count}" for name, count in own.items())
            tally.note(f"deletes by the service itself, not by a client: {counts}")
        tally.note("times are whole seconds, and ops of one second keep the order of the log")


def _fields(block: Block, tally: Tally) -> pl.DataFrame:
    numbers, texts = [], []
    for number, text in decoded_lines(block, tally):
        numbers.append(number)
        texts.append(text)
    frame = pl.DataFrame({"line": numbers, "text": texts}, schema={"line": pl.Int64, "text": pl.String})
    parts = frame.select("line", pl.col("text").str.extract_groups(_LINE)).unnest("text").with_columns(
        pl.col("time").str.to_datetime("%d/%b/%Y:%H:%M:%S %z", strict=False, time_unit="us").dt.epoch("us"),
        *(pl.col(name).cast(pl.Int64, strict=False) for name in _NUMBERS),
    )  # fmt: skip
    bad = parts.filter(pl.col("time").is_null())
    tally.bad_lines(bad["line"].to_numpy(), "not an S3 access log line")
    kind = pl.col("operation").replace_strict(_KINDS, default=None, return_dtype=pl.String)
    ranged = kind.eq("get") & pl.col("status").eq(_PARTIAL)
    return parts.filter(pl.col("time").is_not_null()).with_columns(
        kind=pl.when(ranged).then(pl.lit("read")).otherwise(kind)
    )


def _ops(frame: pl.DataFrame, clients: Streams, tally: Tally) -> pa.RecordBatch:
    kind = pl.col("kind")
    moved = (
        pl.when(kind.is_in(["get", "read"]))
        .then(pl.col("sent").fill_null(0))
        .when(kind.eq("put"))
        .then("size")
        .otherwise(0)
    )
    failed = pl.when(pl.col("status").ge(400)).then(pl.format("{} {}", "status", "code"))
    key = pl.when(pl.col("key").eq("-")).then(pl.lit("")).otherwise("key")
    ops = frame.select(
        t_submit=pl.col("time") * 1000,
        uri=pl.format("s3://{}/{}", "bucket", key).cast(pl.Categorical),
        op=kind.cast(pl.Categorical),
        bytes=pl.when(pl.col("status").ge(400)).then(0).otherwise(moved),
        len=pl.when(kind.eq("put")).then("size"),
        latency=pl.col("total") * 1_000_000,
        ttfb=pl.when(kind.is_in(["get", "read"])).then(pl.col("turn") * 1_000_000),
        error=failed.cast(pl.Categorical),
        rank=pl.col("client").cast(pl.Categorical),
        object_size=pl.when(kind.is_in(["get", "read", "stat"]) & pl.col("status").lt(400)).then("size"),
    )
    table = ops.to_arrow().combine_chunks()
    columns = {name: _one(table.column(name)) for name in table.column_names}
    names = [_decoded(name) for name in columns["uri"].dictionary.to_pylist()]
    columns["uri"] = pa.DictionaryArray.from_arrays(
        columns["uri"].indices.cast(pa.int32()), pa.array(names, pa.string())
    )
    columns["op"] = map_dictionary(columns["op"], columns["op"].dictionary.to_pylist())
    columns["error"] = map_dictionary(
        columns["error"], [error_class(text) for text in columns["error"].dictionary.to_pylist()]
    )
    columns["rank"] = clients.numbers(columns["rank"])
    return sound_batch(columns, frame["line"].to_numpy().astype(np.int64), tally)


def _decoded(name: str) -> str:
    """Return a logged name, percent-decoded but for the characters that would end it in a URI."""
    return _ENDS_A_NAME.sub(lambda found: f"%{ord(found[0]):02X}", unquote(name, errors="replace"))


def _one(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    if isinstance(combined, pa.Array):
        return combined
    return pa.concat_arrays(combined.chunks) if combined.num_chunks else pa.array([], column.type)
