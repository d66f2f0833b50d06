"""What can go wrong, as few classes as callers need to tell apart.

Every error that tracekit raises on purpose is a `TracekitError`: one clear
message (what, where) and a hint (what to do). The CLI prints both on one line
and exits with `exit_code`. This module imports nothing of tracekit.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "ParityError",
    "TraceFormatError",
    "TracekitError",
    "UsageError",
]


class TracekitError(Exception):
    """Base of all deliberate errors: `message` says what and where, `hint` what to do."""

    exit_code: int = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message, self.hint))


class UsageError(TracekitError):
    """An option, argument or value that cannot be meant."""


class TraceFormatError(TracekitError):
    """A trace, segment or foreign log that cannot be read as what it claims to be."""


class BackendError(TracekitError):
    """Storage said no. `error_class` is the stable class that the op's row carries."""

    def __init__(self, message: str, hint: str = "", error_class: str = "io_error") -> None:
        super().__init__(message, hint)
        self.error_class = error_class

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message, self.hint, self.error_class))


class ParityError(TracekitError):
    """A replay or comparison fell outside its tolerance."""

    exit_code = 1
