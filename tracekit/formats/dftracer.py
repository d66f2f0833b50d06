"""DFTracer logs (`.pfw`, `.pfw.gz`, or a directory of them): JSON, one event a line.

The 2023 form names files and descriptors in each event, numbers as text; later ones name
files once, in `FH` events, refer to them by hash, and give no descriptors. This module
reads either into one table of events; what they mean is `dftracer_ops`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.formats.base import ImportOptions, Tally
from tracekit.formats.dftracer_ops import ops_of
from tracekit.formats.sound import MAX_INT, sound_batch, uris
from tracekit.formats.text.lines import Block, ahead, blocks, decoded_lines
from tracekit.sql import load_sql

__all__ = ["DFTracer"]

_FIELDS = {
    "name": "$.name", "cat": "$.cat", "ph": "$.ph", "pid": "$.pid", "tid": "$.tid", "ts": "$.ts", "dur": "$.dur",
    "fname": "$.args.fname", "fhash": "$.args.fhash", "fd": "$.args.fd", "ret": "$.args.ret",
    "count": "$.args.count", "size": "$.args.size", "offset": "$.args.offset", "whence": "$.args.whence",
    "flags": "$.args.flags", "image_idx": "$.args.image_idx", "step": "$.args.step", "epoch": "$.args.epoch",
    "meta_name": "$.args.name", "meta_value": "$.args.value",
}  # fmt: skip
_NUMBERS = (
    "ts",
    "dur",
    "fd",
    "ret",
    "count",
    "size",
    "offset",
    "whence",
    "flags",
    "image_idx",
    "step",
    "epoch",
)
_CATEGORIES = ("name", "cat", "ph", "pid", "tid")
_COMPLETE, _METADATA = ("X", "1"), ("M", "4")
_IGNORED = ("SH", "PR", "HH")
_CALLS = ("POSIX", "STDIO")
_UNITS_NS = {"NS": 1, "US": 1_000, "MS": 1_000_000, "S": 1_000_000_000}
_BATCH_ROWS = 262_144


class DFTracer:
    """Reads what DFTracer (and DLIO through it) wrote."""

    name = "dftracer"
    about = "DFTracer .pfw, .pfw.gz or a directory of them; offsets rebuilt from seeks"

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Rank is the order of the process, worker that of the thread within it.

        All files of a directory are taken together. Events are held in memory, about 150
        bytes each, since offsets need them in order of time.
        """
        logs = sorted(source.glob("*.pfw*")) if source.is_dir() else [source]
        parts = [part for log in logs for part in _events(log, tally)]
        tally.source = source
        if not any(part.height for part in parts):
            raise TraceFormatError(f"{source} holds no DFTracer event", "give a .pfw or .pfw.gz file")
        events = _named(pl.concat(parts))
        for frame in ops_of(events, tally).iter_slices(_BATCH_ROWS):
            table = frame.to_arrow().combine_chunks()
            columns = {name: _one(table.column(name)) for name in table.column_names if name != "number"}
            for name in ("uri", "op", "error"):
                columns[name] = columns[name].cast(pa.string()).dictionary_encode()
            names = columns["uri"]
            columns["uri"] = pa.DictionaryArray.from_arrays(
                names.indices, uris(names.dictionary, options.base)
            )
            yield sound_batch(columns, frame["number"].to_numpy(), tally)


def _events(log: Path, tally: Tally) -> Iterator[pl.DataFrame]:
    """The calls, spans and metadata of one file, times in ns; bad lines counted."""
    tally.source = log
    unit_ns = 1_000
    sql = load_sql("tracekit.formats", "dftracer_events")
    with closing(duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})) as connection:
        for block in ahead(blocks(log, tally)):
            frame = _parsed(connection, sql, block, tally)
            units = frame.filter(pl.col("meta_name") == "time_metric")["meta_value"].drop_nulls()
            unit_ns = _UNITS_NS.get(units[-1], unit_ns) if len(units) else unit_ns
            yield _timed(frame, unit_ns, tally)


def _parsed(connection: duckdb.DuckDBPyConnection, sql: str, block: Block, tally: Tally) -> pl.DataFrame:
    numbers, texts = [], []
    for number, text in decoded_lines(block, tally, lossy=True):  # it garbles long command lines
        text = text.strip(" \t,")
        if text not in ("[", "]", ""):
            numbers.append(number)
            texts.append(text)
    lines = pl.DataFrame({"number": numbers, "line": texts}, schema={"number": pl.Int64, "line": pl.String})
    connection.register("lines", lines.to_arrow())
    found = pl.DataFrame(connection.sql(sql, params={"paths": list(_FIELDS.values())}).to_arrow_table())
    connection.unregister("lines")
    fields = pl.col("fields")
    return found.select(
        "number",
        *(fields.list.get(place, null_on_oob=True).alias(name) for place, name in enumerate(_FIELDS)),
    ).with_columns(pl.col(name).cast(pl.Int64, strict=False) for name in _NUMBERS)


def _timed(frame: pl.DataFrame, unit_ns: int, tally: Tally) -> pl.DataFrame:
    """The events that can be used, with times in ns."""
    top = MAX_INT // unit_ns
    complete = pl.col("ph").is_in(_COMPLETE)
    timed = pl.col("ts").is_between(0, top) & pl.col("dur").is_between(0, top)
    garbled = pl.coalesce("fname", "meta_name", pl.lit("")).str.contains("\ufffd", literal=True)
    named = pl.col("name").is_not_null() & ~(garbled & ~pl.col("name").is_in(_IGNORED))
    event = named & pl.col("ph").is_not_null() & (~complete | timed)
    bad = frame.filter(~event.fill_null(value=False))
    tally.bad_lines(
        bad["number"].to_numpy(),
        "no DFTracer event (JSON with name, ph and, unless it is metadata, ts and dur)",
    )
    known = pl.col("cat").is_in(_CALLS) | pl.col("image_idx").is_not_null()
    hashes = pl.col("ph").is_in(_METADATA) & pl.col("name").eq("FH")
    useful = event & ((complete & known) | hashes)
    return frame.filter(useful.fill_null(value=False)).with_columns(
        pl.col("ts", "dur") * unit_ns, *(pl.col(name).cast(pl.Categorical) for name in _CATEGORIES)
    )


def _named(events: pl.DataFrame) -> pl.DataFrame:
    """Complete events with `fname`, of the later form too."""
    names = (
        events.filter(pl.col("name").eq("FH") & pl.col("meta_value").is_not_null())
        .select(fhash="meta_value", known="meta_name")
        .unique("fhash", keep="last")
    )
    return (
        events.filter(pl.col("ph").cast(pl.String).is_in(_COMPLETE))
        .join(names, on="fhash", how="left", maintain_order="left")
        .with_columns(fname=pl.coalesce("fname", "known"))
        .drop("known", "fhash", "meta_name", "meta_value", "ph")
    )


def _one(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    if isinstance(combined, pa.Array):
        return combined
    return pa.concat_arrays(combined.chunks) if combined.num_chunks else pa.array([], column.type)
