"""What happens to recorders when their process forks or exits.

A forked child starts afresh. At exit, every recorder that is still open is closed. This also holds for
children of multiprocessing, which run no atexit handlers.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import multiprocessing.util
import os
import weakref
from typing import Protocol

from tracekit.errors import TracekitError

__all__ = ["Recording", "close_at_exit", "discard", "register"]

_log = logging.getLogger(__name__)


class Recording(Protocol):
    """An object that writes a trace from this process."""

    @property
    def started(self) -> bool: ...

    def close(self) -> None: ...

    def forked(self) -> object: ...


_live: weakref.WeakSet[Recording] = weakref.WeakSet()
_inherited: list[object] = []
"""The parent's open segments in a forked child, kept because closing them would write to them."""


def register(recording: Recording) -> None:
    """Close `recording` when this process exits, and restart it in forked children."""
    _live.add(recording)


def discard(recording: Recording) -> None:
    """Forget a recording that has been closed."""
    _live.discard(recording)


def close_at_exit(recording: Recording) -> None:
    """Also close `recording` at the exit of a child of multiprocessing, if it has started in that child."""
    _finalize(recording)
    # A forkserver worker runs its main module, which may record, before multiprocessing clears the
    # finalizers and then calls these functions.
    multiprocessing.util.register_after_fork(recording, _finalize)


def _finalize(recording: Recording) -> None:
    if recording.started and multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, _close_quietly, args=(weakref.ref(recording),), exitpriority=10)


def _close_quietly(reference: weakref.ref[Recording]) -> None:
    recording = reference()
    if recording is not None:
        try:
            recording.close()
        except TracekitError as error:  # the process is exiting, so there is no caller to raise to
            _log.error("%s", error)


def _close_all() -> None:
    for recording in list(_live):
        _close_quietly(weakref.ref(recording))


def _after_fork_in_child() -> None:
    _inherited.extend(recording.forked() for recording in list(_live))


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_close_all)
