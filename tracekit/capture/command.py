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
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from tracekit.capture.completeness import counted_bytes, moved_by_children
from tracekit.capture.conversion import WORK_PREFIX, CaptureResult, Job, convert, recoverable
from tracekit.capture.engines import METHODS, choose_engine
from tracekit.capture.environment import environment, with_bootstrap
from tracekit.capture.faults.log import FOLDER, Follower
from tracekit.capture.faults.perf import reason_against
from tracekit.capture.filters import PathFilter
from tracekit.capture.oplog import OpLog
from tracekit.capture.options import CAPTURE, PROXY
from tracekit.capture.session import known_hooks, paths_kept
from tracekit.capture.tools.engine import Engine
from tracekit.errors import UsageError
from tracekit.keywords import Flag, Size
from tracekit.long_options import KEEPING
from tracekit.recorder import Recorder
from tracekit.redaction import redact, redact_value
from tracekit.store.locate import local_path
from tracekit.store.reader import open_reader
from tracekit.store.target import check_target, claiming
from tracekit.units import format_count
from tracekit.validation import parse_all

__all__ = ["METHODS", "CaptureResult", "capture_command"]

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH)
_FROM_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


def capture_command(
    command: Sequence[str],
    out: str | os.PathLike[str],
    *,
    method: str = "auto",
    hooks: str | Sequence[str] = "auto",
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    metadata: Flag = False,
    faults: Flag = True,
    sample_rate: float = 1.0,
    keep: Size | None = None,
    ship: str | None = None,
    max_overhead: float = 0.05,
    require_complete: float | None = None,
    proxy: Flag = False,
    recover: Flag = False,
    overwrite: Flag = False,
) -> CaptureResult:
    """Run `command` and record its storage I/O in the trace `out`, whatever its exit code.

    `method` selects what records file I/O: `native` (our preload library), `dftracer`, `strace`,
    the first of them that is available (`auto`), or nothing (`hooks`). `hooks` are installed by the
    Python processes of the command, as by `tracekit.capture.start`. `include` and `exclude` are globs
    over file paths and object URIs; without `include`, files of the system and the interpreter are
    left out. `metadata` also keeps `stat` and `list` ops, of which a Python program makes thousands at
    its start. `require_complete` is the share (0 to 1) of the bytes moved that must be known to be
    recorded; otherwise `complete` of the result is false.

    With `faults`, the first touches of the pages of mapped files are reads too (column `fault`), where the kernel tells
    page faults; `method="hooks"` leaves them out.

    `sample_rate` is the share of the files and objects that is recorded. A hash of the URI chooses them, so every process and
    every run chooses the same; the metrics estimate the whole from them. `keep` and `ship` are those of `tracekit.Recorder`.
    They need `method="hooks"`: the processes of the command then write the trace while they run. If the hooks take more than
    the share `max_overhead` of a process's CPU time, it logs a warning.

    With `proxy`, the command's environment leads its S3 clients, in any language, to a recording proxy on the loopback,
    as `tracekit.proxy` starts it; the requests are recorded there in place of the hooks. It sends them to the store that
    the user's environment or profile names. Clients that are given an endpoint of their own are not reached.

    With `recover`, no command is run (`command` is empty): the logs that a killed capture into `out`
    left beside it become the trace.

    Raises UsageError if the command or the method does not exist, or `out` exists.
    """
    options = parse_all(
        CAPTURE,
        {
            "include": include,
            "exclude": exclude,
            "metadata": metadata,
            "faults": faults,
            "proxy": proxy,
            "sample_rate": sample_rate,
            "keep": keep,
            "ship": ship,
            "max_overhead": max_overhead,
            "require_complete": require_complete,
            "recover": recover,
            "overwrite": overwrite,
        },
    )
    judging = {name: options[name] for name in ("require_complete", "overwrite")}
    target = Path(os.path.abspath(local_path(out)))
    check_target(target, overwrite=options["overwrite"])
    if options["recover"]:
        if command:
            raise UsageError("recover=True runs no command", "leave out what follows --")
        return convert(recoverable(target), None, None, **judging)
    asked = known_hooks(hooks)
    kept = {name: options[name] for name in KEEPING}
    if any(value is not None for value in kept.values()):
        if method != "hooks":
            raise UsageError(
                "keep= and ship= need method=hooks",
                "what other methods record becomes a trace when the command has ended",
            )
        _check_command(command)
        return _run_recording(command, target, asked, options, kept)
    engine, tool = choose_engine(method)
    _check_command(command)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=target.parent))
    try:
        unfollowed = "" if engine is None else reason_against() if options["faults"] else "faults=False"
        job = Job(
            work,
            target,
            os.getpid(),
            redact(" ".join(redact_value(command))),
            engine.name if engine is not None else "hooks",
            options["include"],
            options["exclude"],
            options["metadata"],
            options["proxy"],
            unfollowed,
            options["sample_rate"],
        )
        for folder in ("logs", "hooked", "proxied"):
            (work / folder).mkdir()
        job.save()
        argv, environ = list(command), _environment(work, asked, job.paths, engine, options["max_overhead"])
        if engine is not None:
            argv, more = engine.start(tool, command, work / "logs", os.environ, metadata=job.metadata)
            environ |= more
        with (
            _proxied(OpLog(work / "proxied"), job.paths) if job.proxy else nullcontext(_Led()) as led,
            closing(Follower(work / FOLDER, job.paths.admits, on_demand=engine.asks_for_faults))
            if engine is not None and not job.unfollowed
            else nullcontext(),
        ):
            before = counted_bytes()
            exit_code = _run(argv, {**os.environ, **environ, **led.environment})
            after = counted_bytes()
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    job.end()
    moved = moved_by_children(before, after)
    # If this fails (a full disk), the logs stay: recover=True converts them later.
    result = convert(job, exit_code, moved, **judging)
    return replace(result, notes=(*result.notes, *led.notes))


def _run_recording(
    command: Sequence[str],
    target: Path,
    hooks: tuple[str, ...],
    options: Mapping[str, Any],
    kept: Mapping[str, Any],
) -> CaptureResult:
    """Run the command; its Python processes write the trace themselves, segment by segment."""
    paths = paths_kept(options["include"], options["exclude"], target, options)
    hooked = replace(paths, exclude=(*paths.exclude, "s3://*")) if options["proxy"] else paths
    described = {
        "command": redact(" ".join(redact_value(command))),
        "method": "hooks",
        "hooks": list(hooks),
        **{name: list(options[name]) for name in ("include", "exclude")},
        "sample_rate": options["sample_rate"],
    }
    with claiming(target, overwrite=options["overwrite"]):
        recorder = Recorder(target, source="capture", options=described, **kept)
    recorder.count("ops_recorded", 0)
    environ = {
        **environment(target, hooks, hooked, limits={**kept, "max_overhead": options["max_overhead"]}),
        "PYTHONPATH": with_bootstrap(os.environ.get("PYTHONPATH")),
    }
    try:
        with _proxied(recorder, paths) if options["proxy"] else nullcontext(_Led()) as led:
            exit_code = _run(list(command), {**os.environ, **environ, **led.environment})
    finally:
        recorder.close()
    found = open_reader(target)
    notes = [*led.notes, "completeness: unknown, because hooks alone count no bytes of the command"]
    if found.removed_ops:
        notes.append(f"{format_count(found.removed_ops)} older ops were removed to keep the trace small")
    enough = options["require_complete"] is None
    return CaptureResult(target, exit_code, "hooks", found.rows, tuple(notes), None, enough)


@dataclass(slots=True)
class _Led:
    """How the command is led to the proxy, and what its user should know."""

    environment: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@contextmanager
def _proxied(sink: Recorder | OpLog, paths: PathFilter) -> Iterator[_Led]:
    """Run the recording proxy, which records what `paths` keep into `sink`."""
    from tracekit.capture.proxy.run import RunningProxy, settings_of

    running = RunningProxy(settings_of(parse_all(PROXY, {})), sink, paths)
    led = _Led(running.environment())
    if running.unsigned_because:
        led.notes.append(f"proxy: requests were passed on as they were signed: {running.unsigned_because}")
    try:
        yield led
    finally:
        running.close()
        seen = running.exchanges
        led.notes.append(
            f"proxy: {format_count(seen.requests)} requests were passed on to {running.upstream}"
        )
        if seen.lost:
            led.notes.append(f"proxy: {format_count(seen.lost)} requests were not recorded: {seen.failure}")


def _check_command(command: Sequence[str]) -> None:
    if not command or shutil.which(command[0]) is None:
        exists = bool(command) and Path(command[0]).is_file()
        problem = "is not executable (chmod +x)" if exists else "was not found"
        raise UsageError(f"command {command[0] if command else ''!r} {problem}", "pass it after --")


def _environment(
    work: Path, hooks: tuple[str, ...], paths: PathFilter, engine: Engine | None, max_overhead: float
) -> dict[str, str]:
    below = engine.below if engine is not None else ()
    kept = hooks if engine is None else tuple(hook for hook in hooks if hook != "files")
    return {
        **environment(work / "hooks", kept, paths, below, work / "hooked", {"max_overhead": max_overhead}),
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
