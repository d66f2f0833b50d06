"""What becomes of the finished segments of a long recording: the oldest are removed, and all are copied to a store.

Whoever hands over a segment never waits. A store that cannot be reached is tried again until the recorder closes;
what is not shipped by then stays on disk, and is named.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tracekit.backends.base import Backend
from tracekit.backends.registry import backend_for, known_schemes, schemes_in_words
from tracekit.errors import UsageError
from tracekit.long_options import KEEPING
from tracekit.store.layout import SEALED_NAME
from tracekit.store.rolling import RollingSegments
from tracekit.store.rotation import rotate
from tracekit.uri import clean, scheme_of
from tracekit.validation import parse_all

__all__ = ["Keeping", "Shipper"]

_log = logging.getLogger(__name__)
_SEGMENTS_KEPT = 16
"""Into how many journals at least a limited trace is cut, so that little is removed at once."""
_SHIP_EACH_S, _SHIP_WAIT_S = 60.0, 5.0
"""How long a segment grows at most before it is shipped, and how long the end of a recorder waits for the store."""
_LONGEST_PAUSE_S = 60.0


class Keeping:
    """The options `keep` and `ship` of one recorder, and what they do. Raises UsageError for an invalid one."""

    def __init__(self, **given: object) -> None:
        options = parse_all(KEEPING, given)
        self.keep: int | None = options["keep"]
        self.ship = None if options["ship"] is None else _destination(options["ship"])
        self.journal_bytes = None if self.keep is None else self.keep // _SEGMENTS_KEPT
        self.forget()

    @property
    def settings(self) -> dict[str, object]:
        return {"keep": self.keep, "ship": self.ship}

    def forget(self) -> None:
        """Start afresh in a forked child, which has none of its parent's threads."""
        self._shipper: Shipper | None = None

    def begin(self, trace_id: str, count: Callable[[str, int], None]) -> None:
        """Start the thread that ships. `count` adds to the counters of the trace."""
        self._count = count
        if self.ship is not None:
            self._shipper = Shipper(f"{self.ship}/{trace_id}", count)

    def finished(self, segment: Path) -> None:
        """Take care of a new segment."""
        if self._shipper is not None:
            self._shipper.put(segment)
        if self.keep is not None:
            rotate(segment.parent, self.keep)

    def tend(self, segments: RollingSegments, counters: Mapping[str, int]) -> None:
        """Finish the open segment if it has not been shipped for long."""
        if self._shipper is not None:
            segments.roll_after(_SHIP_EACH_S, counters)

    def end(self, root: Path) -> None:
        """Ship the list of segments too, if the trace is complete, and wait a little for the store."""
        if self._shipper is not None:
            if (root / SEALED_NAME).exists():
                self._shipper.put(root / SEALED_NAME)
            self._shipper.close(_SHIP_WAIT_S)


def _destination(uri: str) -> str:
    if scheme_of(uri) not in known_schemes():
        raise UsageError(
            f"ship={clean(uri)}: unknown scheme {scheme_of(uri)!r}", f"known are {schemes_in_words()}"
        )
    return clean(uri).rstrip("/")


class Shipper:
    """Copies files to `folder`, a URI, one after the other. `count` adds to the counters of the trace."""

    def __init__(self, folder: str, count: Callable[[str, int], None]) -> None:
        self._folder = folder
        self._count = count
        self._backend: Backend | None = None
        self._files: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._given = self._done = 0
        self._failed = ""
        self._thread = threading.Thread(target=self._loop, name="tracekit-shipper", daemon=True)
        self._thread.start()

    def put(self, file: Path) -> None:
        """Have `file` copied."""
        self._given += 1
        self._files.put(file)

    def close(self, wait_s: float) -> int:
        """Wait at most this long for the rest; return how many files were not copied."""
        self._files.put(None)
        until = time.monotonic() + wait_s
        while self._thread.is_alive() and time.monotonic() < until:
            self._thread.join(0.05)
            if self._failed:  # the store cannot be reached: each of the rest is tried once
                self._ending.set()
        self._ending.set()
        left = self._given - self._done
        if left:
            why = f": {self._failed}" if self._failed else f" within {wait_s:g} s"
            _log.warning(
                "%d files of the trace were not copied to %s%s; they stay on disk", left, self._folder, why
            )
        return left

    def _loop(self) -> None:
        while (file := self._files.get()) is not None:
            pause = 0.5
            while not self._ship(file):
                if self._ending.wait(pause):
                    break
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        if self._backend is not None:
            self._backend.close()

    def _ship(self, file: Path) -> bool:
        """Copy one file; return whether there is nothing left to do for it."""
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            self._count("segments_removed_before_shipping", 1)
            self._done += 1
            return True
        try:
            if self._backend is None:
                self._backend = backend_for(self._folder)
            self._backend.put(f"{self._folder}/{file.name}", data, overwrite=True)
        except Exception as error:  # noqa: BLE001 - the program that records must not learn of it
            if not self._failed:
                _log.warning("cannot copy to %s yet: %s", self._folder, error)
            self._failed = str(error)
            self._count("ship_failures", 1)
            return False
        self._failed = ""
        self._count("shipped_segments", 1)
        self._count("shipped_bytes", len(data))
        self._done += 1
        return True
