"""The capture of this process and its children: the trace, the installed hooks, and their errors.

This module owns the recorder; hooks pass ops to it through `record`. A hook never makes its
host program fail: an error in a hook's own code is counted, logged once and swallowed here.
Neither the hooked libraries nor Arrow are imported before they are needed.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import thread_time_ns
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from tracekit.capture import context, imports
from tracekit.capture.context import where
from tracekit.capture.environment import environment, lines_of, with_bootstrap
from tracekit.capture.filters import PathFilter, paths_kept
from tracekit.capture.known import HOOKS, known_hooks
from tracekit.capture.oplog import OpLog
from tracekit.capture.overhead import EACH, Meter
from tracekit.errors import ErrorClass, UsageError
from tracekit.job import rank_and_world_size
from tracekit.long_options import LONG_RUNNING
from tracekit.validation import parse_all

if TYPE_CHECKING:
    from tracekit.keywords import Size
    from tracekit.recorder import Recorder

__all__ = [
    "Session",
    "active",
    "hook_failed",
    "join",
    "join_quietly",
    "record",
    "start",
    "stop",
]

_log = logging.getLogger("tracekit.capture")


@dataclass(eq=False, slots=True, weakref_slot=True)
class Session:
    """An active capture. As a context manager, it stops the capture on exit."""

    path: Path
    hooks: tuple[str, ...]
    paths: PathFilter
    below: frozenset[str] = frozenset()
    """Hooks that must not record because the layer is recorded from outside this process."""
    keeping: Mapping[str, Any] = field(default_factory=dict)
    """The recorder's options `keep` and `ship`."""
    logs: Path | None = None
    """The directory where `tracekit capture` collects ops from; None if this process writes segments of its own."""
    resolved: dict[int, tuple[int, int, str | None]] = field(default_factory=dict)
    """Descriptor -> (device, inode, URI). A cache: looking up a descriptor's name takes longer than a read."""
    meter: Meter = field(default_factory=lambda: Meter(1.0))
    calls: int = 0
    _verdicts: dict[str, str | None] = field(default_factory=dict)
    _streams: dict[int | None, bool] = field(default_factory=dict)
    _recorder: Recorder | OpLog | None = None
    _undo: list[Callable[[], None]] = field(default_factory=list)
    _environ: dict[str, str | None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def recorder(self) -> Recorder | OpLog:
        """The recorder. It is created with the first op, because most child processes record none."""
        if self._recorder is None:
            with self._lock:
                if self._recorder is None:
                    self._recorder = self._make_recorder()
        return self._recorder

    def name_of(self, hook: str) -> str | None:
        """The requested spelling of `hook`, such as `fsspec:both`, or None if it was not requested."""
        return next((spelling for spelling in self.hooks if spelling.partition(":")[0] == hook), None)

    def admitted(self, path: str) -> str | None:
        """The URI of the local file `path`, or None if the filters exclude it."""
        try:
            return self._verdicts[path]
        except KeyError:
            pass
        uri = f"file://{path}"
        return self._remember(path, uri if self.paths.admits(uri) else None)

    def admits(self, uri: str) -> bool:
        """Whether the filters keep ops on the object `uri`."""
        if uri not in self._verdicts:
            self._remember(uri, uri if self.paths.admits(uri) else None)
        return self._verdicts[uri] is not None

    def admits_stream(self, worker: int | None) -> bool:
        """Whether the ops of this worker of this process are kept."""
        verdict = self._streams.get(worker)
        if verdict is None:
            rank = rank_and_world_size()[0] or 0
            verdict = self._streams[worker] = self.paths.admits_stream(rank, worker or 0)
        return verdict

    def sees(self, hook: str) -> bool:
        """Whether `hook` records in this process, or its layer is recorded from outside."""
        return hook in self.below or self.name_of(hook) is not None

    def environment(self) -> dict[str, str]:
        """The environment variables with which another process joins this capture."""
        limits = {**self.keeping, "max_overhead": self.meter.most}
        return environment(self.path, self.hooks, self.paths, self.below, self.logs, limits)

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to the counter `name` of the trace. Never raises, because hooks call it from host code."""
        self.count_all({name: n})

    def count_all(self, numbers: Mapping[str, int]) -> None:
        """Add each of `numbers` to the counter of its name. Never raises."""
        try:
            self.recorder.count_all(numbers)
        except Exception as failure:  # noqa: BLE001 - the host's call must not fail
            hook_failed("recorder", failure)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _active is self:
            stop()

    def _remember(self, name: str, verdict: str | None) -> str | None:
        if len(self._verdicts) > 10_000:
            self._verdicts.clear()
        self._verdicts[name] = verdict
        return verdict

    def _make_recorder(self) -> Recorder | OpLog:
        rank, world_size = rank_and_world_size()
        if self.logs is not None:
            return OpLog(self.logs, rank=rank)
        from tracekit.recorder import Recorder

        return Recorder(
            self.path,
            source="capture",
            options={
                "hooks": list(self.hooks),
                "sample_rate": self.paths.sample_rate,
                "sample_by": self.paths.sample_by,
            },
            rank=rank,
            world_size=world_size,
            **self.keeping,
        )


def start(
    path: str | os.PathLike[str] | None = None,
    *,
    hooks: str | Sequence[str] = "auto",
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    sample_rate: float = 1.0,
    sample_by: str = "file",
    keep: Size | None = None,
    ship: str | None = None,
    max_overhead: float = 0.05,
    children: bool = True,
) -> Session:
    """Start to record the I/O that `hooks` see into the trace `path` (default: `TRACEKIT_TRACE`).

    `hooks` are names from `HOOKS`, or `"auto"` for all but `files`. The hook of a library that
    is not imported yet is installed when it is. `include` and `exclude` are globs over file
    paths and object URIs; `sample_rate` is the share of them, or of the streams (`sample_by="stream"`), that is recorded; `keep` and
    `ship` are those of `tracekit.Recorder`. If recording takes more than the share `max_overhead` of a process's CPU time,
    a warning is logged. Python processes that are started from now on join the trace unless
    `children` is false. The returned session is a context manager that calls `stop()`.

    Raises UsageError if a capture is already active, a hook is unknown, or no trace can be
    written to `path`.
    """
    if _active is not None:
        raise UsageError(f"already capturing into {_active.path}", "call tracekit.capture.stop() first")
    target = path if path is not None else os.environ.get("TRACEKIT_TRACE")
    if not target:
        raise UsageError("no trace to capture into", "pass a path, or set TRACEKIT_TRACE")
    path = Path(os.path.abspath(target))
    given = parse_all(
        LONG_RUNNING,
        {
            "sample_rate": sample_rate,
            "sample_by": sample_by,
            "keep": keep,
            "ship": ship,
            "max_overhead": max_overhead,
        },
    )
    paths = paths_kept(include, exclude, path, given)
    session = Session(
        path, known_hooks(hooks), paths, keeping=_kept(given), meter=Meter(given["max_overhead"])
    )
    _ = session.recorder  # raises here if the path cannot be written, instead of being swallowed later
    _begin(session)
    if children:
        _export_to_children(session)
    return session


def join(environ: Mapping[str, str] = os.environ) -> Session | None:
    """Join the capture that `TRACEKIT_TRACE` names, unless this process has joined one. For child processes."""
    target = environ.get("TRACEKIT_TRACE")
    if not target or _active is not None:
        return _active
    include, exclude = (lines_of(environ.get(name)) for name in ("TRACEKIT_INCLUDE", "TRACEKIT_EXCLUDE"))
    path = Path(os.path.abspath(target))
    given = parse_all(
        LONG_RUNNING,
        {name: value for name in LONG_RUNNING if (value := environ.get(f"TRACEKIT_{name.upper()}"))},
    )
    session = Session(
        path,
        known_hooks(environ.get("TRACEKIT_HOOKS") or "auto"),
        paths_kept(include, exclude, path, given, salt=environ.get("TRACEKIT_SAMPLE_SALT", "")),
        frozenset((environ.get("TRACEKIT_BELOW") or "").split(",")) - {""},
        _kept(given),
        Path(logs) if (logs := environ.get("TRACEKIT_OPLOGS")) else None,
        meter=Meter(given["max_overhead"]),
    )
    context.log_scopes(environ.get("TRACEKIT_SCOPES"))
    _begin(session)
    if os.environ.get("TRACEKIT_TRACE") == target != str(path):  # a child may have another working directory
        session._environ["TRACEKIT_TRACE"] = target
        os.environ["TRACEKIT_TRACE"] = str(path)
    return session


def join_quietly() -> None:
    """Call `join` at interpreter start-up, and log an error instead of raising it."""
    try:
        join()
    except Exception as error:  # noqa: BLE001 - the program must start anyway
        _log.warning("not capturing: %s", error)


def stop() -> None:
    """End the capture: remove the hooks and close the trace. Does nothing without an active capture.

    If the trace cannot be written (a full disk), the error is logged, not raised.
    """
    global _active
    session, _active = _active, None
    if session is None:
        return
    imports.forget()
    context.log_scopes(None)
    for undo in reversed(session._undo):
        undo()
    for name, value in session._environ.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if session._recorder is not None:
        try:
            session._recorder.close()
        except Exception as error:  # noqa: BLE001 - the host program must not fail
            hook_failed("recorder", error)
    _reported.clear()


def active() -> Session | None:
    """The active capture of this process, or None."""
    return _active


def record(
    uri: str,
    offset: int | None,
    length: int | None,
    t_submit: int,
    latency: int | None,
    op: str = "read",
    moved: int | None = None,
    ttfb: int | None = None,
    error: ErrorClass | None = None,
    at: tuple[int | None, int | None] | None = None,
    part: int | None = None,
    to_uri: str | None = None,
) -> None:
    """Record one op if a capture is active. Never raises, because hooks call it from host code.

    Times are ns, sizes bytes. `at` is the (sample_id, step) of an op that began in another
    context; by default they come from the current context.
    """
    session = _active
    if session is None or not (uri.startswith("file://") or session.admits(uri)):
        return
    if session.paths.stream_salt and not session.admits_stream(context._worker):
        return
    try:
        sample_id, step = where() if at is None else at
        # This may miss one where threads race: it decides which call is timed.
        session.calls = calls = session.calls + 1
        began = 0 if calls % EACH else thread_time_ns()
        (session._recorder or session.recorder).record(
            uri,
            offset,
            length,
            t_submit,
            latency,
            op=op,
            bytes=moved,
            ttfb=ttfb,
            sample_id=sample_id,
            step=step,
            worker=context._worker,
            part=part,
            to_uri=to_uri,
            error=error,
        )
        if began:
            session.meter.add(session.recorder, began)
    except Exception as failure:  # noqa: BLE001 - the host's call must not fail
        hook_failed("recorder", failure)


def hook_failed(hook: str, error: BaseException) -> None:
    """Count an error in a hook's own code, and log the first one of each hook."""
    if hook not in _reported:
        _reported.add(hook)
        _log.warning(
            "hook %s: %s: %s (further errors are counted, not logged)", hook, type(error).__name__, error
        )
    session = _active
    if session is None or (hook == "recorder" and session._recorder is None):
        return
    try:
        session.recorder.count(f"hook_errors.{hook}")
    except Exception:  # noqa: BLE001 - the recorder itself has failed
        _reported.add("recorder")


_active: Session | None = None
_reported: set[str] = set()


def _begin(session: Session) -> None:
    global _active
    _active = session
    for spelling in session.hooks:
        name = spelling.partition(":")[0]
        for library, function in HOOKS[name] if name not in session.below else ():
            imports.when_imported(library, _installer(session, name, function))


def _installer(session: Session, name: str, function: str) -> Callable[[ModuleType], None]:
    def install(library: ModuleType) -> None:
        try:
            hook = importlib.import_module(f"tracekit.capture.hooks.{name}")
            session._undo.append(getattr(hook, function)(library))
        except Exception as error:  # noqa: BLE001 - an unsupported version of a library is not recorded
            hook_failed(name, error)

    return install


def _kept(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("keep", "ship")}


def _export_to_children(session: Session) -> None:
    variables = {**session.environment(), "PYTHONPATH": with_bootstrap(os.environ.get("PYTHONPATH"))}
    session._environ = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)


def _after_fork_in_child() -> None:
    if _active is not None:
        _active._lock = threading.Lock()
        if isinstance(_active._recorder, OpLog):
            _active._recorder.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
