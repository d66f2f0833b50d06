"""How to replay: every option, checked before anything is opened. Names as the CLI's."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from math import isfinite
from typing import Any, get_args

from tracekit.errors import UsageError
from tracekit.keywords import WorkersModel
from tracekit.options import PAGE_CACHE_MODES
from tracekit.replayer.columns import SLOTS

__all__ = ["ENGINES", "PACES", "READS", "STORE_OPTIONS", "Filters", "ReplayOptions"]

STORE_OPTIONS = ("client", "endpoint", "region", "account", "anonymous", "timeout_s", "retries")

PACES = ("recorded", "closed", "asap")
ENGINES = ("auto", "threads", "loop")
WORKERS_MODELS: tuple[str, ...] = get_args(WorkersModel)
READS = ("read", "get")
_REPLAYABLE = (*READS, "put")
_DEFAULT_TOLERANCE = 0.15


@dataclass(frozen=True, slots=True)
class Filters:
    """Which ops of the trace are replayed; None means all. Times are ns since the trace's first op.

    `sample_rate` keeps about that share of the streams, or of the files (`sample_by`), whole:
    never of single ops, so that what is kept is a pattern that ran.
    """

    start_ns: int | None = None
    end_ns: int | None = None
    ops: tuple[str, ...] | None = None
    uri_glob: str | None = None
    ranks: tuple[int, ...] | None = None
    workers: tuple[int, ...] | None = None
    samples: tuple[int, ...] | None = None
    sample_rate: float | None = None
    sample_by: str = "stream"
    sample_seed: int = 0

    def __post_init__(self) -> None:
        for kind in self.ops or ():
            _choose("--op", kind, _REPLAYABLE)
        _choose("--sample-by", self.sample_by, ("stream", "file"))
        if self.sample_rate is not None and not 0 < self.sample_rate <= 1:
            raise UsageError(f"--sample-rate {self.sample_rate} is out of range", "give 0 < rate <= 1")

    def __bool__(self) -> bool:
        return self != Filters()


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to replay. Sizes in bytes, times in ns, None for no cap, no limit, or chosen from the trace.

    `workers_model` is the rule of `closed` pacing. `cold` and `warm` drop the trace's local files from the page cache before the run, or
    fill it. `overwrite_objects` lets writes (`allow_writes`) replace objects. `realtime`
    runs the client under SCHED_FIFO, where the system allows it. `client` and what follows it
    go to object stores, by the loader's names; None leaves them to the backend.
    """

    mapping: tuple[str, ...] = ()
    pace: str = "recorded"
    workers_model: str = "auto"
    speed: float = 1.0
    max_bytes_in_flight: int | None = None
    max_ops_in_flight: int | None = None
    page_cache_mode: str = "default"
    filters: Filters = field(default_factory=Filters)
    max_gap_ns: int | None = None
    loops: int = 1
    engine: str = "auto"
    threads: int | None = None
    processes: int | None = None
    realtime: bool = False
    client: str | None = None
    endpoint: str | None = None
    region: str | None = None
    account: str | None = None
    anonymous: bool | None = None
    timeout_s: float | None = None
    retries: int | None = None
    cold: bool = False
    warm: bool = False
    allow_writes: bool = False
    overwrite_objects: bool = False
    tolerance: float = _DEFAULT_TOLERANCE

    def __post_init__(self) -> None:
        _choose("--pace", self.pace, PACES)
        _choose("--page-cache-mode", self.page_cache_mode, PAGE_CACHE_MODES)
        _choose("--engine", self.engine, ENGINES)
        _choose("--workers-model", self.workers_model, WORKERS_MODELS)
        if not self.speed > 0 or not isfinite(self.speed):
            raise UsageError(f"--speed {self.speed} is not positive", "give a factor such as 0.5, 1 or 10")
        if not self.tolerance >= 0:
            raise UsageError(f"--tolerance {self.tolerance} is negative", "give a fraction such as 0.15")
        if self.loops < 1:
            raise UsageError(f"--loop {self.loops} replays nothing", "give at least 1")
        if self.threads is not None and not 1 <= self.threads <= 4096:
            raise UsageError(f"--threads {self.threads} is out of range", "give 1 to 4096")
        if self.processes is not None and not 1 <= self.processes <= 64:
            raise UsageError(f"--processes {self.processes} is out of range", "give 1 to 64")
        if self.cold and self.warm:
            raise UsageError("--cold and --warm contradict each other", "give one of them")
        if self.overwrite_objects and not self.allow_writes:
            raise UsageError("overwriting objects needs leave to write", "give --allow-writes too")
        self._check_processes()

    def _check_processes(self) -> None:
        if self.processes is None or self.processes == 1:
            return
        if self.processes * (self.threads or 1) > SLOTS:
            raise UsageError(
                f"--processes {self.processes} of --threads {self.threads} are too many", f"{SLOTS} in all"
            )
        if self.capped:
            raise UsageError(
                "an in-flight cap is exact within one process only", "leave out --processes, or the cap"
            )
        if self.engine == "loop":
            raise UsageError("--engine loop runs in one process", "leave out --processes")

    @property
    def store_options(self) -> dict[str, Any]:
        """What is to be passed to the backends of object stores: only what was given."""
        values = {name: getattr(self, name) for name in STORE_OPTIONS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def capped(self) -> bool:
        """Whether a gate is asked for."""
        return self.max_bytes_in_flight is not None or self.max_ops_in_flight is not None

    @classmethod
    def of(cls, named: dict[str, Any]) -> ReplayOptions:
        """From keywords; those of `Filters` may stand among them. Raises UsageError for an unknown name."""
        own = {f.name for f in fields(cls)}
        filtering = {f.name for f in fields(Filters)}
        for name in named:
            if name not in own | filtering:
                near = get_close_matches(name, own | filtering, 1)
                raise UsageError(
                    f"replay has no option {name!r}",
                    f"did you mean {near[0]}?" if near else "see docs/replay.md",
                )
        values = {name: value for name, value in named.items() if name in own}
        if isinstance(values.get("mapping"), str):
            values["mapping"] = (values["mapping"],)
        if "mapping" in values:
            values["mapping"] = tuple(values["mapping"])
        chosen = {name: value for name, value in named.items() if name in filtering}
        if chosen:
            values["filters"] = Filters(**chosen)
        return cls(**values)


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name} {value!r} is unknown", f"choose {', '.join(known)}")
