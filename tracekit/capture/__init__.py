"""Records the storage I/O of code that does not use tracekit.

Call `start("run.trace")` and `stop()`, or set the environment variable `TRACEKIT_TRACE`; see
docs/capture.md. Importing this package imports none of the hooked libraries.
"""

from __future__ import annotations

from tracekit.capture.context import sample, step
from tracekit.capture.hooks.files import open
from tracekit.capture.session import HOOKS, Session, active, join, start, stop

__all__ = ["HOOKS", "Session", "active", "join", "open", "sample", "start", "step", "stop"]
