"""Records the storage I/O of an unmodified command.

File I/O is recorded below the language, by our own preload library, DFTracer's, or strace. Object
clients are recorded by the Python hooks, which the command's Python processes install
themselves. When the command has ended, the logs are converted to one trace and removed. The
command keeps its standard streams, signals and exit code.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

from tracekit.capture.conversion import CaptureResult, convert
from tracekit.capture.counted import counted_bytes, moved_by_children
from tracekit.capture.engines import METHODS, choose_engine, why_another
from tracekit.capture.environment import environment, with_bootstrap
from tracekit.capture.faults.log import FOLDER, Follower
from tracekit.capture.faults.perf import reason_against
from tracekit.capture.filters import PathFilter
from tracekit.capture.job import WORK_PREFIX, Job, recoverable
from tracekit.capture.known import known_hooks
from tracekit.capture.launch import Led, adopts, check_command, proxied, proxied_schemes, run_child
from tracekit.capture.native import NativeEngine
from tracekit.capture.oplog import OpLog
from tracekit.capture.options import CAPTURE
from tracekit.capture.running import record_running, recover_running
from tracekit.capture.tools.engine import Engine
from tracekit.errors import UsageError
from tracekit.keywords import Flag, Size
from tracekit.long_options import KEEPING
from tracekit.redaction import redact, redact_value
from tracekit.store.locate import local_path
from tracekit.store.target import check_target
from tracekit.validation import parse_all

__all__ = ["METHODS", "CaptureResult", "capture_command"]


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
    sample_by: str = "file",
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
    every run chooses the same; the metrics estimate the whole from them. With `sample_by="stream"`, it is the share of the
    streams (rank and worker), drawn for each run. `keep` and `ship` are those of `tracekit.Recorder`;
    the trace is then written while the command runs, by the methods native and hooks. If recording takes more than
    the share `max_overhead` of a process's CPU time, that is said.

    With `proxy`, the command's environment leads its S3 clients, in any language, to a recording proxy on the loopback,
    as `tracekit.proxy` starts it, and its Azure clients to another one if the environment names an account; the requests are recorded there in place of the hooks. It sends them to the store that
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
            "sample_by": sample_by,
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
    if options["recover"]:
        return _recovered(command, target, **judging)
    check_target(target, overwrite=options["overwrite"])
    asked = known_hooks(hooks)
    engine, tool = choose_engine(method)
    kept = any(options[name] is not None for name in KEEPING)
    if kept and engine is not None and not isinstance(engine, NativeEngine):
        raise UsageError(
            f"keep= and ship= do not work with method={engine.name}", "use method=native or method=hooks"
        )
    check_command(command)
    target.parent.mkdir(parents=True, exist_ok=True)
    if kept:
        return record_running(command, target, asked, options, engine, tool)
    work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=target.parent))
    try:
        unfollowed = "" if engine is None else reason_against() if options["faults"] else "faults=False"
        sampled = PathFilter().sampled(options["sample_rate"], options["sample_by"])
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
            proxied_schemes() if options["proxy"] else (),
            unfollowed,
            options["sample_rate"],
            sampled.stream_salt,
            options["max_overhead"],
        )
        for folder in ("logs", "hooked", "proxied"):
            (work / folder).mkdir()
        job.save()
        argv, environ = list(command), _environment(work, asked, job.paths, engine, options["max_overhead"])
        if engine is not None:
            argv, more = engine.start(tool, command, work / "logs", os.environ, **job.recorded_kinds)
            environ |= more
        with (
            proxied(OpLog(work / "proxied", rank=job.rank), job.paths)
            if job.proxy
            else nullcontext(Led()) as led,
            closing(Follower(work / FOLDER, job.paths.admits, on_demand=engine.asks_for_faults))
            if engine is not None and not job.unfollowed
            else nullcontext(),
        ):
            adopting = adopts(engine)
            before = counted_bytes()
            exit_code = run_child(argv, {**os.environ, **environ, **led.environment}, adopting=adopting)
            after = counted_bytes(descendants=adopting)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    job.end()
    moved = moved_by_children(before, after)
    # If this fails (a full disk), the logs stay: recover=True converts them later.
    result = convert(job, exit_code, moved, **judging, proxy_ports=led.ports)
    return replace(result, notes=(*why_another(method, engine), *result.notes, *led.notes))


def _recovered(
    command: Sequence[str], target: Path, *, require_complete: float | None, overwrite: bool
) -> CaptureResult:
    """Make the trace from the logs that a killed capture left."""
    if command:
        raise UsageError("recover=True runs no command", "leave out what follows --")
    job = recoverable(target)
    if job.running is not None:
        return recover_running(job, require_complete)
    check_target(target, overwrite=overwrite)
    return convert(job, None, None, require_complete=require_complete, overwrite=overwrite)


def _environment(
    work: Path, hooks: tuple[str, ...], paths: PathFilter, engine: Engine | None, max_overhead: float
) -> dict[str, str]:
    below = engine.below if engine is not None else ()
    kept = hooks if engine is None else tuple(hook for hook in hooks if hook != "files")
    return {
        **environment(work / "hooks", kept, paths, below, work / "hooked", {"max_overhead": max_overhead}),
        **({} if engine is None else {"TRACEKIT_SCOPES": str(work / "scopes")}),
        "PYTHONPATH": with_bootstrap(os.environ.get("PYTHONPATH")),
    }
