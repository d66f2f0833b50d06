"""Do something when a library gets imported, and never import it ourselves.

A hook for a library that the program has not imported (and may never) waits here: a finder
at the head of `sys.meta_path` lets the import go its usual way, then calls. It must cost
an import of anything else no more than a dictionary look-up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["forget", "when_imported"]

Callback = Callable[[ModuleType], None]


def when_imported(name: str, callback: Callback) -> None:
    """Call `callback(module)` once module `name` has been imported: now, if it has been."""
    module = sys.modules.get(name)
    if module is not None and getattr(getattr(module, "__spec__", None), "_initializing", False) is not True:
        callback(module)
        return
    _waiting.setdefault(name, []).append(callback)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def forget() -> None:
    """Call nobody any more."""
    _waiting.clear()
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)


_waiting: dict[str, list[Callback]] = {}


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _waiting:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    _call_after_exec(fullname, spec.loader)
                return spec
        return None


def _call_after_exec(name: str, loader: Loader) -> None:
    original = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        original(module)
        for callback in _waiting.pop(name, ()):
            callback(module)

    # The loader belongs to this one spec, so the instance is changed and not its class.
    loader.exec_module = exec_module  # type: ignore[method-assign]


_FINDER = _Finder()
