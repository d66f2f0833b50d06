"""Recording what other people's code reads: one hook a module, and one call that puts them in.

`start("run.trace")` and `stop()`, or the environment variable `TRACEKIT_TRACE`; see
docs/capture.md. Importing this imports none of the hooked libraries.
"""

from __future__ import annotations

from tracekit.capture.context import sample, step
from tracekit.capture.hooks.files import open
from tracekit.capture.session import HOOKS, Session, active, join, start, stop

__all__ = ["HOOKS", "Session", "active", "join", "open", "sample", "start", "step", "stop"]
