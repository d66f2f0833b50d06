"""Writes checkpoints as the ranks of a training job do, and records every op.

Each rank is a thread: it writes its share to a file of its own, or to its range of one shared file.
On object stores a share is one put or the parts of an upload.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tracekit.backends.base import Backend
from tracekit.backends.changing import CAPABILITIES, LEAST_PART, Upload
from tracekit.backends.local.files import seeded_content
from tracekit.backends.tally import tally_of_tries
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.recorder import Recorder
from tracekit.units import format_size
from tracekit.uri import scheme_of

__all__ = ["Shape", "check_place", "save"]

_REQUEST = 8 << 20
_COLUMNS = (
    "t_submit",
    "uri",
    "op",
    "offset",
    "len",
    "bytes",
    "latency",
    "step",
    "rank",
    "part",
    "error",
    "tries",
    "wait_ns",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a checkpoint looks like: `nbytes` of each of `ranks`, written in requests of `request_bytes`."""

    ranks: int
    nbytes: int
    layout: str
    sync: str
    request_bytes: int
    seed: int

    @classmethod
    def of(cls, uri: str, options: Mapping[str, Any], *, request_bytes: int | None, seed: int) -> Shape:
        """The shape that options of `record` ask for. Raises UsageError for what the target `uri` cannot do."""
        scheme, request = scheme_of(uri), request_bytes or _REQUEST
        able = CAPABILITIES.get(scheme, frozenset())
        sync = options["checkpoint_sync"]
        if not {"part", "write"} <= able:
            raise UsageError(
                f"{scheme}:// cannot take a checkpoint", "give a local directory, s3:// or az://"
            )
        if "sync" not in able and sync not in (None, "none"):
            raise UsageError(f"{scheme}:// has no sync", "leave out checkpoint_sync=")
        shape = cls(
            options["checkpoint_ranks"],
            options["checkpoint_bytes"],
            options["checkpoint_layout"],
            sync or ("file" if "sync" in able else "none"),
            request,
            seed,
        )
        least, sizes = LEAST_PART.get(scheme, 0), [size for _, size in shape.pieces()]
        if shape.in_parts and min(sizes if shape.shared and shape.ranks > 1 else sizes[:-1]) < least:
            raise UsageError(
                f"a part of {format_size(min(sizes))} is too small for {scheme}://",
                f"choose checkpoint_bytes= and target_request_bytes= so that parts have {format_size(least)} or more",
            )
        return shape

    @property
    def shared(self) -> bool:
        return self.layout == "shared"

    @property
    def in_parts(self) -> bool:
        """Whether an object store gets uploads in parts, not single puts."""
        return self.nbytes > self.request_bytes or (self.shared and self.ranks > 1)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Offset and length of the requests of one rank."""
        for first in range(0, self.nbytes, self.request_bytes):
            yield first, min(self.request_bytes, self.nbytes - first)

    def uri(self, folder: str, step: int, rank: int) -> str:
        """Where the rank writes."""
        name = "shared" if self.shared else f"rank-{rank:05}"
        return f"{folder.rstrip('/')}/step-{step:05}/{name}.ckpt"


def check_place(backend: Backend, folder: str, shape: Shape, steps: int) -> None:
    """Raise UsageError if there is something where a checkpoint would be written."""
    for step in range(steps):
        for rank in range(1 if shape.shared else shape.ranks):
            uri = shape.uri(folder, step, rank)
            try:
                backend.stat(uri)
            except BackendError as error:
                if error.error_class == ErrorClass.NOT_FOUND:
                    continue
                raise
            raise UsageError(f"{uri} is there already", "choose another place: nothing is overwritten")


def save(
    backend: Backend, folder: str, shape: Shape, step: int, recorder: Recorder, stop: threading.Event
) -> int:
    """Write one checkpoint; return its bytes. Raises BackendError for the first op that fails."""
    run = _Save(backend, folder, shape, step, stop)
    try:
        run.write()
    finally:
        run.close()
        if run.rows:
            columns = {name: [row.get(name) for row in run.rows] for name in _COLUMNS}
            types = {"uri": pa.string(), "op": pa.string(), "error": pa.string()}
            recorder.record_batch(
                pa.record_batch(
                    {name: pa.array(columns[name], types.get(name, pa.int64())) for name in _COLUMNS}
                )
            )
    return sum(row.get("bytes") or 0 for row in run.rows)


@dataclass(slots=True)
class _Save:
    """One checkpoint while it is written."""

    backend: Backend
    folder: str
    shape: Shape
    step: int
    stop: threading.Event
    rows: list[dict[str, Any]] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)

    def write(self) -> None:
        shape = self.shape
        with ThreadPoolExecutor(shape.ranks, thread_name_prefix="tracekit-rank") as pool:
            if not self.backend.remote:
                list(pool.map(self._file, range(shape.ranks)))
            elif not shape.in_parts:
                list(pool.map(self._put, range(shape.ranks)))
            elif shape.shared:
                upload = self._begin(0)
                list(pool.map(lambda rank: self._parts(rank, upload), range(shape.ranks)))
                self._complete(0, upload)
            else:
                list(pool.map(self._object, range(shape.ranks)))

    def close(self) -> None:
        """Give up uploads that are not complete."""
        for upload in self.uploads:
            upload.abort()

    def _file(self, rank: int) -> None:
        shape, uri = self.shape, self._uri(rank)
        base = rank * shape.nbytes if shape.shared else 0
        file = self.backend.changer.open_for_writing(uri)
        try:
            for first, size in self._going(rank):
                data = self._data(rank, first, size)
                with self._recorded(rank, uri, "write", base + first, size):
                    file.write(base + first, data)
                if shape.sync == "request":
                    self._sync(rank, uri)
        finally:
            file.close()
        if shape.sync == "file" and not self.stop.is_set():
            self._sync(rank, uri)

    def _sync(self, rank: int, uri: str) -> None:
        with self._recorded(rank, uri, "sync"):
            self.backend.changer.sync(uri)

    def _put(self, rank: int) -> None:
        uri, size = self._uri(rank), self.shape.nbytes
        data = self._data(rank, 0, size)
        with self._recorded(rank, uri, "put", 0, size):
            self.backend.put(uri, data)

    def _object(self, rank: int) -> None:
        upload = self._begin(rank)
        self._parts(rank, upload)
        self._complete(rank, upload)

    def _begin(self, rank: int) -> Upload:
        upload = self.backend.changer.upload(self._uri(rank))
        self.uploads.append(upload)
        return upload

    def _parts(self, rank: int, upload: Upload) -> None:
        shape, uri = self.shape, self._uri(rank)
        base = rank * shape.nbytes if shape.shared else 0
        before = rank * len(list(shape.pieces())) if shape.shared else 0
        for number, (first, size) in enumerate(self._going(rank), start=before + 1):
            data = self._data(rank, first, size)
            with self._recorded(rank, uri, "part", base + first, size, part=number):
                upload.part(number, base + first, data)

    def _complete(self, rank: int, upload: Upload) -> None:
        if not self.stop.is_set():
            with self._recorded(rank, self._uri(rank), "complete"):
                upload.complete()
            self.uploads.remove(upload)

    def _uri(self, rank: int) -> str:
        return self.shape.uri(self.folder, self.step, rank)

    def _going(self, rank: int) -> Iterator[tuple[int, int]]:
        """The requests of a rank, until the run is stopped."""
        for piece in self.shape.pieces():
            if self.stop.is_set():
                return
            yield piece

    def _data(self, rank: int, first: int, size: int) -> memoryview:
        """The bytes of a request, other ones in each."""
        data = self.backend.allocate(size)
        at, seed = 0, hash((self.shape.seed, self.step, rank, first)) & ((1 << 63) - 1)
        for chunk in seeded_content(size, seed):
            data[at : at + len(chunk)] = chunk
            at += len(chunk)
        return data

    @contextmanager
    def _recorded(
        self,
        rank: int,
        uri: str,
        op: str,
        offset: int | None = None,
        size: int | None = None,
        *,
        part: int | None = None,
    ) -> Iterator[None]:
        """Record the op that the block carries out; one that fails ends the run."""
        row: dict[str, Any] = {
            "uri": uri,
            "op": op,
            "offset": offset,
            "len": size,
            "step": self.step,
            "rank": rank,
            "part": part,
            "t_submit": time.monotonic_ns(),
        }
        try:
            with tally_of_tries() as tally:
                yield
            row |= {"bytes": size, "tries": tally.tries, "wait_ns": tally.wait_ns if tally.tries else None}
        except BackendError as error:
            row |= {"bytes": None if size is None else 0, "error": error.error_class.value}
            row |= {"tries": error.tries, "wait_ns": error.wait_ns}
            self.stop.set()
            raise
        finally:
            row["latency"] = time.monotonic_ns() - row["t_submit"] - (row.get("wait_ns") or 0)
            self.rows.append(row)
