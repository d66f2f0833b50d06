"""One capture of this process and its children: which trace, which hooks, and where errors end.

The only place that holds the recorder; hooks hand it facts through `record`. A hook never
makes its host fail: whatever goes wrong in a hook's own code is counted, logged once and
swallowed here. Nothing of the hooked libraries, nor Arrow, is imported before it is needed.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

from tracekit.capture import context, imports
from tracekit.capture.context import where
from tracekit.capture.filters import PathFilter
from tracekit.errors import UsageError

if TYPE_CHECKING:
    from tracekit.recorder import Recorder

__all__ = [
    "AUTO",
    "HOOKS",
    "Session",
    "active",
    "environment",
    "hook_failed",
    "join",
    "join_quietly",
    "known_hooks",
    "record",
    "start",
    "stop",
    "with_bootstrap",
]

_log = logging.getLogger("tracekit.capture")

HOOKS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "files": (("builtins", "install"),),
    "numpy": (("numpy", "install"),),
    "fsspec": (("fsspec", "install"),),
    "botocore": (("botocore.client", "install"), ("aiobotocore.client", "install_async")),
    "azure": (
        ("azure.storage.blob._shared.base_client", "install"),
        ("azure.storage.blob._shared.base_client_async", "install"),
    ),
    "obstore": (("obstore", "install"),),
    "s3torch": (("s3torchconnector", "install"),),
    "torch": (("torch.utils.data", "install"),),
}
"""Hook -> what it waits for: a library's module, and the function of `tracekit.capture.hooks.HOOK` to call with it."""

AUTO = tuple(name for name in HOOKS if name != "files")
"""What `hooks="auto"` means. The patch of `open` and `os.pread` is for those who name it."""

_BOOTSTRAP = str(Path(__file__).parent / "bootstrap")


@dataclass(eq=False, slots=True)
class Session:
    """A capture under way; a context manager that stops it."""

    path: Path
    hooks: tuple[str, ...]
    paths: PathFilter
    below: frozenset[str] = frozenset()
    """Hooks whose layer is seen from outside this process (`tracekit capture` sees files)."""
    resolved: dict[int, tuple[int, int, str | None]] = field(default_factory=dict)
    """Device, inode and URI of descriptors: asking the kernel for the name of one takes longer than a read."""
    _verdicts: dict[str, str | None] = field(default_factory=dict)
    _recorder: Recorder | None = None
    _undo: list[Callable[[], None]] = field(default_factory=list)
    _environ: dict[str, str | None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def recorder(self) -> Recorder:
        """The recorder, made when the first op comes: most child processes never do any."""
        if self._recorder is None:
            with self._lock:
                if self._recorder is None:
                    self._recorder = self._make_recorder()
        return self._recorder

    def name_of(self, hook: str) -> str | None:
        """`hook` as it was asked for (`fsspec:both`), or None if it was not."""
        return next((asked for asked in self.hooks if asked.partition(":")[0] == hook), None)

    def admitted(self, path: str) -> str | None:
        """The URI of the local file `path`; None if the filters leave it out."""
        try:
            return self._verdicts[path]
        except KeyError:
            pass
        if len(self._verdicts) > 10_000:
            self._verdicts.clear()
        uri = f"file://{path}"
        self._verdicts[path] = verdict = uri if self.paths.admits(uri) else None
        return verdict

    def sees(self, hook: str) -> bool:
        """Whether another hook, here or outside, records what lies below."""
        return hook in self.below or self.name_of(hook) is not None

    def environment(self) -> dict[str, str]:
        """The variables by which another process joins this capture."""
        return environment(self.path, self.hooks, self.paths, self.below)

    def count(self, name: str, n: int = 1) -> None:
        """Add to a counter of the trace."""
        self.recorder.count(name, n)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _active is self:
            stop()

    def _make_recorder(self) -> Recorder:
        from tracekit.recorder import Recorder

        return Recorder(
            self.path,
            source="capture",
            options={"hooks": list(self.hooks)},
            rank=_env_int("RANK"),
            world_size=_env_int("WORLD_SIZE"),
        )


def start(
    path: str | os.PathLike[str] | None = None,
    *,
    hooks: str | Sequence[str] = "auto",
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    children: bool = True,
) -> Session:
    """Record into the trace `path` (or `TRACEKIT_TRACE`) what `hooks` see, until `stop()`.

    `hooks` are names of `HOOKS`, or `"auto"`: every one but `files`. A hook of a library
    that is not imported yet waits until it is. `include` and `exclude` are globs over the
    paths of local files. Python processes started from here on join the trace, unless
    `children` is false. The session is also a context manager.

    Raises UsageError if a capture is under way, a hook is unknown, or `path` is no place
    for a trace.
    """
    if _active is not None:
        raise UsageError(f"already capturing into {_active.path}", "call tracekit.capture.stop() first")
    target = path if path is not None else os.environ.get("TRACEKIT_TRACE")
    if not target:
        raise UsageError("no trace to capture into", "give a path, or set TRACEKIT_TRACE")
    session = Session(
        Path(os.path.abspath(target)),
        known_hooks(hooks),
        _filter(include, exclude, Path(os.path.abspath(target))),
    )
    _ = session.recorder  # a path that cannot be written is heard of here, not swallowed later
    _begin(session)
    if children:
        _tell_children(session)
    return session


def join(environ: Mapping[str, str] = os.environ) -> Session | None:
    """Join the capture that `TRACEKIT_TRACE` names, if any and not yet joined: for child processes."""
    target = environ.get("TRACEKIT_TRACE")
    if not target or _active is not None:
        return _active
    split = {name: _lines(environ.get(name)) for name in ("TRACEKIT_INCLUDE", "TRACEKIT_EXCLUDE")}
    path = Path(os.path.abspath(target))
    session = Session(
        path,
        known_hooks(environ.get("TRACEKIT_HOOKS") or "auto"),
        _filter(split["TRACEKIT_INCLUDE"], split["TRACEKIT_EXCLUDE"], path),
        frozenset((environ.get("TRACEKIT_BELOW") or "").split(",")) - {""},
    )
    context.log_scopes(environ.get("TRACEKIT_SCOPES"))
    _begin(session)
    if os.environ.get("TRACEKIT_TRACE") == target != str(path):  # children may stand in another directory
        session._environ["TRACEKIT_TRACE"] = target
        os.environ["TRACEKIT_TRACE"] = str(path)
    return session


def join_quietly() -> None:
    """`join` at the start of an interpreter, which nothing may keep from starting."""
    try:
        join()
    except Exception as error:  # noqa: BLE001 - the program must start all the same
        _log.warning("not capturing: %s", error)


def stop() -> None:
    """End the capture: take the hooks out, close the trace. Nothing happens if there is none.

    A trace that could not be written (a full disk) is logged and not raised: the host has its work done.
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
        except Exception as error:  # noqa: BLE001 - the host's program must not fail because of us
            hook_failed("recorder", error)
    _reported.clear()


def active() -> Session | None:
    """The capture under way in this process."""
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
    error: str | None = None,
    at: tuple[int | None, int | None] | None = None,
) -> None:
    """Hand one op to the trace, if a capture is under way. Never raises: hooks call it in the host's path.

    `at` is the (sample_id, step) of an op that began elsewhere; the place of the call otherwise.
    """
    session = _active
    if session is None:
        return
    try:
        sample_id, step = where() if at is None else at
        (session._recorder or session.recorder).record(
            uri, offset, length, t_submit, latency, op=op, bytes=moved, ttfb=ttfb,
            sample_id=sample_id, step=step, worker=context._worker, error=error,
        )  # fmt: skip
    except Exception as failure:  # noqa: BLE001 - the host's own call must not fail because of us
        hook_failed("recorder", failure)


def hook_failed(hook: str, error: BaseException) -> None:
    """Count an error of a hook's own, log the first of each hook, and swallow it."""
    if hook not in _reported:
        _reported.add(hook)
        _log.warning("hook %s: %s: %s (counted from now on, not logged)", hook, type(error).__name__, error)
    session = _active
    if session is None or (hook == "recorder" and session._recorder is None):
        return
    try:
        session.recorder.count(f"hook_errors.{hook}")
    except Exception:  # noqa: BLE001 - nobody is left to tell, and the host goes on
        _reported.add("recorder")


_active: Session | None = None
_reported: set[str] = set()


def _begin(session: Session) -> None:
    global _active
    _active = session
    for asked in session.hooks:
        name = asked.partition(":")[0]
        for library, function in HOOKS[name]:
            imports.when_imported(library, _installer(session, name, function))


def _installer(session: Session, name: str, function: str) -> Callable[[ModuleType], None]:
    def install(library: ModuleType) -> None:
        try:
            hook = importlib.import_module(f"tracekit.capture.hooks.{name}")
            session._undo.append(getattr(hook, function)(library))
        except Exception as error:  # noqa: BLE001 - a library we do not understand goes unrecorded
            hook_failed(name, error)

    return install


def known_hooks(hooks: str | Sequence[str]) -> tuple[str, ...]:
    """The hooks that a list or a comma-separated text names. Raises UsageError for an unknown one."""
    names = hooks.split(",") if isinstance(hooks, str) else list(hooks)
    chosen: dict[str, str] = {}
    for name in (name.strip() for name in names):
        for one in AUTO if name == "auto" else (name,) if name else ():
            if one.partition(":")[0] not in HOOKS:
                raise UsageError(f"hook {one!r} is unknown", f"known are auto, {', '.join(HOOKS)}")
            chosen[one.partition(":")[0]] = one
    return tuple(chosen.values())


def _filter(include: Iterable[str], exclude: Iterable[str], trace: Path) -> PathFilter:
    return PathFilter(tuple(include), (*exclude, f"{trace}/", str(trace)))


def _tell_children(session: Session) -> None:
    told = {**session.environment(), "PYTHONPATH": with_bootstrap(os.environ.get("PYTHONPATH"))}
    session._environ = {name: os.environ.get(name) for name in told}
    os.environ.update(told)


def environment(
    trace: Path, hooks: Sequence[str], paths: PathFilter, below: Iterable[str] = ()
) -> dict[str, str]:
    """The variables by which a process joins a capture (`join`)."""
    return {
        "TRACEKIT_TRACE": str(trace),
        "TRACEKIT_HOOKS": ",".join(hooks),
        "TRACEKIT_INCLUDE": os.pathsep.join(paths.include),
        "TRACEKIT_EXCLUDE": os.pathsep.join(paths.exclude),
        "TRACEKIT_BELOW": ",".join(sorted(below)),
    }


def with_bootstrap(pythonpath: str | None) -> str:
    """`PYTHONPATH` with the directory in front whose `sitecustomize` joins the capture."""
    rest = [part for part in (pythonpath or "").split(os.pathsep) if part and part != _BOOTSTRAP]
    return os.pathsep.join([_BOOTSTRAP, *rest])


def _lines(text: str | None) -> list[str]:
    return [part for part in (text or "").split(os.pathsep) if part]


def _env_int(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else None


def _after_fork_in_child() -> None:
    if _active is not None:
        _active._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
