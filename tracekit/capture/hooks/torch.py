"""PyTorch: which sample, step and worker the ops below a `DataLoader` serve.

Records no op itself. A loader's batches are numbered where they are asked for, and the number
travels with the indices into the worker process; there each sample is fetched inside its
scope. Datasets, samplers and batches are what they were: nothing of the host's is replaced,
and an index that we cannot number goes through as it is.
"""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from tracekit.capture import context
from tracekit.capture import session as sessions
from tracekit.capture.session import hook_failed

__all__ = ["install", "wrap"]

_steps = itertools.count()


def install(data: ModuleType) -> Callable[[], None]:
    """Number the batches of every DataLoader of this process, and of its workers."""
    loaders, fetchers = data.dataloader, data._utils.fetch
    patches: list[tuple[Any, str, Any]] = [
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
    """A `Dataset` or `IterableDataset` whose samples are known below, for loops without a DataLoader.

    Attributes of the dataset show through. A DataLoader is returned as it is: the hook
    `torch` sees it.
    """
    from torch.utils.data import DataLoader, IterableDataset

    if isinstance(thing, DataLoader):
        return thing
    return (_iterable_class() if isinstance(thing, IterableDataset) else _map_class())(thing)


class _StepList(list[Any]):
    """A batch of indices that knows its number."""

    number: int


class _StepInt(int):
    """An index that knows the number of its batch of one."""

    number: int


class _WorkerInit:
    """A worker's first call: joins the capture (a spawned worker knows nothing of it), then the host's own."""

    def __init__(self, inner: Callable[[int], None] | None) -> None:
        self.inner = inner
        session = sessions.active()
        self.environ = session.environment() if session is not None else {}

    def __call__(self, worker_id: int) -> None:
        try:
            sessions.join({**os.environ, **self.environ})
            context.set_worker(worker_id)
        except Exception as error:  # noqa: BLE001 - the worker loads all the same
            hook_failed("torch", error)
        if self.inner is not None:
            self.inner(worker_id)


class _SeenDataset:
    """What a fetcher asks for samples: the dataset, each sample inside its scope."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, index: Any) -> Any:
        with context.scope(sample_id=_whole(index)):
            return self._dataset[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)


class _SeenIterator:
    """A stream of samples, numbered so that no two workers' numbers meet."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self._drawn = itertools.count()

    def __iter__(self) -> _SeenIterator:
        return self

    def __next__(self) -> Any:
        with context.scope(sample_id=_interleaved(next(self._drawn))):
            return next(self._iterator)


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
        self.dataset = _SeenDataset(self.dataset)

    return __init__


def _iterable_fetcher(original: Any) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.dataset_iter = _SeenIterator(self.dataset_iter)

    return __init__


def _fetch(original: Any) -> Any:
    def fetch(self: Any, index: Any) -> Any:
        fetched = vars(self).setdefault("_tracekit_fetched", itertools.count())
        drawn = next(fetched)
        number = getattr(index, "number", None) if isinstance(index, (_StepList, _StepInt)) else None
        if isinstance(index, _StepList):
            index = list(index)
        elif isinstance(index, _StepInt):
            index = int(index)
        with context.scope(number=_interleaved(drawn) if number is None else number):
            return original(self, index)

    return fetch


def _whole(index: Any) -> int | None:
    """The index as a sample_id; None for a dataset whose keys are no numbers."""
    try:
        return operator.index(index)
    except TypeError:
        return None


def _interleaved(drawn: int) -> int:
    """The `drawn`-th of this worker, as if workers took turns."""
    from torch.utils.data import get_worker_info

    info = get_worker_info()
    return drawn if info is None else drawn * info.num_workers + info.id


def _map_class() -> Any:
    from torch.utils.data import Dataset

    class RecordedDataset(Dataset):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, dataset: Any) -> None:
            self._dataset = dataset

        def __getitem__(self, index: Any) -> Any:
            with context.scope(sample_id=_whole(index)):
                return self._dataset[index]

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
            return _SeenIterator(iter(self._dataset))

        def __getattr__(self, name: str) -> Any:
            if name == "_dataset":
                raise AttributeError(name)
            return getattr(self._dataset, name)

        def __reduce__(self) -> tuple[Any, ...]:
            return (wrap, (self._dataset,))

    return RecordedIterableDataset
