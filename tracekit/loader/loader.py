"""The loader: a dataset in batches, read ahead by workers, under one in-flight cap.

Workers are threads: backends leave the interpreter lock while they read. The consumer
decides when reads are submitted (`_Run`), the workers only do them (`Engine`), so that a
consumer that goes away leaves nothing running: threads hold the engine, never the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import weakref
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

from tracekit.consumer import ConsumerClock
from tracekit.errors import UsageError
from tracekit.gate import Gate
from tracekit.keywords import LoaderKeywords
from tracekit.loader.dataset import Dataset, Source, create_dataset, named, source_uris
from tracekit.loader.engine import Engine
from tracekit.loader.options import LoaderOptions
from tracekit.loader.order import Order, sample_order
from tracekit.loader.reading import SampleReader
from tracekit.loader.work import Batch, Sample
from tracekit.recorder import Recorder

__all__ = ["AsyncLoader", "Batch", "Sample", "create_async_loader"]


def create_async_loader(
    uri: Source | Iterable[Source] | Dataset,
    options: LoaderOptions | Mapping[str, Any] | None = None,
    recorder: Recorder | str | os.PathLike[str] | None = None,
    *,
    keep_data: bool = True,
    **given: Unpack[LoaderKeywords],
) -> AsyncLoader:
    """A loader over the samples at `uri` (or of a dataset): `async for` and `for` give its batches.

    `options` may be a LoaderOptions, a dict, or keywords with the same names. A `recorder`
    gets every op as a row; given as a path, a trace is recorded there and finished when the
    loader is closed. With `keep_data` false the bytes are read and let go: samples carry
    their size only, and memory stays at what is in flight.

    Raises UsageError for an option or URI that cannot be meant, BackendError if the samples
    cannot be listed.
    """
    chosen = LoaderOptions.of(options, **given)
    sources = uri if isinstance(uri, Dataset) else source_uris(uri)
    own_recorder = None
    was_there = recorder is None or isinstance(recorder, Recorder) or Path(recorder).exists()
    if recorder is not None and not isinstance(recorder, Recorder):
        recorder = own_recorder = _recorder(recorder, sources, chosen)
    try:
        dataset = (
            sources if isinstance(sources, Dataset) else create_dataset(sources, chosen, recorder=recorder)
        )
        if isinstance(sources, Dataset) and dataset.sample_bytes != chosen.sample_bytes:
            raise UsageError(
                f"sample_bytes={chosen.sample_bytes} but the dataset was made with {dataset.sample_bytes}",
                "give both the same options",
            )
    except BaseException:
        if own_recorder is not None:
            own_recorder.close()
            if not was_there:  # nothing was read: leave no trace of the attempt
                shutil.rmtree(own_recorder.path, ignore_errors=True)
        raise
    owned = (None if isinstance(sources, Dataset) else dataset, own_recorder)
    return AsyncLoader(dataset, chosen, recorder, keep_data=keep_data, owned=owned)


class AsyncLoader:
    """Batches of a dataset: `async for batch in loader`, or `for` from sync code.

    Each iteration is an epoch, with its own order; steps go on counting. It begins to read
    when the first batch is asked for. A sample's error is raised where its batch is due and
    ends the iteration. `close` (or a with-block) ends what the loader itself opened.
    """

    def __init__(
        self,
        dataset: Dataset,
        options: LoaderOptions,
        recorder: Recorder | None = None,
        *,
        keep_data: bool = True,
        owned: tuple[Dataset | None, Recorder | None] = (None, None),
    ) -> None:
        self.dataset = dataset
        self.options = options
        self.recorder = recorder
        self.gate = Gate(options.bytes_of("max_bytes_in_flight"))
        self._keep_data = keep_data
        self._owned = owned
        self._epoch = 0
        self._step = 0
        self._runs: weakref.WeakSet[_Run] = weakref.WeakSet()

    def __len__(self) -> int:
        """Batches of an epoch."""
        options = self.options
        samples = len(range(options.shard_rank, len(self.dataset), options.shard_world_size))
        return samples // options.batch_size if options.drop_last else -(-samples // options.batch_size)

    def __iter__(self) -> _Run:
        return self._run()

    def __aiter__(self) -> _Run:
        return self._run()

    def close(self) -> None:
        """Stop reading, and close what the loader opened: a backend, a recorder made from a path."""
        for run in list(self._runs):
            run.close()
        dataset, recorder = self._owned
        if recorder is not None:
            recorder.close()
        if dataset is not None:
            dataset.close()

    async def aclose(self) -> None:
        self.close()

    def __enter__(self) -> AsyncLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> AsyncLoader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> _Run:
        order = sample_order(len(self.dataset), self.options, self._epoch)
        run = _Run(self, order, self._step, self._keep_data)
        self._epoch += 1
        self._step += run.steps
        self._runs.add(run)
        return run


class _Run:
    """One epoch, as the consumer sees it: an iterator, sync and async."""

    def __init__(self, loader: AsyncLoader, order: Order, first_step: int, keep_data: bool) -> None:
        options = loader.options
        self._dataset = loader.dataset
        self._order = order
        self._batch_size = options.batch_size
        self._ahead = 0 if options.loading_mode == "sequential" else options.prefetch
        self._cap_bytes = options.bytes_of("max_bytes_in_flight")
        self.steps = -(-len(order) // options.batch_size)
        gate, backend = loader.gate, loader.dataset.backend
        reader = SampleReader(backend, options, gate, loader.recorder, keep_data)
        self._engine = Engine(reader, options, len(order), first_step)
        self._consumer = ConsumerClock(loader.recorder, workers=options.num_workers, ahead=self._ahead)
        self._handed = 0
        self._submitted = 0
        self._bytes_ahead = 0

    def __iter__(self) -> _Run:
        return self

    def __aiter__(self) -> _Run:
        return self

    def __next__(self) -> Batch:
        future = self._ask()
        if future is None:
            raise StopIteration
        try:
            return self._hand_over(future.result())
        except BaseException:
            self.close()
            raise

    async def __anext__(self) -> Batch:
        future = self._ask()
        if future is None:
            raise StopAsyncIteration
        try:
            await _done(future)
            return self._hand_over(future.result())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop reading: what is submitted ends, nothing more begins. Idempotent."""
        self._handed = self.steps
        self._engine.close()

    def __del__(self) -> None:  # a consumer that breaks off lets go of the run: its workers end here
        engine = getattr(self, "_engine", None)
        if engine is not None and not sys.is_finalizing():
            engine.close()

    def _ask(self) -> Future[Batch] | None:
        """The future of the next batch, submitted by now; None at the end."""
        self._consumer.asked()
        if self._handed >= self.steps:
            self.close()
            return None
        self._submit(self._handed + 1)
        return self._engine.future(self._handed)

    def _hand_over(self, batch: Batch) -> Batch:
        self._bytes_ahead -= batch.nbytes
        self._engine.forget(self._handed)
        self._handed += 1
        if self._ahead:
            self._submit(self._handed)
        self._consumer.handed()
        return batch

    def _submit(self, asked: int) -> None:
        """Submit the batches asked for so far, and ahead of them what the window and the cap allow.

        What is submitted and not handed over counts against the cap: that bounds memory, as
        the gate bounds what is in flight. A batch that was asked for goes whatever its size.
        """
        must = asked * self._batch_size
        may = min((asked + self._ahead) * self._batch_size, len(self._order))
        while self._submitted < may:
            ref = self._dataset[int(self._order[self._submitted])]
            over = self._cap_bytes is not None and self._bytes_ahead + ref.length > self._cap_bytes
            if over and self._submitted >= must:
                return
            self._bytes_ahead += ref.length
            self._engine.submit(ref, self._submitted)
            self._submitted += 1


async def _done(future: Future[Batch]) -> None:
    """Return when `future` has its result; cancelling the wait leaves the future alone."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    future.add_done_callback(lambda _: _wake(loop, done))
    await done.wait()


def _wake(loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
        loop.call_soon_threadsafe(done.set)


def _recorder(path: str | os.PathLike[str], sources: list[str] | Dataset, options: LoaderOptions) -> Recorder:
    name = sources.uri if isinstance(sources, Dataset) else named(sources)
    return Recorder(
        path,
        source="loader",
        options={"uri": name, **options.to_dict()},
        rank=options.shard_rank,
        world_size=options.shard_world_size,
    )
