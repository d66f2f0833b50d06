"""One capture while its command runs: what is needed to convert its logs, kept beside them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tracekit.capture.engines import ENGINES
from tracekit.capture.filters import PathFilter, with_real_names
from tracekit.capture.tools.engine import Engine
from tracekit.errors import UsageError
from tracekit.job import rank_and_world_size
from tracekit.processes import is_alive, start_of

__all__ = ["WORK_PREFIX", "Job", "jobs_into", "recoverable"]

WORK_PREFIX = ".tracekit-capture-"
_SETTINGS, _RUNNING = "capture.json", "running"


@dataclass(frozen=True, slots=True)
class Job:
    """One capture: what is needed to convert its logs, which lie in the directory `work`."""

    work: Path
    target: Path
    pid: int
    command: str
    method: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    metadata: bool
    proxy: bool = False
    proxied: tuple[str, ...] = ()
    """The schemes whose requests its proxies recorded, so that the hooks' rows of them are left out."""
    unfollowed: str = ""
    """Why page faults were not followed; empty if they were."""
    sample_rate: float = 1.0
    stream_salt: str = ""
    """Drawn if the share is that of the streams."""
    max_overhead: float = 1.0
    running: dict[str, Any] | None = None
    """The options `keep` and `ship` of a capture that writes its trace while the command runs."""
    rank: int | None = field(default_factory=lambda: rank_and_world_size()[0])
    world_size: int | None = field(default_factory=lambda: rank_and_world_size()[1])
    """What the launcher of the capture states: of processes that state no rank of their own."""
    started: int | None = None
    """When the process `pid` started, as `save` notes it: the number may be another process's by now."""

    @property
    def paths(self) -> PathFilter:
        exclude = with_real_names((*self.exclude, f"{self.work}/", f"{self.target}/"))
        return PathFilter(
            with_real_names(self.include), exclude, sample_rate=self.sample_rate, stream_salt=self.stream_salt
        )

    @property
    def of_proxies(self) -> tuple[str, ...]:
        """How the URIs begin whose rows its proxies have, so that those of the hooks are left out."""
        return tuple(f"{scheme}://" for scheme in self.proxied)

    @property
    def engine(self) -> Engine | None:
        return next((engine for engine in ENGINES if engine.name == self.method), None)

    @property
    def recorded_kinds(self) -> dict[str, bool]:
        """What an engine is told of the ops that are wanted, as keywords of `Engine.start`."""
        return {"metadata": self.metadata, "memory": self.paths.admits_memory}

    @property
    def runs(self) -> bool:
        """Whether the process of the capture is alive."""
        return is_alive(self.pid, self.started)

    @property
    def ended(self) -> bool:
        """Whether its command has ended: nothing will be added to the logs."""
        return not (self.work / _RUNNING).exists()

    def end(self) -> None:
        """Note that the command has ended, for who follows the logs."""
        (self.work / _RUNNING).unlink(missing_ok=True)

    def save(self) -> None:
        """Write it into its directory, for `recoverable`."""
        facts = {
            **asdict(self),
            "started": start_of(self.pid),
            "work": str(self.work),
            "target": str(self.target),
        }
        (self.work / _RUNNING).touch()  # to be removed later, which a full disk does not prevent
        aside = self.work / f"{_SETTINGS}.partial"
        aside.write_text(json.dumps(facts))
        aside.replace(self.work / _SETTINGS)


def jobs_into(target: Path) -> list[Job]:
    """Return the captures into `target` whose logs are there."""
    found = (_load(settings) for settings in target.parent.glob(f"{WORK_PREFIX}*/{_SETTINGS}"))
    return [job for job in found if job is not None and job.target == target]


def recoverable(target: Path) -> Job:
    """Return the capture into `target` that was killed before it could write the trace; the last, if there are several.

    Raises UsageError if there is none, or it still runs.
    """
    found = jobs_into(target)
    if not found:
        raise UsageError(
            f"{target}: no logs of a killed capture lie beside it", "give the path that the capture was given"
        )
    job = max(found, key=lambda job: (job.work / _SETTINGS).stat().st_mtime_ns)
    if job.runs:
        raise UsageError(f"{target}: its capture still runs (process {job.pid})", "wait for it, or stop it")
    return job


def _load(settings: Path) -> Job | None:
    try:
        facts = json.loads(settings.read_text())
    except FileNotFoundError:  # that capture has just ended
        return None
    lists = {name: tuple(facts[name]) for name in ("include", "exclude", "proxied")}
    return Job(**{**facts, **lists, "work": settings.parent, "target": Path(facts["target"])})
