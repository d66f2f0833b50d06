"""Joins the capture that TRACEKIT_TRACE names, in a Python that has this directory on its path.

Put on PYTHONPATH by `tracekit capture` and `tracekit.capture.start`. It must never keep an
interpreter from starting, nor hide another `sitecustomize`.
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
    except Exception:  # noqa: BLE001 - another Python, without tracekit or with half of one: it runs unrecorded
        return
    join_quietly()


def _next_sitecustomize() -> None:
    """Run the `sitecustomize` that this one hides, if there is one."""
    rest = [path for path in sys.path if os.path.abspath(path or ".") != _HERE]
    spec = PathFinder.find_spec("sitecustomize", rest)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_next_sitecustomize()
_join()
