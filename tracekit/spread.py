"""Runs one function on many parts of a piece of work: in processes of this machine, or on the nodes of a Ray cluster.

It knows neither traces nor what the function does. The function, its arguments and its results must be picklable.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from tracekit.errors import TracekitError, UsageError
from tracekit.extras import require

__all__ = ["connect_ray", "is_ray_client", "place_of", "spread", "together"]

_RAY_CLIENT_PORT = "10001"
_T = TypeVar("_T")
_Part = TypeVar("_Part")


def place_of(on: str) -> tuple[str, str]:
    """Return the kind of place that `on` names, `local` or `ray`, and its address. Raises UsageError for another."""
    scheme, _, where = on.partition("://")
    if scheme not in ("local", "ray") or (where and scheme == "local"):
        raise UsageError(f"on={on!r} is no place to work", "give local, ray, or ray://HOST:PORT")
    return scheme, where


def connect_ray(where: str) -> tuple[Any, bool]:
    """Connect to the cluster at `where` (empty: that of the environment or this machine, else a new one).

    Returns the module `ray`, and whether there was no connection before. Raises UsageError without Ray, or if no cluster answers.
    """
    ray = require("ray", extra="scale")
    began = not ray.is_initialized()
    if began:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # we report to nobody
        try:
            ray.init(address=_address(where), log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"on='ray://{where}': no cluster answers: {str(error).splitlines()[0]}",
                "start one with `ray start --head`",
            ) from error
    return ray, began


def _address(where: str) -> str | None:
    """Return what `ray.init` takes."""
    return f"ray://{where}" if is_ray_client(where) else where or None


def is_ray_client(where: str) -> bool:
    """Return whether the cluster at `where` is reached through its server for clients from elsewhere."""
    return where.rpartition(":")[2] == _RAY_CLIENT_PORT


class _Crew(Protocol):
    """What works on parts: `size` of them at a time."""

    @property
    def size(self) -> int: ...

    def run(self, work: Callable[[_Part], _T], parts: Sequence[_Part]) -> list[_T]: ...


_TOGETHER: ContextVar[tuple[tuple[str, int | None], _Crew] | None] = ContextVar("together", default=None)


def spread(
    work: Callable[[_Part], _T], parts: Callable[[int], Sequence[_Part]], *, on: str, hosts: int | None = None
) -> list[_T]:
    """Return `work` of each part, in order. `parts` makes them for a number of hosts: processes, or nodes of the cluster.

    There may be more parts than hosts; as many as there are hosts are worked on at a time. Raises the error of a part, and
    TracekitError if what worked on it is gone.
    """
    with together(on, hosts):
        held = _TOGETHER.get()
        if held is not None and held[0] == (on, hosts):
            return held[1].run(work, parts(held[1].size))
        with _crew(on, hosts) as crew:
            return crew.run(work, parts(crew.size))


@contextmanager
def together(on: str | None, hosts: int | None) -> Iterator[None]:
    """Keep the processes, or the connection to the cluster, for every call of `spread` inside. Nothing without a place."""
    if on is None or _TOGETHER.get() is not None:
        yield
        return
    with _crew(on, hosts) as crew:
        token = _TOGETHER.set(((on, hosts), crew))
        try:
            yield
        finally:
            _TOGETHER.reset(token)


@contextmanager
def _crew(on: str, hosts: int | None) -> Iterator[_Crew]:
    scheme, where = place_of(on)
    if scheme == "local":
        size = hosts or len(os.sched_getaffinity(0))
        # Started afresh: a forked child has the locks of our threads.
        with ProcessPoolExecutor(size, multiprocessing.get_context("spawn")) as pool:
            yield _Processes(pool, size)
        return
    # Ray prints what it notices of its nodes on standard output, which may be our JSON.
    with redirect_stdout(sys.stderr):
        ray, began = connect_ray(where)
    try:
        yield _Nodes(ray, hosts or sum(node["Alive"] for node in ray.nodes()))
    finally:
        if began:
            with redirect_stdout(sys.stderr):
                ray.shutdown()


@dataclass(frozen=True, slots=True)
class _Processes:
    """Processes of this machine."""

    pool: ProcessPoolExecutor
    size: int

    def run(self, work: Callable[[_Part], _T], parts: Sequence[_Part]) -> list[_T]:
        try:
            return list(self.pool.map(work, parts))
        except BrokenProcessPool as error:
            raise TracekitError(
                "a process that worked on a part was killed", "is memory short? give memory="
            ) from error


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Nodes of a Ray cluster."""

    ray: Any
    size: int

    def run(self, work: Callable[[_Part], _T], parts: Sequence[_Part]) -> list[_T]:
        with redirect_stdout(sys.stderr):
            task = self.ray.remote(work).options(num_cpus=1, scheduling_strategy="SPREAD", max_retries=2)
            given: list[Any] = []
            try:
                for part in parts:
                    if len(given) >= self.size:
                        self.ray.wait(given, num_returns=len(given) - self.size + 1)
                    given.append(task.remote(part))
                found: list[_T] = self.ray.get(given)
            except self.ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, TracekitError):
                    raise error.cause from error
                raise
            except self.ray.exceptions.RayError as error:
                raise TracekitError(
                    f"Ray lost a part of the work: {str(error).splitlines()[0]}", "look at its nodes"
                ) from error
            return found
