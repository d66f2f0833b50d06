"""Loads the compiled loop: whether numba can, and where its machine code is kept."""

from __future__ import annotations

import hashlib
import importlib
import logging
import platform
import threading
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from tracekit.cache import cache_directory
from tracekit.replayer.engines.oplog import warm_up

__all__ = ["is_compiled", "lacking", "load_kernel", "preload"]

_log = logging.getLogger("tracekit")
_COMPILED = (
    "kernel.py",
    "closed.py",
    "rule.py",
    "standby.py",
    "inflight.py",
    "turns.py",
    "cap.py",
    "local.py",
    "native.py",
    "words.py",
    "arrays.py",
    "../payload.py",
    "../kinds.py",
    "../modelled.py",
)
"""The source that the machine code is made from, or takes constants from."""


@cache
def lacking() -> str | None:
    """Why the compiled loop cannot be loaded, and what to do; None if it can."""
    try:
        importlib.import_module("numba")
    except ImportError as error:  # numba refuses a numpy that it does not know
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            return "numba is not installed: pip install 'tracekit[fast]'"
        return f"numba cannot be imported: {error}"
    return None


def preload() -> None:
    """Begin the imports that take long in another thread, while a long plan is read."""

    def imports() -> None:
        lacking()
        warm_up()

    threading.Thread(target=imports, name="tracekit-imports").start()


@cache
def load_kernel(function: str = "kernel.work") -> ModuleType:
    """The module of a compiled function. Its machine code is cached for the user, never beside the source."""
    import numba

    folder = _directory()
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        module = importlib.import_module(f"tracekit.replayer.engines.{function.partition('.')[0]}")
    finally:
        numba.config.CACHE_DIR = before
    if is_compiled(function):
        _load_alone(getattr(module, function.partition(".")[2]))
    else:
        _log.warning("compiling the replay engine: some seconds, once for each user and version")
    return module


def _load_alone(compiled: Any) -> None:
    """Let numba load the cached machine code of a function without all that it needs to compile one.

    It would register every function that it knows first, which takes four fifths of the time. Where the code turns out
    not to be in the cache, such as for another processor, the compiler registers them.
    """
    from numba.core.runtime import rtsys

    cache: Any = getattr(compiled, "_cache", None)
    load = getattr(cache, "_load_overload", None)
    if load is None:  # a numba that works differently
        return

    def load_overload(sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)
        return load(sig, target_context)

    cache.load_overload = load_overload


def is_compiled(function: str = "kernel.work") -> bool:
    """Whether this user has machine code of this version already. Does not import numba, which is installed."""
    return any(_directory().rglob(f"{function}-*.nbc"))


def _directory() -> Path:
    """The directory of the machine code. Its name tells the compiled source, numba and the architecture apart.

    numba itself keeps the code of each processor model apart.
    """
    sources = [(Path(__file__).parent / name).read_bytes() for name in _COMPILED]
    digest = hashlib.sha256(b"\0".join(sources)).hexdigest()[:12]
    return cache_directory(f"engine-{digest}-numba-{version('numba')}-{platform.machine()}")
