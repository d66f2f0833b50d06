"""The loader: a dataset in batches, read ahead by workers, under one in-flight cap.

Workers are threads: backends release the interpreter lock while they read. The consumer's
iterator (`_Run`) decides when reads are submitted; the workers of an `Engine` perform them.
Threads hold the engine and never the run, so that a consumer that goes away ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

from tracekit.consumer import ConsumerClock
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.gate import Gate
from tracekit.job import rank_and_world_size
from tracekit.keywords import LoaderKeywords
from tracekit.loader.dataset import Dataset, Source, create_dataset, named, source_uris
from tracekit.loader.engine import Engine
from tracekit.loader.options import LoaderOptions
from tracekit.loader.order import Order, batches, sample_order
from tracekit.loader.reading import SampleReader
from tracekit.loader.work import Batch, Sample
from tracekit.recorder import Recorder

__all__ = ["AsyncLoader", "Batch", "Sample", "create_async_loader"]

_BRIEF_S = 0.02


def create_async_loader(
    uri: Source | Iterable[Source] | Dataset,
    options: LoaderOptions | Mapping[str, Any] | None = None,
    recorder: Recorder | str | os.PathLike[str] | None = None,
    *,
    keep_data: bool = True,
    **given: Unpack[LoaderKeywords],
) -> AsyncLoader:
    """Make a loader of the samples at `uri` (as `create_dataset` takes it) or of a dataset.

    Iterate over it with `async for` or `for` to get batches. `options` may be a LoaderOptions,
    a dict, or keywords with the same names. A `recorder` gets every op as a row; given as a
    path, a trace is recorded there and finished when the loader is closed. With `keep_data`
    false, samples carry their size but no data, and memory is bounded by what is in flight.

    Raises UsageError for an invalid option or URI, BackendError if the samples cannot be listed.
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
            if not was_there:  # nothing was read: remove the empty trace
                shutil.rmtree(own_recorder.path, ignore_errors=True)
        raise
    owned = (None if isinstance(sources, Dataset) else dataset, own_recorder)
    return AsyncLoader(dataset, chosen, recorder, keep_data=keep_data, owned=owned)


class AsyncLoader:
    """Batches of a dataset: `async for batch in loader`, or `for` in sync code.

    Each iteration is an epoch with its own order; steps are numbered through. Reading begins
    when the first batch is requested. The error of a sample is raised in place of its batch and
    ends the iteration; with `on_error="skip"` the batch comes without the sample. A wait that is cancelled (`asyncio.wait_for`) loses nothing: the next
    one gets the same batch. `close` (or a with-block) stops reading and closes what the loader opened.
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
        self.gate = Gate(options.max_bytes_in_flight)
        self.skipped_samples = 0
        """Samples that failed and were skipped (`on_error="skip"`), over all epochs."""
        self._keep_data = keep_data
        self._owned = owned
        self._epoch = 0
        self._step = 0
        self._runs: weakref.WeakSet[_Run] = weakref.WeakSet()
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()

    def __len__(self) -> int:
        """Batches of an epoch."""
        return batches(len(self.dataset), self.options)

    def __iter__(self) -> _Run:
        return self._run()

    def __aiter__(self) -> _Run:
        return self._run()

    def close(self) -> None:
        """Stop reading and close what the loader opened: its backend, a recorder made from a path.

        Waits for requests that are in flight. An iteration that has not ended raises BackendError
        of class `cancelled` from then on.
        """
        for run in list(self._runs):
            run.close()
        for engine in list(self._engines):  # of runs that are gone
            engine.close()
        dataset, recorder = self._owned
        if recorder is not None:
            recorder.close()
        if dataset is not None:
            dataset.close()

    async def aclose(self) -> None:
        """`close` without blocking the running event loop."""
        await asyncio.to_thread(self.close)

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
        await self.aclose()

    def _run(self) -> _Run:
        order = sample_order(len(self.dataset), self.options, self._epoch)
        run = _Run(self, order, self._step, self._keep_data)
        self._epoch += 1
        self._step += run.steps
        self._runs.add(run)
        self._engines.add(run.engine)
        return run


class _Run:
    """One epoch as the consumer sees it: an iterator, sync and async."""

    def __init__(self, loader: AsyncLoader, order: Order, first_step: int, keep_data: bool) -> None:
        options = loader.options
        self._loader = weakref.proxy(loader)
        self._dataset = loader.dataset
        self._order = order
        self._batch_size = options.batch_size
        self._ahead = 0 if options.loading_mode == "sequential" else options.prefetch
        self._cap_bytes = options.max_bytes_in_flight
        self.steps = -(-len(order) // options.batch_size)
        gate, backend = loader.gate, loader.dataset.backend
        reader = SampleReader(backend, options, gate, loader.recorder, keep_data)
        self.engine = Engine(reader, options, len(order), first_step)
        self._recorder = loader.recorder
        self._consumer = ConsumerClock(loader.recorder, workers=options.num_workers, ahead=self._ahead)
        self._closed = False
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
            batch = future.result()
        except BaseException:
            self._end()
            raise
        return self._hand_over(batch)

    async def __anext__(self) -> Batch:
        future = self._ask()
        if future is None:
            raise StopAsyncIteration
        await _done(future)  # if this is cancelled, the batch is kept for the next call
        try:
            batch = future.result()
        except BaseException:
            await asyncio.to_thread(self._end)
            raise
        return self._hand_over(batch)

    def close(self) -> None:
        """Stop reading: what is submitted ends, nothing more begins. Idempotent."""
        self._closed = True
        self._consumer.gave_up()
        self.engine.close()

    def __del__(self) -> None:  # a consumer that breaks off drops the run: its workers end here
        engine = getattr(self, "engine", None)
        if engine is None or sys.is_finalizing():
            return
        if not _in_event_loop():
            engine.close()
            return
        # Requests may be in flight for long. The loop waits for those that are about to end only.
        closing = threading.Thread(target=engine.close, name="tracekit-loader-close")
        closing.start()
        closing.join(_BRIEF_S)

    def _end(self) -> None:
        self._handed = self.steps
        self._consumer.gave_up()
        self.engine.close()

    def _ask(self) -> Future[Batch] | None:
        """Submit the next batch and return its future; None at the end."""
        self._consumer.asked()
        if self._handed >= self.steps:
            self._consumer.ended()
            self._end()
            return None
        if self._closed:
            self._consumer.gave_up()
            raise BackendError(
                f"the loader was closed after {self._handed} of {self.steps} batches",
                "close it after the last batch",
                ErrorClass.CANCELLED,
            )
        self._submit(self._handed + 1)
        return self.engine.future(self._handed)

    def _hand_over(self, batch: Batch) -> Batch:
        skipped = self.engine.forget(self._handed)
        if skipped:
            self._skip(len(skipped))
        self._bytes_ahead -= batch.nbytes + sum(ref.length for ref in skipped)
        self._handed += 1
        if self._ahead:
            self._submit(self._handed)
        self._consumer.handed()
        return batch

    def _skip(self, samples: int) -> None:
        if self._recorder is not None:
            self._recorder.count("skipped_samples", samples)
        with contextlib.suppress(ReferenceError):  # only the iterator is left of the loader
            self._loader.skipped_samples += samples

    def _submit(self, asked: int) -> None:
        """Submit the batches requested so far, and ahead of them what the window and the cap allow.

        What is submitted and not yet handed over counts against the cap: that bounds memory, as
        the gate bounds what is in flight. A requested batch is submitted whatever its size.
        """
        must = asked * self._batch_size
        may = min((asked + self._ahead) * self._batch_size, len(self._order))
        while self._submitted < may:
            ref = self._dataset[int(self._order[self._submitted])]
            over = self._cap_bytes is not None and self._bytes_ahead + ref.length > self._cap_bytes
            if over and self._submitted >= must:
                return
            self._bytes_ahead += ref.length
            self.engine.submit(ref, self._submitted)
            self._submitted += 1


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _done(future: Future[Batch]) -> None:
    """Wait until `future` has its result. Cancelling the wait does not cancel the future."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    future.add_done_callback(lambda _: _wake(loop, done))
    await done.wait()


def _wake(loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
        loop.call_soon_threadsafe(done.set)


def _recorder(path: str | os.PathLike[str], sources: list[str] | Dataset, options: LoaderOptions) -> Recorder:
    name = sources.uri if isinstance(sources, Dataset) else named(sources)
    rank: int | None = options.shard_rank
    world_size: int | None = options.shard_world_size
    if world_size == 1:  # not sharded: a rank of a job may read all of it
        rank, world_size = rank_and_world_size()
    return Recorder(
        path,
        source="loader",
        options={"uri": name, **options.to_dict()},
        rank=rank,
        world_size=world_size,
    )
