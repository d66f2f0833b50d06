"""Keeps pandas out of the processes of verbs that do not need it.

pyarrow imports pandas, where it is installed, when it makes its first array, which takes longer than many verbs
need for all they do. No verb uses a frame: only the reader of Darshan logs does, which is a package of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["leave_out"]

_NEEDING_PANDAS = ("import",)


class _Absent:
    """A finder that says of a package that it is not installed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == self._name:
            raise ModuleNotFoundError(f"tracekit leaves {name} out of this verb", name=name)
        return None


def leave_out(words: Sequence[str]) -> None:
    """Make pandas look absent in this process if the command line `words` does not need it."""
    if not words or words[0] not in _NEEDING_PANDAS:
        sys.meta_path.insert(0, _Absent("pandas"))
