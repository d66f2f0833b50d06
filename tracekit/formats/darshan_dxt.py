"""Darshan logs with DXT (extended tracing) records, read with the package `darshan`.

The package's C library is run in a process of its own, because a damaged log can crash it;
the ops come back as an Arrow stream. Times are the binary ones, exact to the double.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tracekit.errors import TraceFormatError, UsageError
from tracekit.formats.base import Carries, ImportOptions, Tally
from tracekit.formats.packed import unpacked_file
from tracekit.formats.sound import sound_batch
from tracekit.uri import from_name

__all__ = ["DarshanDxt", "serve"]

_MODULES = {"DXT_POSIX": ("posix", "POSIX"), "DXT_MPIIO": ("mpiio", "MPI-IO")}
"""DXT modules: what `layer` says, and the module with the counters."""
_DAMAGED = 3
_MOST_SEGMENTS = 2**28
_BATCH_ROWS = 65_536
_SEGMENT = np.dtype(
    [("offset", np.int64), ("length", np.int64), ("start_time", np.float64), ("end_time", np.float64)]
)
_SCHEMA = pa.schema(
    [
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("name", pa.string()),
        ("op", pa.string()),
        ("offset", pa.int64()),
        ("len", pa.int64()),
        ("rank", pa.int64()),
        ("layer", pa.string()),
    ]
)


class DarshanDxt:
    """Reads DXT_POSIX and DXT_MPIIO segments."""

    name = "darshan"
    about = "Darshan log with DXT (needs the package darshan); reads and writes with offsets"
    carries = Carries("ns, absolute", streams="rank", errors="no", completeness="counters, partial flag")

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. MPI-IO requests are kept only where no POSIX ones are, since they cause these."""
        if importlib.util.find_spec("darshan") is None:
            raise UsageError("the package darshan is not installed", "pip install 'tracekit[darshan]'")
        with unpacked_file(source) as plain:
            yield from _read(source, plain, tally, options)


def _read(source: Path, plain: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
    """Yield the ops of the log `plain`, which messages call `source`."""
    command = [
        sys.executable,
        "-c",
        "from tracekit.formats.darshan_dxt import serve; serve()",
        str(plain),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        rows = 0
        facts: dict[bytes, bytes] = {}
        broken: Exception | None = None
        try:
            with pa.ipc.open_stream(child.stdout) as stream:
                facts = stream.schema.metadata or {}
                for batch in stream:
                    yield _ops(batch, int(facts[b"epoch_unix_ns"]), rows, options.base, tally)
                    rows += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            broken = error
        finally:
            child.stdout.close()
            child.wait()
    if child.returncode == 1:
        raise TraceFormatError(f"{source} cannot be read as a Darshan log", "is it whole?") from broken
    if child.returncode != 0 or broken is not None:
        raise TraceFormatError(
            f"{source} is cut short or damaged: {rows} ops could be read before that",
            "copy the log again",
        ) from broken
    if not rows:
        raise TraceFormatError(
            f"{source} contains no DXT records", "record with DXT_ENABLE_IO_TRACE=1 in the environment"
        )
    _say(tally, rows, facts)


def _say(tally: Tally, rows: int, facts: dict[bytes, bytes]) -> None:
    """Note how complete the log says that it is."""
    counted = int(facts[b"counted"])
    flagged = facts[b"partial"].decode().split()
    if any(name in _MODULES for name in flagged):
        tally.lost(f"the log is flagged partial: Darshan ran out of memory for DXT records after {rows} ops")
    if others := [name for name in flagged if name not in _MODULES]:
        tally.lost(
            f"the log is flagged partial for {', '.join(others)}: Darshan ran out of memory for their records, so that"
            " files may be missing, and not all ops can be checked against counters"
        )
    if counted > rows:
        tally.lost(
            f"the log has {rows} of the {counted} reads and writes that its own counters count"
            f" ({100 * rows / counted:.1f} %)"
        )
    tally.note("DXT has reads and writes only: opens, stats and errors are not in it")


def serve() -> None:
    """In the child process: write the segments of the log named by the last argument to stdout, as an Arrow stream.

    Exits with 1 if the log cannot be opened, and with `_DAMAGED` if it cannot be read to its
    end, or holds more than its own counters count.
    """
    import darshan.backend.cffi_backend as library

    log = library.log_open(sys.argv[-1])
    if log["handle"] == library.ffi.NULL:
        sys.exit(1)
    job = library.log_get_job(log)
    modules = library.log_get_modules(log)
    names = library.log_get_name_records(log)
    if not modules or not names:
        sys.exit(_DAMAGED)
    module = next((name for name in _MODULES if name in modules), None)
    counters = {} if module is None else _counted(library, log, _MODULES[module][1])
    facts = {
        "epoch_unix_ns": int(job["start_time_sec"]) * 10**9 + int(job.get("start_time_nsec", 0)),
        "partial": " ".join(name for name, info in modules.items() if info["partial_flag"]),
        "counted": sum(counts.ops for counts in counters.values()),
    }
    schema = _SCHEMA.with_metadata({name: str(value) for name, value in facts.items()})
    moved: dict[int, int] = {}
    with pa.ipc.new_stream(sys.stdout.buffer, schema) as stream:
        waiting: list[pa.RecordBatch] = []
        for record, kind, segments in () if module is None else _segments(library, log, module):
            counts = counters.get(record.id)
            moved[record.id] = moved.get(record.id, 0) + int(segments["length"].sum())
            if _implausible(segments) or (counts is not None and moved[record.id] > counts.bytes):
                sys.exit(_DAMAGED)
            name, layer = names.get(record.id, ""), _MODULES[module or ""][0]
            waiting.append(_batch(segments, name, kind, int(record.rank), layer))
            if sum(batch.num_rows for batch in waiting) >= _BATCH_ROWS or len(waiting) >= 1000:
                stream.write_table(pa.Table.from_batches(waiting, _SCHEMA).combine_chunks())
                waiting = []
        if module is not None and modules[module]["len"] > 0 and not moved:
            sys.exit(_DAMAGED)  # the library does not always tell an error from the end
        stream.write_table(pa.Table.from_batches(waiting, _SCHEMA).combine_chunks())


def _batch(segments: Any, name: str, kind: str, rank: int, layer: str) -> pa.RecordBatch:
    rows = len(segments)
    columns = [
        segments["start_time"],
        segments["end_time"],
        [name] * rows,
        [kind] * rows,
        segments["offset"],
        segments["length"],
        [rank] * rows,
        [layer] * rows,
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


@dataclass(frozen=True, slots=True)
class _Counts:
    """What a log's counters say of one file."""

    ops: int
    bytes: int


def _counted(library: Any, log: Any, module: str) -> dict[int, _Counts]:
    """Return the reads and writes, and their bytes, that the counters of `module` count for each file."""
    found: dict[int, _Counts] = {}
    info = library.log_get_modules(log).get(module)
    if info is None or info["partial_flag"]:
        return found
    prefix = "POSIX" if module == "POSIX" else "MPIIO"
    while (record := library.log_get_record(log, module, "dict")) is not None:
        counters = record["counters"]
        ops = sum(
            int(value)
            for name, value in counters.items()
            if name.startswith(prefix)
            and name.endswith(("_READS", "_WRITES"))
            and "CONSEC" not in name
            and "SEQ" not in name
        )
        size = int(counters[f"{prefix}_BYTES_READ"]) + int(counters[f"{prefix}_BYTES_WRITTEN"])
        before = found.get(record["id"], _Counts(0, 0))
        found[record["id"]] = _Counts(before.ops + ops, before.bytes + size)
    return found


def _segments(library: Any, log: Any, module: str) -> Iterator[tuple[Any, str, Any]]:
    """Yield (file and rank, op, segments) of each DXT record.

    The package takes an error of the C library for the end of the log, so this asks the C library itself.
    """
    ffi, index = library.ffi, library.log_get_modules(log)[module]["idx"]
    while True:
        buffer = ffi.new("void **")
        status = library.libdutil.darshan_log_get_record(log["handle"], index, buffer)
        if status < 0:
            sys.exit(_DAMAGED)
        if status == 0:
            return
        record = ffi.cast("struct dxt_file_record *", buffer[0])
        writes, reads = int(record.write_count), int(record.read_count)
        if writes < 0 or reads < 0 or writes + reads > _MOST_SEGMENTS:
            sys.exit(_DAMAGED)
        start = ffi.cast("char *", buffer[0]) + ffi.sizeof("struct dxt_file_record")
        size = (writes + reads) * _SEGMENT.itemsize
        both = np.frombuffer(ffi.buffer(start, size), _SEGMENT).copy()
        for kind, part in (("read", both[writes:]), ("write", both[:writes])):
            if len(part):
                yield record.base_rec, kind, part
        library.libdutil.darshan_free(buffer[0])


def _implausible(segments: Any) -> bool:
    """Return whether `segments` hold a value that no request has."""
    offset, length = segments["offset"], segments["length"]
    start, end = segments["start_time"], segments["end_time"]
    times = np.isfinite(start) & np.isfinite(end) & (start >= 0) & (end >= start) & (end < 1e9)
    ranges = (offset >= 0) & (length >= 0) & (offset < 2**62) & (length < 2**48)
    return not bool((times & ranges).all())


def _ops(batch: pa.RecordBatch, epoch_ns: int, first: int, base: str | None, tally: Tally) -> pa.RecordBatch:
    start, end = (_ns(batch.column(name).to_numpy()) for name in ("start_s", "end_s"))
    names = batch.column("name").dictionary_encode()
    uris = [
        "" if not name or name.startswith("<") else from_name(name, base)  # <STDIN> and its kind
        for name in names.dictionary.to_pylist()
    ]
    size = batch.column("len")
    columns = {
        "t_submit": pa.array(np.where(start < 0, -1, start + epoch_ns)),
        "uri": pa.DictionaryArray.from_arrays(names.indices, pa.array(uris, pa.string())),
        "op": batch.column("op").dictionary_encode(),
        "offset": batch.column("offset"),
        "bytes": size,
        "len": size,
        "latency": pa.array(end - start),
        "rank": batch.column("rank"),
        "layer": batch.column("layer").dictionary_encode(),
    }
    return sound_batch(columns, np.arange(first + 1, first + 1 + len(start), dtype=np.int64), tally)


def _ns(seconds: np.ndarray) -> np.ndarray:
    """Seconds of a double as ns; -1 for what no time can be."""
    good = np.isfinite(seconds) & (seconds >= 0) & (seconds < 1e9)
    return np.where(good, np.rint(np.where(good, seconds, 0) * 1e9), -1).astype(np.int64)
