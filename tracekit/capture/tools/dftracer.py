"""DFTracer's preload library: the environment that has a program log its calls.

The library comes from the wheel `dftracer`, is found without importing it, and is configured
by environment variables alone. It sees the calls of the C library in forks and threads; it
does not see statically linked programs, C++ streams, streams made by `fdopen`, reads through
a mapping, or processes of fewer than three calls, which leave no log. The logs are read by
`formats.dftracer`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from tracekit.capture.tools.engine import Start
from tracekit.formats.base import Tally
from tracekit.formats.dftracer import DFTracerLogs

__all__ = ["DFTracerEngine", "DFTracerLog", "library"]


def library() -> Path | None:
    """Return the path of the preload library in the installed wheel, or None."""
    spec = importlib.util.find_spec("dftracer")
    for directory in (spec.submodule_search_locations if spec is not None else None) or ():
        for folder in ("lib64", "lib"):
            found = Path(directory, folder, "libdftracer_preload.so")
            if found.is_file():
                return found
    return None


class DFTracerEngine:
    """Runs a command under DFTracer's preload library."""

    name = "dftracer"
    below = ("files",)
    asks_for_faults = False
    detached = False

    def available(self) -> str | None:
        found = library()
        return None if found is None else str(found)

    def start(
        self,
        tool: str,
        command: Sequence[str],
        logs: Path,
        environ: Mapping[str, str],
        *,
        metadata: bool,
        memory: bool,
    ) -> Start:
        already = environ.get("LD_PRELOAD")
        return list(command), {
            "LD_PRELOAD": f"{tool}:{already}" if already else tool,
            "DFTRACER_ENABLE": "1",
            "DFTRACER_INIT": "PRELOAD",
            "DFTRACER_LOG_FILE": str(logs / "log"),
            "DFTRACER_DATA_DIR": "all",  # a filter would compare names as given, and miss relative ones
            "DFTRACER_INC_METADATA": "1",
            "DFTRACER_TIME_METRIC": "NS",
            # Plain text costs half as much as compression, and a killed process leaves all but its last MiB.
            # With 64 KiB, events of programs that start others by vfork are lost; with the default, a killed
            # process leaves nothing.
            "DFTRACER_TRACE_COMPRESSION": "0",
            "DFTRACER_WRITE_BUFFER_SIZE": "1048576",
        }

    @contextmanager
    def read(self, logs: Path) -> Iterator[DFTracerLog]:
        files = sorted(logs.glob("*.pfw"))
        if not files:
            yield DFTracerLog(None)
            return
        tally = Tally(logs)
        found = DFTracerLogs(files, tally, every_open=False)
        try:
            yield DFTracerLog(found, tally)
        finally:
            found.close()


class DFTracerLog:
    """The logs of one run; None if no process left any."""

    def __init__(self, logs: DFTracerLogs | None, tally: Tally | None = None) -> None:
        self._logs = logs
        self._tally = tally

    @property
    def mapped_files(self) -> set[str]:
        return self._logs.mapped_files if self._logs is not None else set()

    @property
    def read_bytes(self) -> int:
        return int(self._logs.read_bytes) if self._logs is not None else 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        if self._logs is not None:
            yield from self._logs.batches(
                "SELECT * EXCLUDE (number, epoch) REPLACE (coalesce(try_cast(regexp_extract(pid, '^[0-9]+') AS BIGINT), 0) AS pid,"
                " coalesce(try_cast(tid AS BIGINT), 0) AS tid) FROM ops ORDER BY t_submit"
            )

    def notes(self) -> Iterator[str]:
        if self._tally is not None:
            yield from self._tally.not_understood("DFTracer logs")
