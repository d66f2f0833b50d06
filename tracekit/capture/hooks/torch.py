"""Declares the sample, step and worker that the ops below a PyTorch `DataLoader` serve.

This hook records no op itself. A batch is numbered where it is requested, and its number
travels with the indices into the worker process, which fetches each sample inside a scope.
The host's datasets, samplers and batches are not replaced. An index that cannot carry a
number is passed on unchanged.
"""

from __future__ import annotations

import functools
import itertools
import operator
import os
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from tracekit.capture import context
from tracekit.capture import session as sessions
from tracekit.capture.context import enter, leave
from tracekit.capture.session import hook_failed
from tracekit.consumer import ConsumerClock

__all__ = ["install", "wrap"]

_steps = itertools.count()
_CLOCK = "_tracekit_clock"
_FETCHES = "_tracekit_fetches"


def install(data: ModuleType) -> Callable[[], None]:
    """Number the batches of every DataLoader of this process and of its workers."""
    loaders, fetchers = data.dataloader, data._utils.fetch
    patches: list[tuple[Any, str, Any]] = [
        (loaders._BaseDataLoaderIter, "__next__", _next),
        (loaders._BaseDataLoaderIter, "_next_index", _next_index),
        (loaders._MultiProcessingDataLoaderIter, "__init__", _start_workers),
        (fetchers._MapDatasetFetcher, "__init__", _map_fetcher),
        (fetchers._MapDatasetFetcher, "fetch", _fetch),
        (fetchers._IterableDatasetFetcher, "__init__", _iterable_fetcher),
        (fetchers._IterableDatasetFetcher, "fetch", _fetch),
    ]
    before = [(cls, name, vars(cls).get(name)) for cls, name, _ in patches]
    for cls, name, make in patches:
        setattr(cls, name, make(getattr(cls, name)))

    def undo() -> None:
        for cls, name, method in before:
            if method is None:
                delattr(cls, name)
            else:
                setattr(cls, name, method)

    return undo


def wrap(thing: Any) -> Any:
    """Wrap a `Dataset` or `IterableDataset` to declare its samples in loops without a DataLoader.

    Attributes of the dataset stay accessible. A DataLoader is returned unchanged, because the
    `torch` hook covers it.
    """
    from torch.utils.data import DataLoader, IterableDataset

    if isinstance(thing, DataLoader):
        return thing
    return (_iterable_class() if isinstance(thing, IterableDataset) else _map_class())(thing)


class _StepList(list[Any]):
    """A batch of indices with its step number, and when it was sent to a worker (monotonic ns)."""

    number: int
    sent_ns: int


class _StepInt(int):
    """An index with the step number of its one-sample batch, and when it was sent."""

    number: int
    sent_ns: int


class _WorkerInit:
    """A `worker_init_fn` that joins the capture, for spawned workers, and then calls the host's own."""

    def __init__(self, inner: Callable[[int], None] | None) -> None:
        self.inner = inner
        self.environ: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        session = sessions.active()
        return {"inner": self.inner, "environ": session.environment() if session is not None else {}}

    def __call__(self, worker_id: int) -> None:
        try:
            if sessions.active() is None:  # a forked worker has joined
                sessions.join({**os.environ, **self.environ})
            context.set_worker(worker_id)
        except Exception as error:  # noqa: BLE001 - the worker must load anyway
            hook_failed("torch", error)
        if self.inner is not None:
            self.inner(worker_id)


class _ScopedDataset:
    """The dataset as the fetcher uses it, with each sample fetched inside its scope."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, index: Any) -> Any:
        scope = enter(index if type(index) is int else _sample_id(index))
        try:
            return self._dataset[index]
        finally:
            leave(scope)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)


class _ScopedIterator:
    """A stream of samples, numbered so that the numbers of workers are disjoint."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self._drawn = itertools.count()

    def __iter__(self) -> _ScopedIterator:
        return self

    def __next__(self) -> Any:
        scope = enter(_interleaved(next(self._drawn)))
        try:
            return next(self._iterator)
        finally:
            leave(scope)


def _next(original: Any) -> Any:
    """Count the consumer of a loader: closed pacing needs its think times and the loader's structure."""

    def __next__(self: Any) -> Any:
        session = sessions.active()
        if session is None:
            return original(self)
        clock = vars(self).setdefault(_CLOCK, None) or _clock(self, session)
        clock.asked()
        try:
            batch = original(self)
        except StopIteration:
            clock.ended()
            vars(self)[_CLOCK] = None  # persistent workers use the same iterator for the next epoch
            raise
        except BaseException:
            clock.gave_up()
            raise
        clock.handed()
        return batch

    return __next__


def _clock(iterator: Any, session: sessions.Session) -> ConsumerClock:
    workers = int(getattr(iterator, "_num_workers", 0))
    ahead = workers * int(getattr(iterator, "_prefetch_factor", None) or 0)
    clock = ConsumerClock(session, workers=max(workers, 1), ahead=ahead, stream=workers > 0)
    vars(iterator)[_CLOCK] = clock
    return clock


def _next_index(original: Any) -> Any:
    def next_index(self: Any) -> Any:
        index = original(self)
        if sessions.active() is None:
            return index
        tagged: Any
        if type(index) is list:
            tagged = _StepList(index)
        elif type(index) is int:
            tagged = _StepInt(index)
        else:
            return index
        tagged.number = next(_steps)
        tagged.sent_ns = time.monotonic_ns()
        return tagged

    return next_index


def _start_workers(original: Any) -> Any:
    def __init__(self: Any, loader: Any) -> None:
        if sessions.active() is None:
            original(self, loader)
            return
        inner = loader.worker_init_fn
        loader.worker_init_fn = _WorkerInit(inner)
        try:
            original(self, loader)
        finally:
            loader.worker_init_fn = inner

    return __init__


def _map_fetcher(original: Any) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.dataset = _ScopedDataset(self.dataset)

    return __init__


def _iterable_fetcher(original: Any) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.dataset_iter = _ScopedIterator(self.dataset_iter)

    return __init__


def _fetch(original: Any) -> Any:
    def fetch(self: Any, index: Any) -> Any:
        fetches: _Fetches = vars(self).get(_FETCHES) or vars(self).setdefault(_FETCHES, _Fetches())
        fetches.begun += 1
        number: int
        sent_ns: int | None
        if isinstance(index, (_StepList, _StepInt)):
            number, sent_ns = index.number, index.sent_ns
            index = list(index) if isinstance(index, _StepList) else int(index)
        else:
            number, sent_ns = _interleaved(fetches.begun - 1), None
        begun_ns = time.monotonic_ns()
        scope = enter(None, number)
        try:
            return original(self, index)
        finally:
            if sent_ns is not None and fetches.in_worker:
                fetches.count(sent_ns, begun_ns)
            leave(scope)

    return fetch


class _Fetches:
    """What a fetcher has done so far."""

    __slots__ = ("begun", "ended_ns", "in_worker")

    def __init__(self) -> None:
        self.begun = 0
        self.ended_ns: int | None = None
        self.in_worker = _worker_info()() is not None

    def count(self, sent_ns: int, begun_ns: int) -> None:
        """Count what a worker took for a batch, and how soon it began after it could. The ops show neither."""
        session = sessions.active()
        if session is None:
            return
        now = time.monotonic_ns()
        numbers = {"loader_fetches": 1, "loader_fetch_ns": now - begun_ns}
        if self.ended_ns is not None:  # the first batch of a worker waits for the worker to start
            numbers["loader_pickups"] = 1
            numbers["loader_pickup_ns"] = begun_ns - max(sent_ns, self.ended_ns)
        if not context.counted_with_scopes(numbers):
            session.count_all(numbers)
        self.ended_ns = now


def _sample_id(index: Any) -> int | None:
    """The index as a sample_id, or None if the dataset's keys are not integers."""
    try:
        return operator.index(index)
    except TypeError:
        return None


def _interleaved(drawn: int) -> int:
    """The global number of this worker's `drawn`-th sample, counted as if workers took turns."""
    info = _worker_info()()
    return drawn if info is None else drawn * info.num_workers + info.id


@functools.cache
def _worker_info() -> Callable[[], Any]:
    from torch.utils.data import get_worker_info

    return get_worker_info


def _map_class() -> Any:
    from torch.utils.data import Dataset

    class RecordedDataset(Dataset):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, dataset: Any) -> None:
            self._dataset = dataset

        def __getitem__(self, index: Any) -> Any:
            scope = enter(_sample_id(index))
            try:
                return self._dataset[index]
            finally:
                leave(scope)

        def __len__(self) -> int:
            return len(self._dataset)

        def __getattr__(self, name: str) -> Any:
            if name == "_dataset":
                raise AttributeError(name)
            return getattr(self._dataset, name)

        def __reduce__(self) -> tuple[Any, ...]:
            return (wrap, (self._dataset,))

    return RecordedDataset


def _iterable_class() -> Any:
    from torch.utils.data import IterableDataset

    class RecordedIterableDataset(IterableDataset):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, dataset: Any) -> None:
            self._dataset = dataset

        def __iter__(self) -> Iterator[Any]:
            return _ScopedIterator(iter(self._dataset))

        def __getattr__(self, name: str) -> Any:
            if name == "_dataset":
                raise AttributeError(name)
            return getattr(self._dataset, name)

        def __reduce__(self) -> tuple[Any, ...]:
            return (wrap, (self._dataset,))

    return RecordedIterableDataset
