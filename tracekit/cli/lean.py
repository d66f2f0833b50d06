"""Keeps pandas out of a verb's process.

pyarrow imports pandas, where it is installed, when it makes its first array. That takes longer than most verbs
need for all they do, and no verb uses a frame; only the reader of Darshan logs, a package of its own, does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["leave_pandas_out"]

_NEEDING = ("import",)


class _Absent:
    """A finder that says of pandas that it is not installed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "pandas":
            raise ModuleNotFoundError("tracekit's command line leaves pandas out", name=name)
        return None


def leave_pandas_out(words: Sequence[str]) -> None:
    """Make pandas look absent to what the command line `words` imports in this process."""
    if not words or words[0] not in _NEEDING:
        sys.meta_path.insert(0, _Absent())
