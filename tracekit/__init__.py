"""tracekit: record how a loader reads storage, understand it with SQL, re-drive it faithfully.

This is the public face; docs/api/python-api.md describes it. Importing it imports no
cloud, fsspec or torch library.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tracekit.version import __version__

if TYPE_CHECKING:
    from tracekit.capture import open as open
    from tracekit.capture import sample, step
    from tracekit.comparison.parity import compare
    from tracekit.errors import BackendError, ParityError, TraceFormatError, TracekitError, UsageError
    from tracekit.loader.dataset import create_dataset
    from tracekit.loader.loader import create_async_loader
    from tracekit.loader.options import LoaderOptions
    from tracekit.recorder import Recorder
    from tracekit.replayer.run import replay
    from tracekit.trace import Trace, open_trace

__all__ = [
    "BackendError",
    "LoaderOptions",
    "ParityError",
    "Recorder",
    "Trace",
    "TraceFormatError",
    "TracekitError",
    "UsageError",
    "__version__",
    "capture",
    "compare",
    "create_async_loader",
    "create_dataset",
    "open_trace",
    "replay",
    "sample",
    "step",
]

# Imported when they are asked for: a program that is captured imports this package at its start,
# and must not get Arrow, NumPy and DuckDB with it before its own first line.
_HOMES = {
    **dict.fromkeys(
        ("BackendError", "ParityError", "TraceFormatError", "TracekitError", "UsageError"), "tracekit.errors"
    ),
    **dict.fromkeys(("open", "sample", "step"), "tracekit.capture"),
    "LoaderOptions": "tracekit.loader.options",
    "Recorder": "tracekit.recorder",
    "Trace": "tracekit.trace",
    "compare": "tracekit.comparison.parity",
    "create_async_loader": "tracekit.loader.loader",
    "create_dataset": "tracekit.loader.dataset",
    "open_trace": "tracekit.trace",
    "replay": "tracekit.replayer.run",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        return getattr(importlib.import_module(home), name)
    try:
        if not name.startswith("_"):
            return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
