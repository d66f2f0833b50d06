"""Darshan logs with DXT (extended tracing) records, read with the package `darshan`.

The package's C library is run in a process of its own, because a damaged log can crash it;
the ops come back as an Arrow stream. Times are the binary ones, exact to the double.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from tracekit.errors import TraceFormatError, UsageError
from tracekit.formats.base import ImportOptions, Tally
from tracekit.formats.sound import sound_batch
from tracekit.uri import from_name

__all__ = ["DarshanDxt", "serve"]

_MODULES = {"DXT_POSIX": "posix", "DXT_MPIIO": "mpiio"}
_BATCH_ROWS = 65_536
_SCHEMA = pa.schema(
    [("start_s", pa.float64()), ("end_s", pa.float64()), ("name", pa.string()), ("op", pa.string()),
     ("offset", pa.int64()), ("len", pa.int64()), ("rank", pa.int64()), ("layer", pa.string())]
)  # fmt: skip


class DarshanDxt:
    """Reads DXT_POSIX and DXT_MPIIO segments."""

    name = "darshan"
    about = "Darshan log with DXT (needs the package darshan); reads and writes with offsets"

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. MPI-IO requests are kept only where no POSIX ones are, since they cause these."""
        if importlib.util.find_spec("darshan") is None:
            raise UsageError("the package darshan is not installed", "pip install 'tracekit[darshan]'")
        command = [
            sys.executable,
            "-c",
            "from tracekit.formats.darshan_dxt import serve; serve()",
            str(source),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout is not None
            rows = 0
            try:
                with pa.ipc.open_stream(child.stdout) as stream:
                    epoch_ns = int((stream.schema.metadata or {})[b"epoch_unix_ns"])
                    for batch in stream:
                        yield _ops(batch, epoch_ns, rows, options.base, tally)
                        rows += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise TraceFormatError(f"{source} cannot be read as a Darshan log", "is it whole?") from error
            finally:
                child.stdout.close()
                child.wait()
        if child.returncode != 0:
            raise TraceFormatError(
                f"{source} is damaged: the darshan library failed after {rows} ops", "is it whole?"
            )
        if not rows:
            raise TraceFormatError(
                f"{source} holds no DXT records", "record with DXT_ENABLE_IO_TRACE=1 in the environment"
            )
        tally.note("DXT has reads and writes only: opens, stats and errors are not in it")


def serve() -> None:
    """In the child: the segments of the log named by the last argument, as an Arrow stream on stdout."""
    import darshan.backend.cffi_backend as library

    log = library.log_open(sys.argv[-1])
    if log["handle"] == library.ffi.NULL:
        sys.exit(1)
    job = library.log_get_job(log)
    names = library.log_get_name_records(log)
    modules = library.log_get_modules(log)
    module = next((name for name in _MODULES if name in modules), None)
    epoch_ns = int(job["start_time_sec"]) * 10**9 + int(job.get("start_time_nsec", 0))
    schema = _SCHEMA.with_metadata({"epoch_unix_ns": str(epoch_ns)})
    with pa.ipc.new_stream(sys.stdout.buffer, schema) as stream:
        pending: list[dict[str, object]] = []
        while module is not None and (record := library.log_get_dxt_record(log, module)) is not None:
            for op, segments in (("read", record["read_segments"]), ("put", record["write_segments"])):
                fixed = {
                    "name": names.get(record["id"], ""),
                    "op": op,
                    "rank": record["rank"],
                    "layer": _MODULES[module],
                }
                pending += [
                    {
                        "start_s": s["start_time"],
                        "end_s": s["end_time"],
                        "offset": s["offset"],
                        "len": s["length"],
                        **fixed,
                    }
                    for s in segments
                ]
            if len(pending) >= _BATCH_ROWS:
                stream.write_batch(pa.RecordBatch.from_pylist(pending, schema))
                pending = []
        stream.write_batch(pa.RecordBatch.from_pylist(pending, schema))


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
