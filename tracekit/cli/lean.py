"""Keeps pandas and SciPy out of the processes of verbs that do not need them.

pyarrow imports pandas, where it is installed, when it makes its first array, and numba imports SciPy when it loads
its first function. Each takes longer than many verbs need for all they do. No verb uses a frame: only the
reader of Darshan logs does, which is a package of its own. Only the report finds phases with SciPy.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["leave_out"]

_NEEDING_PANDAS = ("import",)
_WITHOUT_SCIPY = ("replay",)


class _Absent:
    """A finder that says of packages that they are not installed."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in self._names:
            raise ModuleNotFoundError(f"tracekit leaves {name} out of this verb", name=name)
        return None


def leave_out(words: Sequence[str]) -> None:
    """Make the packages that the command line `words` does not need look absent in this process."""
    verb = words[0] if words else None
    names = ["pandas"] if verb not in _NEEDING_PANDAS else []
    names += ["scipy"] if verb in _WITHOUT_SCIPY else []
    sys.meta_path.insert(0, _Absent(names))
