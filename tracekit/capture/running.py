"""Records a command into a trace that grows while the command runs: what `keep` and `ship` need.

The Python processes of the command record their object clients into the trace themselves. What the native engine logs is
moved into the trace by a thread here, which gives the disk space of its logs back.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracekit.capture.completeness import Completeness, judge
from tracekit.capture.conversion import CaptureResult, kept_ops, moved_by, note_overhead
from tracekit.capture.counted import counted_bytes, moved_by_children
from tracekit.capture.environment import environment, with_bootstrap
from tracekit.capture.filters import paths_kept
from tracekit.capture.job import WORK_PREFIX, Job
from tracekit.capture.launch import Led, adopts, proxied, proxied_schemes, run_child
from tracekit.capture.native.logs import NativeLogs, Process
from tracekit.capture.native.tail import NativeTail
from tracekit.capture.proxy.requests import OTHER_REQUESTS
from tracekit.capture.scopes import Scopes
from tracekit.capture.sockets import Objects, Requests
from tracekit.capture.tools.engine import Engine
from tracekit.consumer import PROCESS_CPU
from tracekit.formats.sound import MAX_INT
from tracekit.long_options import KEEPING
from tracekit.recorder import Recorder
from tracekit.redaction import redact, redact_value
from tracekit.store.reader import open_reader
from tracekit.store.target import claiming
from tracekit.units import format_count

__all__ = ["record_running", "recover_running"]

_EVERY_S = 0.5
_LAG_NS = 10_000_000_000
"""Ops wait this long in the logs, so that the scopes around them have ended and say which sample and step they served."""
_MOST_BYTES = 64 << 20
"""If the logs take more than this on disk, ops do not wait."""
_FIRST_FREE = 1000
"""The number of the first stream that no hook names: those that are named later must not have it too."""
_UNFOLLOWED = "keep= and ship= record no page faults"


def record_running(
    command: Sequence[str],
    target: Path,
    hooks: tuple[str, ...],
    options: Mapping[str, Any],
    engine: Engine | None,
    tool: str,
) -> CaptureResult:
    """Run the command. `engine` is the native one, with its library `tool`; without, hooks alone record."""
    kept = {name: options[name] for name in KEEPING}
    paths = paths_kept(options["include"], options["exclude"], target, options)
    led_to = proxied_schemes() if options["proxy"] else ()
    hooked = replace(paths, exclude=(*paths.exclude, *(f"{scheme}://*" for scheme in led_to)))
    below = () if engine is None else engine.below
    wanted = hooks if engine is None else tuple(hook for hook in hooks if hook != "files")
    with claiming(target, overwrite=options["overwrite"]):
        work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=target.parent))
        job = _job(
            work, target, command, "hooks" if engine is None else engine.name, options, paths.stream_salt
        )
        recorder = Recorder(target, source="capture", **_labels(job, hooks), **kept)
    recorder.count("ops_recorded", 0)
    environ = {
        **environment(target, wanted, hooked, below, limits={**kept, "max_overhead": job.max_overhead}),
        "PYTHONPATH": with_bootstrap(os.environ.get("PYTHONPATH")),
    }
    argv = list(command)
    moving = None
    try:
        if engine is not None:
            (work / "logs").mkdir()
            argv, more = engine.start(tool, command, work / "logs", os.environ, **job.recorded_kinds)
            environ |= {**more, "TRACEKIT_SCOPES": str(work / "scopes")}
            moving = _Moving(job, recorder)
        job.save()
        with proxied(recorder, paths) if job.proxy else nullcontext(Led()) as led:
            adopting = adopts(engine)
            before = counted_bytes()
            exit_code = run_child(argv, {**os.environ, **environ, **led.environment}, adopting=adopting)
            moved = moved_by_children(before, counted_bytes(descendants=adopting))
    except BaseException:
        if moving is not None:
            moving.stop()
        recorder.close()
        shutil.rmtree(work, ignore_errors=True)
        raise
    result = _ended(job, recorder, moving, moved, options["require_complete"], led.ports)
    return replace(result, exit_code=exit_code, notes=(*led.notes, *result.notes))


def recover_running(job: Job, require_complete: float | None) -> CaptureResult:
    """Move what a killed capture left in its logs into its trace."""
    recorder = Recorder(job.target, source="capture", **_labels(job), **(job.running or {}))
    recorder.count("ops_recorded", 0)
    moving = _Moving(job, recorder) if (job.work / "logs").is_dir() else None
    return _ended(job, recorder, moving, None, require_complete)


def _job(
    work: Path, target: Path, command: Sequence[str], method: str, options: Mapping[str, Any], salt: str
) -> Job:
    return Job(
        work,
        target,
        os.getpid(),
        redact(" ".join(redact_value(command))),
        method,
        options["include"],
        options["exclude"],
        options["metadata"],
        options["proxy"],
        (),
        _UNFOLLOWED,
        options["sample_rate"],
        salt,
        options["max_overhead"],
        {name: options[name] for name in KEEPING},
    )


def _labels(job: Job, hooks: Sequence[str] = ()) -> dict[str, Any]:
    """What a recorder says of the capture."""
    options = {
        "command": job.command,
        "method": job.method,
        "hooks": list(hooks),
        "include": list(job.include),
        "exclude": list(job.exclude),
        "sample_rate": job.sample_rate,
        "sample_by": job.paths.sample_by,
    }
    return {"options": options, "rank": job.rank, "world_size": job.world_size}


class _Moving:
    """Moves the ops in the engine's logs to a recorder, in a thread of its own, until it is stopped."""

    def __init__(self, job: Job, recorder: Recorder) -> None:
        self._job, self._recorder = job, recorder
        self.logs = NativeTail(job.work / "logs", consuming=True)
        self.scopes = Scopes(job.work / "scopes", rank=job.rank, first_free=_FIRST_FREE)
        self.read = self.written = 0
        self._paths = job.paths
        self._ending = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._move, name="tracekit-moving", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Move what is left. Raises what stopped the thread, such as a full disk."""
        self._ending.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self._take(None)
        self.logs.close()

    @property
    def processes(self) -> Sequence[Process]:
        """What the logs say of the processes so far."""
        return NativeLogs(self._job.work / "logs").processes

    def _move(self) -> None:
        try:
            while not self._ending.wait(_EVERY_S):
                held = sum(log.stat().st_blocks * 512 for log in (self._job.work / "logs").glob("*.log"))
                self._take(time.time_ns() - (_LAG_NS if held < _MOST_BYTES else 0))
        except BaseException as error:  # noqa: BLE001 - `stop` raises it, when the command has ended
            self._failure = error

    def _take(self, before: int | None) -> None:
        self.scopes.refresh(0 if before is None else before - _LAG_NS)
        for batch, clock_offset in self.logs.poll(MAX_INT if before is None else before):
            for kept in kept_ops([batch], self._paths.admits, self._job.metadata):
                rows = self._paths.of_streams(self.scopes.place(kept))
                read, written = moved_by(rows)
                self.read, self.written = self.read + read, self.written + written
                self._recorder.record_batch(_monotonic(rows, clock_offset))
        self._recorder.flush()


def _monotonic(batch: pa.RecordBatch, clock_offset: int) -> pa.RecordBatch:
    index = batch.schema.get_field_index("t_submit")
    times = pa.array(batch.column(index).to_numpy() - clock_offset)
    return batch.set_column(index, "t_submit", times)


def _ended(
    job: Job,
    recorder: Recorder,
    moving: _Moving | None,
    moved: tuple[int, int] | None,
    require_complete: float | None,
    proxy_ports: Collection[int] = (),
) -> CaptureResult:
    """Complete the trace of a command that has ended. Its proxies were reached at `proxy_ports`."""
    notes: list[str] = []
    completeness = None
    if moving is not None:
        try:
            moving.stop()
        except BaseException:
            recorder.close()
            raise
    recorder.close()
    if moving is not None:
        completeness = _judged(job, moving, moved, proxy_ports)
        notes += _summarize(job, moving, completeness)
    shutil.rmtree(job.work, ignore_errors=True)
    found = open_reader(job.target)
    if completeness is not None:
        notes += completeness.notes()
        if completeness.mapped_files:
            notes.append(f"files mapped into memory: {completeness.mapped_files}; {_UNFOLLOWED}")
    else:
        why = "hooks alone count no bytes of the command" if moving is None else "the capture was killed"
        notes.append(f"completeness: unknown, because {why}")
    if found.removed_ops:
        notes.append(f"{format_count(found.removed_ops)} older ops were removed to keep the trace small")
    enough = require_complete is None or (completeness is not None and completeness.reaches(require_complete))
    return CaptureResult(job.target, 0, job.method, found.rows, tuple(notes), completeness, enough)


def _summarize(job: Job, moving: _Moving, completeness: Completeness | None) -> list[str]:
    """Write what is known of the whole command into a last segment."""
    logs, processes = moving.logs, moving.processes
    described = None if completeness is None else completeness.to_dict()
    known = open_reader(job.target).counters.get(PROCESS_CPU, 0)
    with Recorder(
        job.target,
        source="capture",
        **_labels(job),
        completeness=described,
        **(job.running or {}),
    ) as last:
        last.count("captured_processes", len(processes))
        last.count("mapped_files", sum(map(job.paths.admits, logs.mapped_files)))
        last.count_all(moving.scopes.counters)
        return list(note_overhead(last.count, processes, job.max_overhead, counted=known))


def _judged(
    job: Job, moving: _Moving, moved: tuple[int, int] | None, proxy_ports: Collection[int]
) -> Completeness | None:
    if moved is None:
        return None
    return judge(
        moving.processes,
        moved,
        (moving.read, moving.written),
        mapped_files=sum(map(job.paths.admits, moving.logs.mapped_files)),
        objects=replace(_objects(job), proxy_ports=proxy_ports),
        hooked=moving.scopes.joined,
        sample_rate=job.sample_rate,
    )


def _objects(job: Job) -> Objects:
    """What the hooks and the proxy have recorded of objects, as far as it is still in the trace."""
    found = open_reader(job.target)
    [sums] = found.query(
        "SELECT count(*) AS number, count(*) FILTER (op = 'list') AS pages, coalesce(sum(bytes), 0)::BIGINT AS bytes"
        " FROM ops WHERE uri NOT LIKE 'file://%'"
    ).to_pylist()
    others = Requests(found.counters.get(OTHER_REQUESTS, 0))
    return Objects(of_others=Requests(**sums) + others, all_known=not found.removed_ops)
