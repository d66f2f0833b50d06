"""Runs compiled functions: numba makes their machine code once for each user, and LLVM loads it from a file."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import logging
import platform
import threading
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.cache import cache_directory
from tracekit.replayer.engines.oplog import warm_up

__all__ = ["call", "is_compiled", "lacking", "preload"]

_log = logging.getLogger("tracekit")
_COMPILED = (
    "entry.py",
    "machine.py",
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
_ENTRY = "tracekit_entry"
_loading = threading.Lock()
_functions: dict[tuple[str, str], Callable[[int, int, int], int]] = {}


@cache
def lacking() -> str | None:
    """Why compiled functions cannot run, and what to do; None if they can."""
    if find_spec("numba") is None:
        return "numba is not installed: pip install 'tracekit[fast]'"
    if is_compiled():
        return None
    try:
        importlib.import_module("numba")
    except ImportError as error:  # numba refuses a numpy that it does not know
        return f"numba cannot be imported: {error}"
    return None


def preload() -> None:
    """Begin the imports that take long in another thread, while a long plan is read."""

    def imports() -> None:
        if lacking() is None:
            importlib.import_module("tracekit.replayer.engines.machine")
        warm_up()

    threading.Thread(target=imports, name="tracekit-imports").start()


def is_compiled(function: str = "kernel.work") -> bool:
    """Whether this user has machine code of this version already."""
    return any(_directory().glob(f"{function}-*.o"))


def call(function: str, *arguments: Any) -> int:
    """Run a compiled function, such as "kernel.work", without the interpreter lock.

    It takes contiguous arrays, named tuples of them, and integers, and returns an integer. It is compiled before if this
    user, processor and version have no machine code of it for arguments of these types.
    """
    run = _function(function, arguments)
    table = np.fromiter(_words(arguments), np.int64)
    result, failure = ctypes.c_int64(), ctypes.c_int64()
    if status := run(ctypes.addressof(result), ctypes.addressof(failure), table.ctypes.data):
        raise RuntimeError(f"{function} ended with status {status} of numba")
    return result.value


def _function(name: str, arguments: tuple[Any, ...]) -> Callable[[int, int, int], int]:
    """The C function of a compiled function for arguments of these types."""
    form = _form(arguments)
    with _loading:
        if (name, form) not in _functions:
            _functions[name, form] = _load(name, form, arguments)
        return _functions[name, form]


def _load(name: str, form: str, arguments: tuple[Any, ...]) -> Callable[[int, int, int], int]:
    """Load the machine code from its file, or have numba make it."""
    from tracekit.replayer.engines import machine

    made_for = hashlib.sha256(f"{form} {machine.processor()}".encode()).hexdigest()[:16]
    path = _directory() / f"{name}-{made_for}.o"
    code = machine.kept(path)
    if code is None:
        _log.warning("compiling the replay engine: some seconds, once for each user and version")
        from tracekit.replayer.engines.entry import compiled

        module, _, function = name.partition(".")
        imported = importlib.import_module(f"tracekit.replayer.engines.{module}")
        code = compiled(getattr(imported, function), arguments, _ENTRY)
        try:
            machine.keep(code, path)
        except OSError as error:
            _log.warning("the machine code is not kept for the next replay: %s", error)
    return machine.link(code, _ENTRY)


def _form(value: Any) -> str:
    """The types of arguments, as a name."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str[1:]}x{value.ndim}"
    return f"({','.join(map(_form, value))})" if isinstance(value, tuple) else "i"


def _words(value: Any) -> Iterator[int]:
    """The table of arguments: the address and the lengths of each array, and the integers."""
    if isinstance(value, np.ndarray):
        if not value.flags.c_contiguous:
            raise ValueError("an array is not contiguous")
        yield value.ctypes.data
        yield from value.shape
    elif isinstance(value, tuple):
        for member in value:
            yield from _words(member)
    else:
        yield int(value)


@cache
def _directory() -> Path:
    """The directory of the machine code. Its name tells the compiled source, numba and the architecture apart."""
    sources = [(Path(__file__).parent / name).read_bytes() for name in _COMPILED]
    digest = hashlib.sha256(b"\0".join(sources)).hexdigest()[:12]
    return cache_directory(f"engine-{digest}-numba-{version('numba')}-{platform.machine()}")
