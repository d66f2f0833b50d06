"""Declares the sample, step and worker that the ops below a PyTorch `DataLoader` serve.

This hook records no op itself. A batch is numbered where it is requested, and its number
travels with the indices into the worker process, which notes when it begins with each sample.
The host's datasets, samplers and batches are not replaced. An index that cannot carry a
number is passed on unchanged.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import multiprocessing
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from tracekit.capture import context
from tracekit.capture import session as sessions
from tracekit.capture.context import Batch, enter, enter_batch, leave, leave_batch
from tracekit.capture.replacing import replace
from tracekit.capture.scope_log import LONGEST_WAIT_NS, sample_number
from tracekit.capture.session import hook_failed
from tracekit.consumer import ConsumerClock, worker_counters

__all__ = ["install", "wrap"]

_steps = itertools.count()
_CONSUMER = "_tracekit_consumer"
_FORKED = "_tracekit_forked"
_FETCHES = "_tracekit_fetches"


def install(data: ModuleType) -> Callable[[], None]:
    """Number the batches of every DataLoader of this process and of its workers."""
    loaders, fetchers = data.dataloader, data._utils.fetch
    patches: list[tuple[Any, str, Any]] = [
        (loaders._BaseDataLoaderIter, "__next__", _next),
        (loaders._BaseDataLoaderIter, "_next_index", _next_index),
        (loaders._MultiProcessingDataLoaderIter, "__init__", _start_workers),
        (fetchers._MapDatasetFetcher, "fetch", _fetch),
        (fetchers._IterableDatasetFetcher, "fetch", _fetch),
    ]
    put_back = replace((cls, name, make(getattr(cls, name))) for cls, name, make in patches)

    def undo() -> None:
        _count_consumers()
        _next_capture()
        put_back()

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


_TAG = "tracekit step"
"""Begins what forked workers get for a batch: with its step number, when it was sent, and its indices. They have this hook,
and a tuple of these is pickled in half the time of a class."""


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


class _Served(list[Any]):
    """The indices of a batch, as torch's loop goes through them."""

    served: Iterator[Any]

    def __iter__(self) -> Iterator[Any]:
        return self.served


class _ScopedIterator:
    """A stream of samples outside a DataLoader, each in its scope."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self._drawn = itertools.count()

    def __iter__(self) -> _ScopedIterator:
        return self

    def __next__(self) -> Any:
        scope = enter(_interleaved(next(self._drawn), _worker_info()()))
        try:
            return next(self._iterator)
        finally:
            leave(scope)


class _Consumer:
    """Who iterates over a loader. When it asked for batches and got them is counted each quarter of a second: what is done
    between two batches is done with cold caches."""

    __slots__ = ("__weakref__", "capture", "clock", "counted_ns", "times")

    def __init__(self, clock: ConsumerClock) -> None:
        self.clock = clock
        self.capture = _capture
        self.counted_ns = 0
        self.times: list[int] = []
        """Monotonic ns: asked and handed in turn."""
        _consumers.add(self)

    def count(self) -> None:
        """Count the batches that it has got."""
        got = len(self.times) // 2 * 2
        times = self.times[:got]
        del self.times[:got]
        if self.capture != _capture:
            return
        for asked_ns, handed_ns in zip(times[::2], times[1::2], strict=True):
            self.clock.asked(asked_ns)
            self.clock.handed(handed_ns)

    def got_none(self, *, ended: bool) -> None:
        """There was no next batch, or an error in its place."""
        self.count()
        if self.capture != _capture:
            return
        self.clock.asked(self.times.pop())
        if ended:
            self.clock.ended()
        else:
            self.clock.gave_up()

    def __del__(self) -> None:  # a loop that breaks off drops its iterator
        if not sys.is_finalizing():
            self.count()


_consumers: weakref.WeakSet[_Consumer] = weakref.WeakSet()


def _count_consumers() -> None:
    for consumer in list(_consumers):
        consumer.count()


_capture = 0
"""Counts the captures of this process. A forked child's is another: it does not count what its parent counts."""


def _next_capture() -> None:
    global _capture
    _capture += 1


os.register_at_fork(after_in_child=_next_capture)


def _next(original: Any) -> Any:
    """Count the consumer of a loader: closed pacing needs its think times and the loader's structure."""

    def __next__(self: Any) -> Any:
        consumer: _Consumer | None = vars(self).get(_CONSUMER)
        if consumer is None or consumer.capture != _capture:
            session = sessions.active()
            if session is None:
                return original(self)
            consumer = vars(self)[_CONSUMER] = _consumer(self, session)
        times = consumer.times
        times.append(time.monotonic_ns())
        try:
            batch = original(self)
        except StopIteration:
            consumer.got_none(ended=True)
            vars(self)[_CONSUMER] = None  # persistent workers use the same iterator for the next epoch
            raise
        except BaseException:
            consumer.got_none(ended=False)
            raise
        handed_ns = time.monotonic_ns()
        times.append(handed_ns)
        if handed_ns - consumer.counted_ns > LONGEST_WAIT_NS:
            consumer.counted_ns = handed_ns
            consumer.count()
        return batch

    return __next__


def _consumer(iterator: Any, session: sessions.Session) -> _Consumer:
    workers = int(getattr(iterator, "_num_workers", 0))
    ahead = workers * int(getattr(iterator, "_prefetch_factor", None) or 0)
    clock = ConsumerClock(session, workers=max(workers, 1), ahead=ahead, stream=workers > 0)
    atexit.unregister(_count_consumers)
    atexit.register(_count_consumers)  # before the recorder, which the clock has just used, ends
    return _Consumer(clock)


def _next_index(original: Any) -> Any:
    def next_index(self: Any) -> Any:
        index = original(self)
        if sessions.active() is None:
            return index
        if vars(self).get(_FORKED):
            return (_TAG, next(_steps), time.monotonic_ns(), index)
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
        starting = loader.multiprocessing_context or multiprocessing
        vars(self)[_FORKED] = starting.get_start_method() == "fork"
        try:
            original(self, loader)
        finally:
            loader.worker_init_fn = inner

    return __init__


def _fetch(original: Any) -> Any:
    def fetch(self: Any, index: Any) -> Any:
        fetches: _Fetches = vars(self).get(_FETCHES) or vars(self).setdefault(_FETCHES, _Fetches(self))
        fetches.begun += 1
        if type(index) is tuple and len(index) == 4 and type(index[0]) is str and index[0] == _TAG:
            _, number, sent_ns, index = index
        else:
            number, sent_ns, index = fetches.untagged(index)
        begun_ns = time.monotonic_ns()
        if fetches.by_sample:
            index = _Served(index)
        batch = enter_batch(number, index if fetches.by_key else fetches.sample_ids(index))
        if fetches.by_sample:
            index.served = batch.served(index)
        else:
            batch.one()
        try:
            return original(self, index)
        finally:
            fetches.end(batch, sent_ns, begun_ns)

    return fetch


class _Fetches:
    """What a fetcher has done so far, and how it goes about it."""

    __slots__ = ("begun", "by_key", "by_sample", "drawn", "ended_ns", "info")

    def __init__(self, fetcher: Any) -> None:
        self.info = _worker_info()()
        self.begun = 0
        self.ended_ns: int | None = None
        self.drawn = 0 if hasattr(fetcher, "dataset_iter") else None
        """How many samples an iterable dataset was asked for; None for others."""
        self.by_key = fetcher.auto_collation and self.drawn is None and _one_by_one(fetcher.dataset)
        """Whether torch's loop asks for one sample after the other by its key, which is its sample_id."""
        self.by_sample = self.by_key or (fetcher.auto_collation and self.drawn is not None)

    def untagged(self, index: Any) -> tuple[int, int | None, Any]:
        """Return the step number of a batch, when it was sent to this worker (monotonic ns), and the host's index."""
        if isinstance(index, (_StepList, _StepInt)):
            return index.number, index.sent_ns, list(index) if isinstance(index, _StepList) else int(index)
        return _interleaved(self.begun - 1, self.info), None, index

    def sample_ids(self, index: Any) -> Sequence[Any]:
        """The sample_ids of a batch that is not fetched by key."""
        if self.drawn is None:
            return (index,)
        first, workers = self.drawn, 1 if self.info is None else self.info.num_workers
        self.drawn += len(index) if self.by_sample else 1
        return range(_interleaved(first, self.info), _interleaved(self.drawn, self.info), workers)

    def end(self, batch: Batch, sent_ns: int | None, begun_ns: int) -> None:
        """Count what a worker took for a batch, and how soon it began after it could. The ops show neither."""
        if sent_ns is None or self.info is None:
            leave_batch(batch)
            return
        now = time.monotonic_ns()
        took = now - begun_ns
        # The first batch of a worker waits for the worker to start.
        picked_up = -1 if self.ended_ns is None else begun_ns - max(sent_ns, self.ended_ns)
        self.ended_ns = now
        if not leave_batch(batch, took, picked_up) and (session := sessions.active()) is not None:
            session.count_all(worker_counters([took], [picked_up]))


def _one_by_one(dataset: Any) -> bool:
    """Whether torch's loop asks a dataset for one sample after the other. A subset does so below a function for all of them."""
    if not getattr(dataset, "__getitems__", None):
        return True
    from torch.utils.data import Subset

    return type(dataset) is Subset and not getattr(dataset.dataset, "__getitems__", None)


def _interleaved(drawn: int, info: Any) -> int:
    """The global number of a worker's `drawn`-th sample, counted as if workers took turns."""
    return drawn if info is None else int(drawn * info.num_workers + info.id)


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
            scope = enter(sample_number(index))
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
