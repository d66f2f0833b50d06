"""tracekit: record how a loader reads storage, understand it with SQL, re-drive it faithfully.

This is the public face; docs/api/python-api.md describes it. Importing it imports no
cloud, fsspec or torch library.
"""

__version__ = "0.1.0"

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracekit.capture import open as open
    from tracekit.capture import sample, step
    from tracekit.errors import BackendError, ParityError, TraceFormatError, TracekitError, UsageError
    from tracekit.loader.dataset import create_dataset
    from tracekit.loader.loader import create_async_loader
    from tracekit.loader.options import LoaderOptions
    from tracekit.parity import compare
    from tracekit.recorder import Recorder
    from tracekit.replay.engine import replay
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
    "compare": "tracekit.parity",
    "create_async_loader": "tracekit.loader.loader",
    "create_dataset": "tracekit.loader.dataset",
    "open_trace": "tracekit.trace",
    "replay": "tracekit.replay.engine",
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


class _Face(ModuleType):
    """This module, whose `replay` is the function: importing the package of that name would put itself there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
