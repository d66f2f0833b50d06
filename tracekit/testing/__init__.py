"""Parity in tests: `assert_parity`, and a pytest plugin that is found by itself. See docs/testing.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracekit.testing.assertion import assert_parity

__all__ = ["assert_parity"]

if not TYPE_CHECKING:  # imported when it is asked for: every run of pytest imports this package

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from tracekit.testing.assertion import assert_parity

        return assert_parity
