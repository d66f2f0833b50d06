"""Reads DFTracer logs (`.pfw`, `.pfw.gz`, or a directory of them): JSON, one event a line.

The one reader of such logs: `tracekit import dftracer` and `tracekit capture` both use it.
The 2023 form names files and descriptors in each event, numbers as text; later ones name
files once, in `FH` events, refer to them by hash, and give no descriptors. This module reads
either into one table of events; `dftracer.sql` makes ops of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.formats.base import Carries, ImportOptions, Tally
from tracekit.formats.sound import map_dictionary, sound_batch, uris
from tracekit.formats.spans import innermost
from tracekit.formats.text.lines import Block, ahead, blocks, decoded_lines
from tracekit.sql import load_sql
from tracekit.store.memory import bounded, memory_bytes, memory_errors
from tracekit.store.statements import streamed

__all__ = ["DFTracer", "DFTracerLogs"]

_FIELDS = (
    "$.name",
    "$.cat",
    "$.ph",
    "$.pid",
    "$.tid",
    "$.ts",
    "$.dur",
    "$.args.fname",
    "$.args.fhash",
    "$.args.fd",
    "$.args.ret",
    "$.args.count",
    "$.args.size",
    "$.args.offset",
    "$.args.len",
    "$.args.whence",
    "$.args.flags",
    "$.args.dirfd",
    "$.args.pathname_hash",
    "$.args.cwd",
    "$.args.image_idx",
    "$.args.step",
    "$.args.epoch",
    "$.args.name",
    "$.args.value",
    "$.args.hhash",
    "$.args.num_events",
    "$.args.dft_cnt",
    "$.id",
)
_CONTROL = re.compile(r"[\x00-\x1f]")
_UNITS_NS = {"NS": 1, "US": 1_000, "MS": 1_000_000, "S": 1_000_000_000}
_BATCH_ROWS = 262_144


class DFTracer:
    """Reads what DFTracer (and DLIO through it) wrote."""

    name = "dftracer"
    about = "DFTracer .pfw, .pfw.gz or a directory of them; offsets rebuilt from seeks"
    carries = Carries(
        "us or ns, absolute",
        offset="rebuilt",
        length="not of vectors",
        samples="from spans",
        streams="process, thread",
        completeness="files mapped, hashes not resolved, events, processes without an end",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says, for one file or directory."""
        yield from self.read_together([source], tally, options)

    def read_together(
        self, sources: Sequence[Path], tally: Tally, options: ImportOptions
    ) -> Iterator[pa.RecordBatch]:
        """As the protocol says, for the logs of one run. Rank is the order of the process, worker that of the thread in it.

        Events are held by DuckDB, which spills to disk, since offsets need them in order of time.
        """
        files = [
            file
            for source in sources
            for file in (sorted(source.glob("*.pfw*")) if source.is_dir() else [source])
        ]
        with closing(DFTracerLogs(files, tally, options.base)) as logs:
            if not logs.events:
                raise TraceFormatError(
                    f"{sources[0]} contains no DFTracer event", "give a .pfw or .pfw.gz file"
                )
            if logs.only_sums:
                raise TraceFormatError(
                    f"{sources[0]} contains calls as sums only",
                    "record it without DFTRACER_ENABLE_AGGREGATION",
                )
            for batch in logs.batches(_RANKED):
                lines = batch.column("number").to_numpy()
                columns = {
                    name: batch.column(name)
                    for name in batch.schema.names
                    if name not in ("number", "pid", "tid")
                }
                for name in ("uri", "op", "error"):
                    columns[name] = _coded(columns[name])
                yield sound_batch(columns, lines, tally)
            for note in logs.notes():
                tally.note(note)
            for loss in logs.losses():
                tally.lost(loss)
            tally.note_mapped(len(logs.mapped_files))


_RANKED = """
    WITH threads AS (
        SELECT pid, tid, dense_rank() OVER (ORDER BY try_cast(regexp_extract(pid, '^[0-9]+') AS BIGINT), pid) - 1 AS rank,
            dense_rank() OVER (PARTITION BY pid ORDER BY try_cast(tid AS BIGINT)) - 1 AS worker
        FROM (SELECT DISTINCT pid, tid FROM ops)
    )
    SELECT o.*, t.rank::INTEGER AS rank, t.worker::INTEGER AS worker
    FROM ops o JOIN threads t ON t.pid IS NOT DISTINCT FROM o.pid AND t.tid IS NOT DISTINCT FROM o.tid
    ORDER BY t_submit, number
"""


class DFTracerLogs:
    """The logs of one run, read: its ops are the table `ops` of `connection`.

    `every_open`: whether a successful open is a `stat` op.
    """

    def __init__(
        self, files: list[Path], tally: Tally, base: str | None = None, *, every_open: bool = True
    ) -> None:
        self.connection = bounded(memory_bytes())
        self._base = base
        self._every_open = every_open
        try:
            with memory_errors():
                self._read(files, tally)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the memory and the disk space of the events."""
        self.connection.close()

    def batches(self, sql: str = "FROM ops ORDER BY t_submit, number") -> Iterator[pa.RecordBatch]:
        """Return what `sql` says of the table `ops`."""
        with memory_errors():
            yield from streamed(self.connection.sql(sql), _BATCH_ROWS)

    def notes(self) -> Iterator[str]:
        """Return notes on what the logs do not say."""
        if self.unplaced:
            yield f"{self.unplaced} reads have no offset: their descriptor was never seen opened, or not alone"
        if self.unnamed:
            yield f"{self.unnamed} ops left out: the log does not name their file"
        if self.ambiguous:
            yield f"of {self.ambiguous} calls the file's hash stands for several names, none of their process's"

    @property
    def only_sums(self) -> bool:
        """Whether the logs hold calls, but none with times of its own."""
        return self._totals[2] > 0 and _count(self.connection, "SELECT count(*) FROM ops") == 0

    def losses(self) -> Iterator[str]:
        """Return what the logs count of themselves and do not hold."""
        held, counted, summed, processes, without_end = self._totals
        if held < counted:
            yield f"the log has {held} of the {counted} events that its own totals count"
        if summed:
            yield f"{summed} calls are in the log as sums only (aggregation), without times of their own"
        if without_end:
            yield (
                f"{without_end} of {processes} processes have no end in the log:"
                " they were killed or became another program, or the log is cut short"
            )
        if self._empty:
            yield f"{self._empty} of the logs are empty: their processes were killed or became another program"

    def _read(self, files: list[Path], tally: Tally) -> None:
        con = self.connection
        source = tally.source
        steps = con.extract_statements(load_sql("tracekit.formats", "dftracer"))
        given: dict[str, object] = {"every_open": self._every_open}
        for step in steps:
            if "CREATE TABLE processes" in step.query:
                for place, log in enumerate(files):
                    tally.source = log
                    self._add_events(log, place, tally)
                self._empty = sum(log.stat().st_size == 0 for log in files)
                tally.source = source
                self.events = _count(con, "SELECT count(*) FROM events")
            if "CREATE TABLE located" in step.query:
                con.register("cwds", _standing(con))
            if "CREATE TABLE placed" in step.query:
                con.register("uris", _named(con, self._base))
            if "CREATE TABLE ops" in step.query:
                con.register("changes", _changes(con))
            wanted = {name: value for name, value in given.items() if name in step.named_parameters}
            con.execute(step, wanted)
        self.unplaced, self.unnamed, self.ambiguous, self.read_bytes = con.execute("FROM facts").fetchall()[0]
        self._totals: tuple[int, ...] = con.execute("FROM totals").fetchall()[0]
        mapped = con.execute(
            "SELECT DISTINCT uri FROM placed WHERE name LIKE 'mmap%' AND uri IS NOT NULL"
        ).fetchall()
        self.mapped_files = {uri for (uri,) in mapped}
        tally.left_out.update(dict(con.execute("FROM left_out").fetchall()))

    def _add_events(self, log: Path, place: int, tally: Tally) -> None:
        """Read one file; count its bad lines."""
        con = self.connection
        steps = con.extract_statements(load_sql("tracekit.formats", "dftracer_lines"))
        given: dict[str, object] = {"paths": list(_FIELDS), "log": place, "unit_ns": 1_000}
        for block in ahead(blocks(log, tally)):
            con.register("lines", _lines(block, tally))
            for step in steps:
                con.execute(step, {n: value for n, value in given.items() if n in step.named_parameters})
                if "TABLE parsed" in step.query:
                    given["unit_ns"] = _unit(con, given["unit_ns"])
            bad = [number for (number,) in con.fetchall()]  # what the last step gives
            tally.bad_lines(
                np.array(bad, np.int64),
                "not a DFTracer event (JSON with name, ph and, unless it is metadata, ts and dur)",
            )
            con.unregister("lines")


def _lines(block: Block, tally: Tally) -> pa.Table:
    """The lines that may hold an event, with control characters, which DFTracer writes raw, escaped for JSON."""
    numbers, texts = [], []
    for number, text in decoded_lines(block, tally, lossy=True):
        text = text.strip(" \t,")
        if text not in ("[", "]", ""):
            numbers.append(number)
            texts.append(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
    return pa.table({"number": pa.array(numbers, pa.int64()), "line": pa.array(texts, pa.string())})


def _unit(con: duckdb.DuckDBPyConnection, before: object) -> object:
    """The unit of time that the log states, else that of `before`."""
    found = con.execute(
        "SELECT max_by(meta_value, number) FROM parsed WHERE meta_name = 'time_metric'"
    ).fetchall()[0][0]
    return _UNITS_NS.get(found, before)


def _standing(con: duckdb.DuckDBPyConnection) -> pa.Table:
    """The working directory of each process from each start and chdir on."""
    found = con.execute(
        "SELECT pid, seq, given FROM calls WHERE name = 'start' OR (name = 'chdir' AND coalesce(ret, 0) >= 0)"
        " ORDER BY ts, seq"
    ).fetchall()
    at: dict[str, str | None] = {}
    rows: list[tuple[str, int, str | None]] = []
    for pid, seq, given in found:
        before = at.get(pid)
        if given is None or (before is None and not given.startswith("/")):
            at[pid] = None
        else:
            at[pid] = os.path.normpath(os.path.join(before or "/", given))
        rows.append((pid, seq, at[pid]))
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return pa.table(
        {
            "pid": pa.array(columns[0], pa.string()),
            "seq": pa.array(columns[1], pa.int64()),
            "cwd": pa.array(columns[2], pa.string()),
        }
    )


def _named(con: duckdb.DuckDBPyConnection, base: str | None) -> pa.Table:
    found = con.execute("SELECT DISTINCT path FROM located WHERE path IS NOT NULL").fetchall()
    texts = pa.array([path for (path,) in found], pa.string())
    return pa.table({"path": texts, "uri": uris(texts, base)})


def _changes(con: duckdb.DuckDBPyConnection) -> pa.Table:
    """Which span is the innermost of a thread, from when on; -1 stands for none."""
    threads: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for pid, tid, ts, dur, span in con.execute(
        "SELECT pid, tid, ts, dur, span FROM spans ORDER BY ts, span"
    ).fetchall():
        threads.setdefault((pid, tid), []).append((ts, dur, span))
    rows = [(pid, tid, at, span) for (pid, tid), spans in threads.items() for at, span in innermost(spans)]
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    return pa.table(
        {
            "pid": pa.array(columns[0], pa.string()),
            "tid": pa.array(columns[1], pa.string()),
            "ts": pa.array(columns[2], pa.int64()),
            "span": pa.array(columns[3], pa.int64()),
        }
    )


def _count(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int(con.execute(sql).fetchall()[0][0])


def _coded(column: pa.Array) -> pa.Array:
    coded = column.cast(pa.string()).dictionary_encode()
    return map_dictionary(coded, coded.dictionary.to_pylist())
