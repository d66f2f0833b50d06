"""Joins the capture that TRACEKIT_TRACE names when a Python starts with this directory on its path.

`tracekit capture` and `tracekit.capture.start` put it on PYTHONPATH. It never prevents an
interpreter from starting, and it runs any other `sitecustomize` that it shadows.
"""

import importlib.util
import os
import sys
from importlib.machinery import PathFinder

_HERE = os.path.dirname(os.path.abspath(__file__))


def _join() -> None:
    if not os.environ.get("TRACEKIT_TRACE"):
        return
    try:
        from tracekit.capture.session import join_quietly
    except Exception:  # noqa: BLE001 - another Python, without a usable tracekit, runs unrecorded
        return
    join_quietly()


def _next_sitecustomize() -> None:
    """Run the `sitecustomize` that this one shadows, if any."""
    rest = [path for path in sys.path if os.path.abspath(path or ".") != _HERE]
    spec = PathFinder.find_spec("sitecustomize", rest)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_next_sitecustomize()
_join()
