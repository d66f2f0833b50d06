"""Calls a function once a library has been imported, without importing it.

A finder at the front of `sys.meta_path` delegates the import to the other finders and then
calls the function. The import of any other module costs one dictionary look-up more.
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
    """Call `callback(module)` once the module `name` has been imported, or now if it already has."""
    module = sys.modules.get(name)
    if module is not None and getattr(getattr(module, "__spec__", None), "_initializing", False) is not True:
        callback(module)
        return
    _waiting.setdefault(name, []).append(callback)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def forget() -> None:
    """Drop all callbacks and remove the finder."""
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

    # The loader belongs to this spec alone, so the instance is patched, not its class.
    loader.exec_module = exec_module  # type: ignore[method-assign]


_FINDER = _Finder()
