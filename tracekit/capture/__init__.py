"""Records the storage I/O of code that does not use tracekit.

Call `start("run.trace")` and `stop()`, or set the environment variable `TRACEKIT_TRACE`; see
docs/capture.md. Importing this package imports none of the hooked libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tracekit.capture.context import sample, step
from tracekit.capture.hooks.files import open
from tracekit.capture.known import HOOKS
from tracekit.capture.session import Session, active, join, start, stop

if TYPE_CHECKING:
    from tracekit.capture.command import CaptureResult
    from tracekit.capture.command import capture_command as run

__all__ = [
    "HOOKS",
    "CaptureResult",
    "Session",
    "active",
    "join",
    "open",
    "run",
    "sample",
    "start",
    "step",
    "stop",
]

if (
    not TYPE_CHECKING
):  # imported when it is asked for: it needs Arrow, which a captured program may do without

    def __getattr__(name: str) -> object:
        attribute = {"run": "capture_command", "CaptureResult": "CaptureResult"}.get(name)
        if attribute is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module("tracekit.capture.command"), attribute)
