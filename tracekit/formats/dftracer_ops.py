"""From DFTracer's events to ops: where each read began, and which sample it was for.

A position is known from the open or seek that set it and the bytes moved since, for each
descriptor; where the log gives no descriptors, for each file of a process that has it open
once. Whatever cannot be known so is null.
"""

from __future__ import annotations

import heapq

import polars as pl

from tracekit.errors import ErrorClass
from tracekit.formats.base import Tally

__all__ = ["ops_of"]

_OPEN = ("open", "open64", "openat", "openat64", "creat", "creat64", "fopen", "fopen64")
_CLOSE = ("close", "fclose")
_READ = ("read", "fread", "readv")
_PREAD = ("pread", "pread64", "preadv", "preadv64")
_WRITE = ("write", "fwrite", "writev")
_PWRITE = ("pwrite", "pwrite64", "pwritev", "pwritev64")
_SEEK = ("lseek", "lseek64")
_FSEEK = ("fseek", "fseeko", "fseek64", "fseeko64", "rewind")
_DUP = ("dup", "dup2", "dup3")
_STAT = ("__xstat", "__xstat64", "__fxstat", "__fxstat64", "__lxstat", "__lxstat64", "__fxstatat", "__fxstatat64",
         "stat", "stat64", "fstat", "fstat64", "lstat", "lstat64", "fstatat", "fstatat64", "statx")  # fmt: skip
_LIST = ("opendir", "scandir")
_DELETE = ("unlink", "unlinkat", "remove")
_O_APPEND = 0o2000
_UNKNOWN = -(2**60)
"""A position that nothing short of a new seek makes known: bytes moved cannot lift it to 0."""

_NOTHING = -1


def ops_of(events: pl.DataFrame, tally: Tally) -> pl.DataFrame:
    """The ops of `events` (complete ones, times in ns), in order of time, with their line `number`."""
    calls = events.filter(pl.col("cat").cast(pl.String).is_in(["POSIX", "STDIO"])).sort(
        "ts", maintain_order=True
    )
    calls = calls.with_columns(pl.col("name", "pid", "tid").cast(pl.String))
    kind = (
        pl.when(pl.col("name").is_in((*_READ, *_PREAD))).then(pl.lit("read"))
        .when(pl.col("name").is_in((*_WRITE, *_PWRITE))).then(pl.lit("put"))
        .when(pl.col("name").is_in((*_OPEN, *_STAT))).then(pl.lit("stat"))
        .when(pl.col("name").is_in(_LIST)).then(pl.lit("list"))
        .when(pl.col("name").is_in(_DELETE)).then(pl.lit("delete"))
    )  # fmt: skip
    placed = _placed(calls.with_columns(kind=kind))
    ops = placed.filter(pl.col("kind").is_not_null() & pl.col("fname").is_not_null() & pl.col("fname").ne(""))
    unplaced = ops.filter(pl.col("kind").eq("read") & pl.col("position").is_null()).height
    if unplaced:
        tally.note(f"{unplaced} reads have no offset: their descriptor was never seen opened, or not alone")
    unnamed = placed.filter(pl.col("kind").is_in(["read", "put"]) & pl.col("fname").is_null()).height
    if unnamed:
        tally.note(f"{unnamed} reads and writes left out: the log does not name their file")
    ops = _with_samples(ops, events)
    data = pl.col("kind").is_in(["read", "put"])
    failed = pl.col("ret").lt(0).fill_null(value=False)
    error = (
        pl.when(failed & pl.col("kind").is_in(["stat", "list", "delete"])).then(pl.lit(ErrorClass.NOT_FOUND))
        .when(failed).then(pl.lit(ErrorClass.IO_ERROR))
    )  # fmt: skip
    return ops.select(
        "number",
        t_submit="ts",
        uri="fname",
        op="kind",
        offset=pl.when(data).then("position"),
        len=pl.when(data).then(pl.col("count") * pl.col("size").fill_null(1)),
        bytes=pl.when(data).then("moved").otherwise(0),
        latency="dur",
        sample_id="sample_id",
        step="step_of_sample",
        epoch="epoch_of_sample",
        rank=pl.col("pid").cast(pl.Int64, strict=False).rank("dense") - 1,
        worker=pl.col("tid").cast(pl.Int64, strict=False).rank("dense").over("pid") - 1,
        error=error,
    ).with_columns(pl.col("rank", "worker").fill_null(0).cast(pl.Int32))


def _placed(calls: pl.DataFrame) -> pl.DataFrame:
    """`calls` with `moved` bytes and the `position` at which each read or write began; null if unknown."""
    name, ret = pl.col("name"), pl.col("ret")
    opens, closes = name.is_in(_OPEN), name.is_in(_CLOSE)
    descriptors = calls.select((pl.col("fd").is_not_null() & name.is_in(_READ)).any()).item()
    if descriptors:
        fd = pl.when(opens).then(ret).otherwise("fd")
        key = [pl.col("pid"), pl.col("tid"), fd]
    else:
        key = [pl.col("pid"), pl.col("fname")]
    moved = (ret.clip(lower_bound=0) * pl.col("size").fill_null(1)).clip(upper_bound=2**40)
    start = pl.when(pl.col("flags").fill_null(0).and_(pl.lit(_O_APPEND)).ne(0)).then(_UNKNOWN).otherwise(0)
    sets = (
        pl.when(opens).then(start)
        .when(name.is_in(_SEEK) & ret.is_between(0, 2**60)).then(ret)
        .when(name.is_in(_FSEEK) & pl.col("whence").eq(0)).then("offset")
        .when(name.is_in(_FSEEK)).then(pl.lit(_UNKNOWN))
        .when(closes | name.is_in(_DUP)).then(pl.lit(_UNKNOWN))
    )  # fmt: skip
    advance = pl.when(name.is_in((*_READ, *_WRITE))).then(moved).otherwise(0).fill_null(0)
    calls = _shared(
        calls.with_columns(moved=moved, _key=pl.struct(key), _sets=sets, _advance=advance), descriptors
    )
    calls = calls.with_columns(_run=pl.col("_advance").cum_sum().over("_key"))
    base = (
        pl.when(pl.col("_sets").is_not_null())
        .then(pl.col("_sets") - pl.col("_run"))
        .forward_fill()
        .over("_key")
    )
    position: pl.Expr = pl.when(~_moved_by_others()).then(base + pl.col("_run") - pl.col("_advance"))
    if not descriptors:
        calls = _alone(calls)
        position = pl.when(pl.col("_alone")).then(position)
    given = name.is_in((*_PREAD, *_PWRITE))
    position = pl.when(given).then("offset").when(pl.col("kind").is_in(["read", "put"])).then(position)
    calls = calls.with_columns(position=position)
    return calls.with_columns(position=pl.when(pl.col("position") >= 0).then("position"))


def _shared(calls: pl.DataFrame, descriptors: bool) -> pl.DataFrame:
    """`calls` with when (`_first`, `_last`) and by which process alone (`_by`) their file was moved unopened.

    A process that moves a file that it has not opened may have the descriptor from another,
    whose position moves with it.
    """
    name = pl.col("name")
    place = ["fname", "fd"] if descriptors else ["fname"]
    mine = calls.with_columns(_opened=name.is_in(_OPEN).cum_sum().over("pid", "fname"))
    moves = name.is_in((*_READ, *_WRITE, *_SEEK, *_FSEEK))
    foreign = mine.filter(moves & pl.col("_opened").eq(0)).group_by(place).agg(
        _first=pl.col("ts").min(), _last=pl.col("ts").max(),
        _by=pl.when(pl.col("pid").n_unique() == 1).then(pl.col("pid").first()),
    )  # fmt: skip
    return calls.join(foreign, on=place, how="left", maintain_order="left")


def _moved_by_others() -> pl.Expr:
    """Whether another process may have moved the file since its position was last set."""
    since = pl.when(pl.col("_sets").is_not_null()).then("ts").forward_fill().over("_key")
    inside = (pl.col("_first") < pl.col("ts")) & (pl.col("_last") > since)
    return (inside & pl.col("_by").ne_missing(pl.col("pid"))).fill_null(value=False)


def _alone(calls: pl.DataFrame) -> pl.DataFrame:
    """Whether a file is open once, so that its position is one descriptor's: `_alone`.

    From a second open on, whose position is whose cannot be told until all are closed.
    """
    name = pl.col("name")
    change = pl.when(name.is_in(_OPEN)).then(1).when(name.is_in(_CLOSE)).then(-1).otherwise(0)
    calls = calls.with_columns(_change=change).with_columns(_open=pl.col("_change").cum_sum().over("_key"))
    fresh = pl.col("_change").eq(1) & pl.col("_open").le(1)
    calls = calls.with_columns(_life=fresh.cast(pl.Int32).cum_sum().over("_key"))
    return calls.with_columns(_alone=pl.col("_open").cum_max().over("_key", "_life") <= 1)


def _with_samples(ops: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Ops with the sample, step and epoch of the innermost span of their thread that they lie in."""
    spans = events.filter(pl.col("image_idx").is_not_null()).with_columns(
        pl.col("pid", "tid").cast(pl.String)
    )
    edges = [
        (pid, tid, at, span)
        for (pid, tid), group in spans.with_row_index("span").group_by("pid", "tid")
        for at, span in _innermost(group.select("ts", "dur", "span").sort("ts").rows())
    ]
    schema = {"pid": pl.String, "tid": pl.String, "ts": pl.Int64, "span": pl.Int64}
    changes = pl.DataFrame(edges, schema=schema, orient="row").sort("ts", maintain_order=True)
    facts = spans.with_row_index("span").select(
        pl.col("span").cast(pl.Int64), sample_id="image_idx", step_of_sample="step", epoch_of_sample="epoch",
        span_end=pl.col("ts") + pl.col("dur"),
    )  # fmt: skip
    joined = ops.sort("ts", maintain_order=True).join_asof(
        changes, on="ts", by=["pid", "tid"], strategy="backward", check_sortedness=False
    ).join(facts, on="span", how="left", maintain_order="left")  # fmt: skip
    inside = pl.col("ts") + pl.col("dur") <= pl.col("span_end")
    names = ("sample_id", "step_of_sample", "epoch_of_sample")
    return joined.with_columns(pl.when(inside).then(pl.col(name)).alias(name) for name in names)


def _innermost(spans: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """When which span becomes the innermost open one of a thread; spans are (start, length, id) by start."""
    changes: list[tuple[int, int]] = []
    running: list[tuple[int, int, int]] = []  # (-start, end, id): the latest to begin is the innermost

    def leave(until: int) -> None:
        ends = sorted(end for _, end, _ in running if end < until)
        for end in ends:
            while running and running[0][1] <= end:
                heapq.heappop(running)
            changes.append((end + 1, running[0][2] if running else _NOTHING))

    for start, length, span in spans:
        leave(start)
        heapq.heappush(running, (-start, start + length, span))
        while running and running[0][1] < start:
            heapq.heappop(running)
        changes.append((start, running[0][2] if running else _NOTHING))
    leave(2**63)
    return changes
