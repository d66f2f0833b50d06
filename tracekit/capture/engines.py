"""The engines that record file I/O below a language, best first."""

from __future__ import annotations

from tracekit.capture.native import NativeEngine, missing
from tracekit.capture.tools.dftracer import DFTracerEngine
from tracekit.capture.tools.engine import Engine
from tracekit.capture.tools.strace import StraceEngine
from tracekit.errors import UsageError
from tracekit.validation import choosing

__all__ = ["ENGINES", "METHODS", "choose_engine", "why_another"]

ENGINES: tuple[Engine, ...] = (NativeEngine(), DFTracerEngine(), StraceEngine())
"""Best first: `auto` takes the first that is available."""
METHODS = ("auto", *(engine.name for engine in ENGINES), "hooks")


def choose_engine(method: str) -> tuple[Engine | None, str]:
    """Return the engine that `method` names, and the path of its library or program; None for hooks alone."""
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}", choosing(method, METHODS))
    if method == "hooks":
        return None, ""
    for engine in ENGINES:
        if method in ("auto", engine.name) and (tool := engine.available()) is not None:
            return engine, tool
    hints = {
        "native": f"{missing()}; or use method=strace",
        "dftracer": "pip install 'tracekit[capture]', or use method=native",
        "strace": "install strace, or use method=native",
        "auto": "install gcc, strace or 'tracekit[capture]'; method=hooks records Python's object clients only",
    }
    what = "no engine" if method == "auto" else f"the engine {method!r}"
    raise UsageError(
        f"{what} is {'installed' if method == 'auto' else 'not installed'} to record file I/O", hints[method]
    )


def why_another(method: str, engine: Engine | None) -> tuple[str, ...]:
    """Return a note if `auto` had to take another engine than the best."""
    if method != "auto" or engine is None or engine.name == ENGINES[0].name:
        return ()
    return (f"{engine.name} recorded, because there is no native engine: {missing()}",)
