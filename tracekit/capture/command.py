"""Records the storage I/O of an unmodified command.

File I/O is recorded below the language, by our own preload library, DFTracer's, or strace. Object
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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.capture.completeness import Completeness, counted_bytes, judge, judge_reads
from tracekit.capture.filters import PathFilter
from tracekit.capture.native import NativeEngine, missing
from tracekit.capture.native.logs import NativeLogs
from tracekit.capture.oplog import read_oplog
from tracekit.capture.scopes import Scopes, hooked_processes
from tracekit.capture.session import environment, known_hooks, with_bootstrap
from tracekit.capture.tools.dftracer import DFTracerEngine, DFTracerLog
from tracekit.capture.tools.engine import Engine, Log
from tracekit.capture.tools.strace import StraceEngine
from tracekit.errors import UsageError
from tracekit.redaction import redact, redact_value
from tracekit.store.flat import flat_to_fitting_batch
from tracekit.store.locate import local_path
from tracekit.store.target import check_target
from tracekit.store.writer import TraceWriter

__all__ = ["METHODS", "CaptureResult", "capture_command"]

_ENGINES: tuple[Engine, ...] = (NativeEngine(), DFTracerEngine(), StraceEngine())
"""Best first: `auto` takes the first that is available."""
METHODS = ("auto", *(engine.name for engine in _ENGINES), "hooks")
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH)
_FROM_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


@dataclass(frozen=True, slots=True)
class CaptureResult:
    """The exit code of the command (128 + N if signal N ended it), and what was recorded."""

    path: Path
    exit_code: int
    method: str
    ops: int
    notes: tuple[str, ...]
    completeness: Completeness | None = None
    """What the capture saw of the bytes that the command moved; None under engines that cannot tell."""
    complete: bool = True
    """False if `require_complete` was given and is not known to be reached."""

    def to_dict(self) -> dict[str, Any]:
        kept = None if self.completeness is None else self.completeness.to_dict()
        return {**asdict(self), "path": str(self.path), "completeness": kept}


def capture_command(
    command: Sequence[str],
    out: str | os.PathLike[str],
    *,
    method: str = "auto",
    hooks: str | Sequence[str] = "auto",
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    metadata: bool = False,
    require_complete: float | None = None,
    overwrite: bool = False,
) -> CaptureResult:
    """Run `command` and record its storage I/O in the trace `out`, whatever its exit code.

    `method` selects what records file I/O: `native` (our preload library), `dftracer`, `strace`,
    the first of them that is available (`auto`), or nothing (`hooks`). `hooks` are installed by the
    Python processes of the command, as by `tracekit.capture.start`. `include` and `exclude` are globs
    over file paths and object URIs; without `include`, files of the system and the interpreter are
    left out.
    `metadata` also keeps `stat` and `list` ops, of which a Python program makes thousands at
    its start. `require_complete` is the share (0 to 1) of the bytes moved that must be known to be
    recorded; otherwise `complete` of the result is false.

    Raises UsageError if the command or the method does not exist, or `out` exists.
    """
    target = Path(os.path.abspath(local_path(out)))
    check_target(target, overwrite=overwrite)
    asked = known_hooks(hooks)
    if require_complete is not None and not 0 <= require_complete <= 1:
        raise UsageError(
            f"require_complete={require_complete} is not a share", "give a number from 0 to 1, such as 0.99"
        )
    engine, tool = _engine(method)
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
        (work / "hooked").mkdir()
        argv, environ = list(command), _environment(work, asked, paths, engine)
        if engine is not None:
            argv, more = engine.start(tool, command, logs, os.environ, metadata=metadata)
            environ |= more
        before = counted_bytes()
        exit_code = _run(argv, {**os.environ, **environ})
        moved = _difference(counted_bytes(), before)
        chosen = engine.name if engine is not None else "hooks"
        options = {
            "command": redact(" ".join(redact_value(command))), "method": chosen, "exit_code": exit_code, "metadata": metadata,
            "include": list(paths.include), "exclude": list(paths.exclude[:-2]),
        }  # fmt: skip
        with TraceWriter(target, source="capture", overwrite=overwrite, options=options) as writer:
            completeness, notes = _write(writer, work, engine, paths, metadata, moved)
            ops = writer.rows
        if not ops:
            notes.insert(
                0, "no storage I/O was recorded; files of the system and the interpreter need include="
            )
        enough = require_complete is None or (
            completeness is not None and completeness.reaches(require_complete)
        )
        if not enough:
            notes.append(
                f"the capture is not known to be complete: require_complete={require_complete} is not reached"
            )
        return CaptureResult(target, exit_code, chosen, ops, tuple(notes), completeness, enough)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _engine(method: str) -> tuple[Engine | None, str]:
    """The engine to use, and the path of its library or program; None for hooks alone."""
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}", f"the methods are {', '.join(METHODS)}")
    if method == "hooks":
        return None, ""
    for engine in _ENGINES:
        if method in ("auto", engine.name) and (tool := engine.available()) is not None:
            return engine, tool
    hints = {
        "native": f"{missing()}; or use method=strace",
        "dftracer": "pip install 'tracekit[capture]', or use method=native",
        "strace": "install strace, or use method=native",
        "auto": "install gcc, strace or 'tracekit[capture]'; method=hooks records Python's object clients only",
    }
    what = "no engine" if method == "auto" else f"the engine {method!r}"
    raise UsageError(
        f"{what} is {'installed' if method == 'auto' else 'not installed'} to record file I/O", hints[method]
    )


def _environment(
    work: Path, hooks: tuple[str, ...], paths: PathFilter, engine: Engine | None
) -> dict[str, str]:
    below = engine.below if engine is not None else ()
    kept = hooks if engine is None else tuple(hook for hook in hooks if hook != "files")
    return {
        **environment(work / "hooks", kept, paths, below, work / "hooked"),
        "TRACEKIT_SCOPES": str(work / "scopes"),
        "PYTHONPATH": with_bootstrap(os.environ.get("PYTHONPATH")),
    }


def _difference(after: tuple[int, int], before: tuple[int, int]) -> tuple[int, int]:
    return after[0] - before[0], after[1] - before[1]


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
    writer: TraceWriter,
    work: Path,
    engine: Engine | None,
    paths: PathFilter,
    metadata: bool,
    moved: tuple[int, int],
) -> tuple[Completeness | None, list[str]]:
    """Write all logs into one trace; return how complete they are, and notes."""
    objects = _add_hooked(writer, work / "hooked")
    notes: list[str] = []
    completeness = None
    if engine is not None:
        with engine.read(work / "logs") as log:
            kept = _add_recorded(writer, log, work / "scopes", paths, metadata)
            mapped = sum(map(paths.admits, log.mapped_files))
            writer.count("mapped_files", mapped)
            notes += log.notes()
            if isinstance(log, NativeLogs):
                hooked = hooked_processes(work / "scopes")
                completeness = judge(
                    log.processes, moved, kept, mapped_files=mapped, object_bytes=objects, hooked=hooked
                )
            elif isinstance(log, DFTracerLog):
                completeness = judge_reads(log.read_bytes, moved, mapped_files=mapped)
            elif mapped:
                notes.append(f"files mapped into memory: {mapped}; reads through a mapping are not recorded")
    if completeness is not None:
        writer.describe(completeness=completeness.to_dict())
        notes += completeness.notes()
    if not writer.rows:
        writer.count("ops_recorded", 0)
    return completeness, notes


def _add_recorded(
    writer: TraceWriter, log: Log, scopes: Path, paths: PathFilter, metadata: bool
) -> tuple[int, int]:
    """Write the ops of an engine's log that the filters keep; return the bytes that they read and wrote."""
    threads = log.threads()
    placed = Scopes(scopes, threads) if threads else None
    read = written = 0
    for batch in _kept(log.batches(), paths.admits, metadata):
        writer.write(batch if placed is None else placed.place(batch))
        reads = pc.equal(pc.cast(batch.column("op"), pa.string()), "read")
        read += pc.sum(batch.filter(reads).column("bytes")).as_py() or 0
        written += pc.sum(batch.filter(pc.invert(reads)).column("bytes")).as_py() or 0
    return read, written


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


def _add_hooked(writer: TraceWriter, hooked: Path) -> int:
    """Add the ops that hooks recorded in the command's Python processes; return the bytes of objects."""
    moved = 0
    for log in sorted(hooked.glob("*.ops")):
        for part in read_oplog(log):
            batch, misfit = flat_to_fitting_batch(
                part.values, epoch_mono_ns=-part.clock_offset, rank=part.rank, worker=0
            )
            writer.write(batch)
            if misfit is not None:
                writer.count("hook_errors.recorder")
            local = pc.starts_with(pc.cast(batch.column("uri"), pa.string()), "file://")
            moved += pc.sum(batch.filter(pc.invert(local)).column("bytes")).as_py() or 0
            for name, number in part.counters.items():
                writer.count(name, number)
    return moved
