"""DFTracer's preload library: how a command is run under it, and its logs as ops.

The library comes from the wheel `dftracer`, is found without importing it, and is told by
environment variables alone what to do. It sees the calls of the C library in forks and
threads; it does not see statically linked programs, C++ streams, streams made by `fdopen`,
reads through a mapping, or processes of fewer than three calls, which leave no log.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from tracekit.uri import from_path

__all__ = ["environment", "library", "read_logs"]

_BATCH_ROWS = 65_536
_NAMING = b'{"name":"FH"'
_NAME = re.compile(rb'"args":\{.*?"name":"(.*)","value":"([0-9a-f]+)"', re.DOTALL)


def library() -> Path | None:
    """The preload library of the installed wheel, or None."""
    spec = importlib.util.find_spec("dftracer")
    for directory in (spec.submodule_search_locations if spec is not None else None) or ():
        for folder in ("lib64", "lib"):
            found = Path(directory, folder, "libdftracer_preload.so")
            if found.is_file():
                return found
    return None


def environment(preload: Path, logs: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that have a command and its children log into the directory `logs`."""
    already = environ.get("LD_PRELOAD")
    return {
        "LD_PRELOAD": f"{preload}:{already}" if already else str(preload),
        "DFTRACER_ENABLE": "1",
        "DFTRACER_INIT": "PRELOAD",
        "DFTRACER_LOG_FILE": str(logs / "log"),
        "DFTRACER_DATA_DIR": "all",  # it compares names as they were given: relative ones would be lost
        "DFTRACER_INC_METADATA": "1",
        "DFTRACER_TIME_METRIC": "NS",
        # Plain text costs half of what compressing does, and a killed process leaves all but its last MiB.
        # (With 64 KiB, events of programs that start others by vfork were lost; with the default, a killed
        # process left nothing.)
        "DFTRACER_TRACE_COMPRESSION": "0",
        "DFTRACER_WRITE_BUFFER_SIZE": "1048576",
    }


def read_logs(
    logs: Path, spans: Path, admits: Callable[[str], bool], *, metadata: bool = False
) -> tuple[Iterator[pa.RecordBatch], dict[str, int]]:
    """The ops of every log in `logs` on the files that `admits` keeps, and what else is known.

    That is `mapped_files`, whose reads are not seen, and `read_bytes` of all files, kept or not.
    `t_submit` is ns since the Unix epoch. Rows of kind `stat` and `list` only with `metadata`. `spans` says which thread was busy with which sample.
    """
    files = sorted(str(path) for path in logs.glob("*.pfw"))
    if not files:
        return iter(()), {}
    con = duckdb.connect(config={"temp_directory": str(logs), "threads": os.cpu_count() or 1})
    statements = con.extract_statements(Path(__file__).with_name("dftracer.sql").read_text())
    spans.touch()
    given = {"logs": files, "spans": str(spans), "metadata": metadata}
    for statement in statements:
        if "CREATE TABLE calls" in statement.query:
            _add_names(con, files)
        if "CREATE TABLE placed" in statement.query:
            con.register("kept", _kept(con, admits))
        wanted = {name: value for name, value in given.items() if name in statement.named_parameters}
        con.execute(statement, wanted)
    mapped, read_bytes = con.execute("SELECT mapped, read_bytes FROM totals").fetchall()[0]
    batches: Iterator[pa.RecordBatch] = con.sql("FROM ops ORDER BY t_submit").to_arrow_reader(_BATCH_ROWS)
    return batches, {"mapped_files": mapped, "read_bytes": read_bytes}


def _add_names(con: duckdb.DuckDBPyConnection, files: list[str]) -> None:
    """Names that DFTracer wrote into lines that are no JSON: it escapes no quotes, and any byte is a name's."""
    lost = con.execute(
        "SELECT DISTINCT fhash FROM events WHERE fhash IS NOT NULL AND fhash NOT IN (SELECT fhash FROM names)"
    ).fetchall()
    if not lost:
        return
    wanted = {fhash for (fhash,) in lost}
    found: dict[str, str] = {}
    for file in files:
        with open(file, "rb") as lines:  # noqa: PTH123 - the names are strings by now
            for line in lines:
                named = _NAME.search(line) if line.startswith(_NAMING) else None
                if named is not None and named[2].decode() in wanted:
                    found[named[2].decode()] = named[1].decode("utf-8", "replace")
    if found:
        con.executemany("INSERT INTO names VALUES (?, ?)", [[fhash, name] for fhash, name in found.items()])


def _kept(con: duckdb.DuckDBPyConnection, admits: Callable[[str], bool]) -> pa.Table:
    """The files of the log that are kept, under their whole names."""
    verdicts: dict[str, bool] = {}
    columns: dict[str, list[object]] = {name: [] for name in ("pid", "fhash", "cwd", "child", "uri")}
    found = con.execute(
        "SELECT pid, fhash, cwd, child, cwd_name, file_name, child_name FROM files"
    ).fetchall()
    for pid, fhash, cwd, child, cwd_name, file_name, child_name in found:
        path = os.path.join(cwd_name or "/", file_name, child_name or "")
        uri = from_path(os.path.normpath(path))
        if uri not in verdicts:
            verdicts[uri] = not path.startswith(("pipe:", "socket:")) and admits(uri)
        if verdicts[uri]:
            for name, value in zip(columns, (pid, fhash, cwd, child, uri), strict=True):
                columns[name].append(value)
    types = {"pid": pa.int64()}
    return pa.table(
        {name: pa.array(values, types.get(name, pa.string())) for name, values in columns.items()}
    )
