"""Records the storage I/O of an unmodified command.

File I/O is recorded below the language, by DFTracer's preload library or by strace. Object
clients are recorded by the Python hooks, which the command's Python processes install
themselves. When the command has ended, the logs are converted to one trace and removed. The
command keeps its standard streams, signals and exit code.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.capture.filters import PathFilter
from tracekit.capture.session import environment, known_hooks, with_bootstrap
from tracekit.capture.tools import dftracer as preload
from tracekit.capture.tools import strace
from tracekit.errors import UsageError
from tracekit.formats.base import Tally
from tracekit.formats.dftracer import DFTracerLogs
from tracekit.formats.syscalls.strace import StraceLog
from tracekit.redaction import redact, redact_value
from tracekit.sql import load_sql
from tracekit.store.locate import literal, local_path
from tracekit.store.reader import open_reader
from tracekit.store.target import check_target
from tracekit.store.writer import TraceWriter
from tracekit.units import format_size

__all__ = ["METHODS", "CaptureResult", "capture_command"]

METHODS = ("auto", "dftracer", "strace", "hooks")
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH)
_MISSED_BYTES = 4 * 1024 * 1024
"""Fewer unrecorded bytes than this are those of the dynamic loader and the interpreter."""
_FROM_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


@dataclass(frozen=True, slots=True)
class CaptureResult:
    """The exit code of the command (128 + N if signal N ended it), and what was recorded."""

    path: Path
    exit_code: int
    method: str
    ops: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def capture_command(
    command: Sequence[str],
    out: str | os.PathLike[str],
    *,
    method: str = "auto",
    hooks: str | Sequence[str] = "auto",
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    metadata: bool = False,
    overwrite: bool = False,
) -> CaptureResult:
    """Run `command` and record its storage I/O in the trace `out`, whatever its exit code.

    `method` selects what records file I/O: `dftracer`, `strace`, the better of the installed
    ones (`auto`), or neither (`hooks`). `hooks` are installed by the Python processes of the
    command, as by `tracekit.capture.start`. `include` and `exclude` are globs over file paths
    and object URIs; without `include`, files of the system and the interpreter are left out.
    `metadata` also keeps `stat` and `list` ops, of which a Python program makes thousands at
    its start.

    Raises UsageError if the command or the method does not exist, or `out` exists.
    """
    target = Path(os.path.abspath(local_path(out)))
    check_target(target, overwrite=overwrite)
    asked = known_hooks(hooks)
    chosen, tool = _tool(method)
    if not command or shutil.which(command[0]) is None:
        exists = bool(command) and Path(command[0]).is_file()
        problem = "is not executable (chmod +x)" if exists else "was not found"
        raise UsageError(f"command {command[0] if command else ''!r} {problem}", "pass it after --")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".tracekit-capture-", dir=target.parent))
    try:
        paths = PathFilter(tuple(include), (*exclude, f"{work}/", f"{target}/"))
        logs = work / "logs"
        logs.mkdir()
        environ = _environment(work, asked, paths, chosen)
        argv = list(command)
        if chosen == "dftracer":
            environ |= preload.environment(Path(tool), logs, os.environ)
        elif chosen == "strace":
            argv = strace.command(tool, logs / "log", command)
        before = _bytes_read()
        exit_code = _run(argv, {**os.environ, **environ})
        read = _bytes_read() - before
        options = {
            "command": redact(" ".join(redact_value(command))), "method": chosen, "exit_code": exit_code, "metadata": metadata,
            "include": list(paths.include), "exclude": list(paths.exclude[:-2]),
        }  # fmt: skip
        with TraceWriter(target, source="capture", overwrite=overwrite, options=options) as writer:
            unseen, notes = _write(writer, work, chosen, paths, metadata)
            ops = writer.rows
        return CaptureResult(target, exit_code, chosen, ops, (*_notes(ops, chosen, unseen, read), *notes))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _tool(method: str) -> tuple[str, str]:
    """The method to use, and the path of its library or program."""
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}", f"the methods are {', '.join(METHODS)}")
    library = preload.library() if method in ("auto", "dftracer") else None
    program = strace.available() if method == "strace" or (method == "auto" and library is None) else None
    if method == "hooks":
        return "hooks", ""
    if library is not None:
        return "dftracer", str(library)
    if program is not None:
        return "strace", program
    hints = {
        "dftracer": "pip install 'tracekit[capture]', or use method=strace",
        "strace": "install strace, or use method=dftracer",
        "auto": "pip install 'tracekit[capture]' or install strace; method=hooks records Python's object clients only",
    }
    raise UsageError("neither DFTracer nor strace is installed to record file I/O", hints[method])


def _environment(work: Path, hooks: tuple[str, ...], paths: PathFilter, method: str) -> dict[str, str]:
    below = {"hooks": (), "dftracer": ("files",), "strace": ("files", "numpy")}[method]
    kept = hooks if method == "hooks" else tuple(hook for hook in hooks if hook != "files")
    return {
        **environment(work / "hooks", kept, paths, below),
        "TRACEKIT_SCOPES": str(work / "scopes"),
        "PYTHONPATH": with_bootstrap(os.environ.get("PYTHONPATH")),
    }


def _run(argv: list[str], environ: Mapping[str, str]) -> int:
    """Run the command and return its exit code, forwarding signals that it does not get from the terminal."""
    with _relayed() as relay:
        try:
            child = subprocess.Popen(argv, env=environ)
        except OSError as error:
            raise UsageError(
                f"cannot run command {argv[0]!r}: {error.strerror}", "pass a program after --"
            ) from error
        relay(child)
        code = child.wait()
    return 128 - code if code < 0 else code


@contextmanager
def _relayed() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    running: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        if not running:
            early.append(number)
        elif not (number in _FROM_THE_TERMINAL and _at_terminal()):
            running[0].send_signal(number)

    def relay(child: subprocess.Popen[bytes]) -> None:
        running.append(child)
        for number in early:
            child.send_signal(number)

    try:
        before = {number: signal.signal(number, forward) for number in (*_FORWARDED, *_FROM_THE_TERMINAL)}
    except ValueError:  # not the main thread, which alone may set handlers
        before = {}
    try:
        yield relay
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _at_terminal() -> bool:
    """Whether Ctrl-C at the terminal reaches this process group, and with it the command."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _write(
    writer: TraceWriter, work: Path, method: str, paths: PathFilter, metadata: bool
) -> tuple[dict[str, int], list[str]]:
    """Write all logs into one trace; return the counts of what was not recorded, and notes."""
    unseen: dict[str, int] = {}
    notes: list[str] = []
    logs = work / "logs"
    files = sorted(logs.glob("*.pfw"))
    if method == "dftracer" and files:
        with closing(DFTracerLogs(files, Tally(logs), every_open=False)) as traced:
            _place(traced, work / "scopes")
            ordered = traced.batches("FROM scoped ORDER BY t_submit")
            for batch in _kept(ordered, paths.admits, metadata):
                writer.write(batch)
            unseen["mapped_files"] = sum(map(paths.admits, traced.mapped_files))
            unseen["read_bytes"] = traced.read_bytes
    elif method == "strace" and (logs / "log").is_file():
        tally = Tally(logs / "log")
        log = StraceLog(tally, every_open=False, inherited_streams=False)
        for batch in _kept(log.batches(logs / "log"), paths.admits, metadata):
            writer.write(batch)
        unseen["mapped_files"] = sum(map(paths.admits, log.mapped_files))
        notes += log.not_recorded()
        if tally.skipped:
            notes.append(
                f"{tally.skipped} lines of the strace log were not understood, the first: {tally.examples[0]}"
            )
    _add_hooked(writer, work / "hooks")
    writer.count("mapped_files", unseen.get("mapped_files", 0))
    if not writer.rows:
        writer.count("ops_recorded", 0)
    return unseen, notes


def _place(logs: DFTracerLogs, scopes: Path) -> None:
    """Make the view `scoped`: the ops with the samples, steps and streams that the hooks noted."""
    scopes.touch()
    con = logs.connection
    for step in con.extract_statements(load_sql("tracekit.capture", "scopes")):
        con.execute(step, {"scopes": literal(scopes)} if "scopes" in step.named_parameters else {})


def _kept(
    batches: Iterable[pa.RecordBatch], admits: Callable[[str], bool], metadata: bool
) -> Iterator[pa.RecordBatch]:
    """Yield the ops on files that `admits` keeps; `stat` and `list` ops only with `metadata`."""
    verdicts: dict[str, bool] = {}
    for batch in batches:
        uris, ops = _coded(batch.column("uri")), _coded(batch.column("op"))
        for uri in uris.dictionary.to_pylist():
            if uri not in verdicts:
                verdicts[uri] = admits(uri)
        keep = pa.array([verdicts[uri] for uri in uris.dictionary.to_pylist()], pa.bool_()).take(uris.indices)
        if not metadata:
            wanted = [kind not in ("stat", "list") for kind in ops.dictionary.to_pylist()]
            keep = pc.and_(keep, pa.array(wanted, pa.bool_()).take(ops.indices))
        yield batch.filter(keep)


def _coded(column: pa.Array) -> pa.DictionaryArray:
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()


def _add_hooked(writer: TraceWriter, hooked: Path) -> None:
    """Add the ops that hooks recorded in the command's Python processes, on the wall clock."""
    if not hooked.is_dir() or not any(hooked.iterdir()):
        return
    reader = open_reader(hooked)
    for batch in reader.batches(ordered=False):
        at = batch.schema.get_field_index("t_submit")
        times = pc.add(batch.column(at), pa.scalar(reader.epoch_unix_ns or 0, pa.int64()))
        writer.write(batch.set_column(at, batch.schema.field(at), times))
    for name, number in reader.counters.items():
        writer.count(name, number)


def _bytes_read() -> int:
    """Bytes read by system calls of this process and of every child that it has waited for."""
    try:
        return int(Path("/proc/self/io").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _notes(ops: int, method: str, unseen: Mapping[str, int], read: int) -> Iterator[str]:
    if not ops:
        yield "no storage I/O was recorded; files of the system and the interpreter need include="
    if unseen.get("mapped_files"):
        yield f"files mapped into memory: {unseen['mapped_files']}; reads through a mapping are not recorded"
    missed = read - unseen.get("read_bytes", 0)
    if method == "dftracer" and missed > max(_MISSED_BYTES, read // 20):
        yield (
            f"the command read {format_size(read)}, of which {format_size(missed)} are not in the trace: DFTracer"
            " does not record C++ streams, fdopen, dup, pipes, static programs, killed processes and what"
            " precedes an exec; method=strace does"
        )
