"""tracekit: record how a loader reads storage, understand it with SQL, replay it faithfully.

This module is the public interface, which docs/api/python-api.md describes. Importing it imports no
Arrow, DuckDB, NumPy, cloud or torch library: a captured program imports it when it starts.
"""

import importlib
from typing import TYPE_CHECKING

from tracekit.version import __version__

if TYPE_CHECKING:
    from tracekit import capture as capture
    from tracekit.backends.doctor import Diagnosis, doctor
    from tracekit.backends.registry import backend_for
    from tracekit.capture import open as open
    from tracekit.capture import sample, step
    from tracekit.capture.proxy.run import Proxy, ProxyResult, proxy
    from tracekit.comparison.divergence import Divergence, diverge
    from tracekit.comparison.table import Parity
    from tracekit.errors import (
        BackendError,
        ErrorClass,
        ParityError,
        TraceFormatError,
        TracekitError,
        UsageError,
    )
    from tracekit.formats.registry import ExportResult, ImportResult, export_trace, import_trace
    from tracekit.live.reading import Reading
    from tracekit.live.watching import watch
    from tracekit.loader.dataset import Dataset, create_dataset
    from tracekit.loader.loader import AsyncLoader, Batch, Sample, create_async_loader
    from tracekit.loader.options import LoaderOptions
    from tracekit.loader.profiles import PROFILES, profile
    from tracekit.loader.record import RecordResult, record
    from tracekit.metrics.histogram import Histogram
    from tracekit.metrics.snapshot import MetricsSnapshot
    from tracekit.questions.ask import QUESTIONS, Answer, Question, ask
    from tracekit.recorder import Recorder
    from tracekit.replayer.checks import PlanSummary
    from tracekit.replayer.compare import compare
    from tracekit.replayer.materialize import Materialized, materialize
    from tracekit.replayer.options import ReplayOptions
    from tracekit.replayer.result import ReplayResult
    from tracekit.replayer.run import dry_run, replay
    from tracekit.reporting.page import report
    from tracekit.reporting.plots import plot
    from tracekit.scale.merging import Merged, merge
    from tracekit.serving.server import Server, serve
    from tracekit.serving.tools import mcp
    from tracekit.store.check import Finding, Repair, repair, verify
    from tracekit.trace import Trace, open_trace
    from tracekit.walkthrough import DemoResult, demo

_NAMES = {
    "tracekit.backends.doctor": "Diagnosis doctor",
    "tracekit.backends.registry": "backend_for",
    "tracekit.capture": "open sample step",
    "tracekit.capture.proxy.run": "Proxy ProxyResult proxy",
    "tracekit.comparison.divergence": "Divergence diverge",
    "tracekit.comparison.table": "Parity",
    "tracekit.errors": "BackendError ErrorClass ParityError TraceFormatError TracekitError UsageError",
    "tracekit.formats.registry": "ExportResult ImportResult export_trace import_trace",
    "tracekit.live.reading": "Reading",
    "tracekit.live.watching": "watch",
    "tracekit.loader.dataset": "Dataset create_dataset",
    "tracekit.loader.loader": "AsyncLoader Batch Sample create_async_loader",
    "tracekit.loader.options": "LoaderOptions",
    "tracekit.loader.profiles": "PROFILES profile",
    "tracekit.loader.record": "RecordResult record",
    "tracekit.metrics.histogram": "Histogram",
    "tracekit.metrics.snapshot": "MetricsSnapshot",
    "tracekit.questions.ask": "QUESTIONS Answer Question ask",
    "tracekit.recorder": "Recorder",
    "tracekit.replayer.checks": "PlanSummary",
    "tracekit.replayer.compare": "compare",
    "tracekit.replayer.materialize": "Materialized materialize",
    "tracekit.replayer.options": "ReplayOptions",
    "tracekit.replayer.result": "ReplayResult",
    "tracekit.replayer.run": "dry_run replay",
    "tracekit.reporting.page": "report",
    "tracekit.reporting.plots": "plot",
    "tracekit.scale.merging": "Merged merge",
    "tracekit.serving.server": "Server serve",
    "tracekit.serving.tools": "mcp",
    "tracekit.store.check": "Finding Repair repair verify",
    "tracekit.trace": "Trace open_trace",
    "tracekit.walkthrough": "DemoResult demo",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "PROFILES",
    "QUESTIONS",
    "Answer",
    "AsyncLoader",
    "BackendError",
    "Batch",
    "Dataset",
    "DemoResult",
    "Diagnosis",
    "Divergence",
    "ErrorClass",
    "ExportResult",
    "Finding",
    "Histogram",
    "ImportResult",
    "LoaderOptions",
    "Materialized",
    "Merged",
    "MetricsSnapshot",
    "Parity",
    "ParityError",
    "PlanSummary",
    "Proxy",
    "ProxyResult",
    "Question",
    "Reading",
    "RecordResult",
    "Recorder",
    "Repair",
    "ReplayOptions",
    "ReplayResult",
    "Sample",
    "Server",
    "Trace",
    "TraceFormatError",
    "TracekitError",
    "UsageError",
    "__version__",
    "ask",
    "backend_for",
    "capture",
    "compare",
    "create_async_loader",
    "create_dataset",
    "demo",
    "diverge",
    "doctor",
    "dry_run",
    "export_trace",
    "import_trace",
    "materialize",
    "mcp",
    "merge",
    "open",
    "open_trace",
    "plot",
    "profile",
    "proxy",
    "record",
    "repair",
    "replay",
    "report",
    "sample",
    "serve",
    "step",
    "verify",
    "watch",
]

if not TYPE_CHECKING:  # a checker that saw this would accept every attribute

    def __getattr__(name: str) -> object:
        """Import a public name from its module when it is first asked for."""
        if name == "capture":
            return importlib.import_module("tracekit.capture")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
