"""tracekit: record how a loader reads storage, understand it with SQL, re-drive it faithfully.

This is the public face; docs/api/python-api.md describes it. Importing it imports no
cloud, fsspec or torch library.
"""

__version__ = "0.1.0"

from tracekit import capture
from tracekit.capture import open, sample, step
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
    "open",
    "open_trace",
    "replay",
    "sample",
    "step",
]
