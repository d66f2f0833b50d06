"""DFTracer logs (`.pfw`, `.pfw.gz`): Chrome-trace JSON, one event a line, times in us.

The 2023 form names files in each event (`fname`, numbers as text); later ones name them
once in `FH` events and refer to them by hash. A `read` carries no offset: it is rebuilt
from the `open`, `lseek` and `read` events of its descriptor. Sample and step come from
the application spans (`image_idx`, `step`) that a read lies in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.formats.base import ImportOptions, Tally

__all__ = ["DFTracer"]

_FIELDS = {
    "name": "$.name", "cat": "$.cat", "ph": "$.ph", "pid": "$.pid", "tid": "$.tid", "ts": "$.ts", "dur": "$.dur",
    "fname": "$.args.fname", "fhash": "$.args.fhash", "fd": "$.args.fd", "ret": "$.args.ret",
    "count": "$.args.count", "offset": "$.args.offset", "image_idx": "$.args.image_idx", "step": "$.args.step",
    "meta_name": "$.args.name", "meta_value": "$.args.value",
}  # fmt: skip
_NUMBERS = ("ts", "dur", "fd", "ret", "count", "offset", "image_idx", "step")
_OPEN = ("open", "open64", "openat", "creat", "creat64", "fopen", "fopen64")
_READ = ("read", "fread")
_PREAD = ("pread", "pread64")
_WRITE = ("write", "fwrite", "pwrite", "pwrite64")
_SEEK = ("lseek", "lseek64", "fseek")
_STAT = ("__xstat", "__xstat64", "__fxstat", "__fxstat64", "__lxstat", "__lxstat64", "stat", "stat64", "fstat",
         "fstat64", "lstat", "lstat64", "fstatat")  # fmt: skip
_LIST = ("opendir", "scandir")
_US_MAX = 9_000_000_000_000_000
_BATCH_ROWS = 262_144


class DFTracer:
    """Reads what DFTracer (and DLIO through it) wrote."""

    name = "dftracer"
    about = "DFTracer .pfw or .pfw.gz; offsets rebuilt from seeks"

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Rank is the order of `pid`, worker that of `tid` within it."""
        events = _events(source, tally)
        ops = _ops(_with_names(events))
        unplaced = ops.filter(pl.col("op").eq("read") & pl.col("offset").is_null()).height
        if unplaced:
            tally.notes.append(f"{unplaced} reads of descriptors that were never seen opened have no offset")
        ops = _with_samples(ops, events).drop("pid", "tid", "key_fd", "name", "end_us")
        yield from ops.to_arrow().to_batches(max_chunksize=_BATCH_ROWS)


def _events(source: Path, tally: Tally) -> pl.DataFrame:
    """One row an event; numbers as integers, null where the event does not say."""
    try:
        lines = pl.read_csv(
            source, has_header=False, separator="\x01", quote_char=None, new_columns=["line"],
            schema={"line": pl.String}, encoding="utf8-lossy", truncate_ragged_lines=True, row_index_name="number",
            row_index_offset=1,
        )  # fmt: skip
    except (pl.exceptions.PolarsError, OSError) as error:
        raise TraceFormatError(f"{source} cannot be read as a DFTracer log: {str(error).splitlines()[0]}",
                               "give a .pfw or .pfw.gz file") from error  # fmt: skip
    lines = lines.with_columns(pl.col("line").str.strip_chars(" \t\r,")).filter(
        pl.col("line").is_not_null() & ~pl.col("line").is_in(["", "[", "]"])
    )
    if not lines.height:
        return _typed(lines)
    events = _typed(lines)
    wrong = events.filter(_is_bad())
    if wrong.height == events.height:
        raise TraceFormatError(f"{source} holds no DFTracer event", "give a .pfw or .pfw.gz file")
    for number in wrong["number"].to_list():
        tally.bad(number, "no DFTracer event (JSON with name, ph and, unless it is metadata, ts and dur)")
    return events.filter(~_is_bad())


def _typed(lines: pl.DataFrame) -> pl.DataFrame:
    whole = pl.col("line").str.starts_with("{") & pl.col("line").str.ends_with("}")
    text = pl.when(whole).then(pl.col("line")).otherwise(pl.lit("{}"))
    fields = lines.select(
        pl.col("number").cast(pl.Int64),
        *(text.str.json_path_match(path).alias(name) for name, path in _FIELDS.items()),
    )
    return fields.with_columns(pl.col(name).cast(pl.Int64, strict=False) for name in _NUMBERS)


def _is_bad() -> pl.Expr:
    timed = pl.col("ts").is_between(0, _US_MAX) & pl.col("dur").is_between(0, _US_MAX)
    known = pl.col("name").is_not_null() & pl.col("ph").is_not_null()
    return ~(known & (pl.col("ph").ne("X") | timed)).fill_null(value=False)


def _with_names(events: pl.DataFrame) -> pl.DataFrame:
    """Events with `fname`, of the later form too."""
    names = (
        events.filter(pl.col("name").eq("FH") & pl.col("meta_value").is_not_null())
        .select(fhash="meta_value", known="meta_name")
        .unique("fhash", keep="last")
    )
    return (
        events.join(names, on="fhash", how="left")
        .with_columns(fname=pl.coalesce("fname", "known"))
        .drop("known")
    )


def _ops(events: pl.DataFrame) -> pl.DataFrame:
    calls = (
        events.filter(pl.col("ph").eq("X") & pl.col("cat").is_in(["POSIX", "STDIO"]))
        .sort("ts", maintain_order=True)
        .with_columns(
            key_fd=pl.coalesce(pl.col("fd"), pl.when(pl.col("name").is_in(_OPEN)).then(pl.col("ret")))
        )
    )
    name, ret = pl.col("name"), pl.col("ret")
    moved = ret.clip(lower_bound=0)
    # A descriptor's position: what the last open or seek set, and what reads moved since.
    sets = pl.when(name.is_in(_OPEN)).then(pl.lit(0)).when(name.is_in(_SEEK) & ret.ge(0)).then(ret)
    advance = pl.when(name.is_in((*_READ, "write", "fwrite"))).then(moved).otherwise(0).fill_null(0)
    file = ["pid", "tid", "key_fd"]
    calls = calls.with_columns(_set=sets, _run=advance.cum_sum().over(file))
    calls = calls.with_columns(
        _base=pl.when(pl.col("_set").is_not_null())
        .then(pl.col("_set") - pl.col("_run"))
        .forward_fill()
        .over(file),
        _step=advance,
    )
    position = pl.col("_base") + pl.col("_run") - pl.col("_step")
    kind = (
        pl.when(name.is_in((*_READ, *_PREAD))).then(pl.lit("read"))
        .when(name.is_in(_WRITE)).then(pl.lit("put"))
        .when(name.is_in((*_OPEN, *_STAT))).then(pl.lit("stat"))
        .when(name.is_in(_LIST)).then(pl.lit("list"))
    )  # fmt: skip
    data = kind.is_in(["read", "put"])
    given = name.is_in((*_PREAD, "pwrite", "pwrite64"))
    failed = ret.lt(0).fill_null(value=False)
    return calls.filter(kind.is_not_null() & pl.col("fname").is_not_null()).select(
        t_submit=pl.col("ts") * 1000,
        uri=pl.lit("file://") + pl.col("fname"),
        op=kind,
        offset=pl.when(data & given).then(pl.col("offset")).when(data).then(position),
        len=pl.when(data).then(pl.col("count")),
        bytes=pl.when(data).then(moved).otherwise(0),
        latency=pl.col("dur") * 1000,
        error=pl.when(failed & kind.eq("stat")).then(pl.lit("not_found")).when(failed).then(pl.lit("io_error")),
        rank=(pl.col("pid").rank("dense") - 1).cast(pl.Int32),
        worker=(pl.col("tid").cast(pl.Int64, strict=False).rank("dense").over("pid") - 1).cast(pl.Int32),
        pid="pid", tid="tid", key_fd="key_fd", name="name", end_us=pl.col("ts") + pl.col("dur"),
    )  # fmt: skip


def _with_samples(ops: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Ops with the `sample_id` and `step` of the innermost span of their thread that they lie in."""
    spans = (
        events.filter(pl.col("ph").eq("X") & pl.col("image_idx").is_not_null())
        .select(
            "pid",
            "tid",
            t_submit=pl.col("ts") * 1000,
            sample_id="image_idx",
            step="step",
            span_end=pl.col("ts") + pl.col("dur"),
        )
        .sort("t_submit")
    )
    joined = ops.sort("t_submit", maintain_order=True).join_asof(
        spans, on="t_submit", by=["pid", "tid"], strategy="backward", check_sortedness=False
    )
    inside = pl.col("end_us") <= pl.col("span_end")
    return joined.with_columns(
        pl.when(inside).then(pl.col(name)).alias(name) for name in ("sample_id", "step")
    ).drop("span_end")
