"""What a store's refusal means: one stable class, one line of detail, worth another try or not.

Every client library words its errors differently; their modules find the HTTP status and
the store's own code, and this one table decides. It must never pass on a body, a header or
a signed URL: only the code and the first line of the message, redacted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tracekit.errors import ErrorClass
from tracekit.uri import redact

__all__ = [
    "Failure",
    "credentials_failure",
    "from_status",
    "one_line",
    ErrorClass.TIMEOUT,
    ErrorClass.UNREACHABLE,
]

_CODE = re.compile(r"<Code>([^<]{1,80})</Code>")
_MESSAGE = re.compile(r"<Message>([^<\n\\]{1,200})")
_RETRYABLE = (ErrorClass.THROTTLED, ErrorClass.TIMEOUT, ErrorClass.SERVER_ERROR)
_CONTAINER_CODES = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"})


@dataclass(frozen=True, slots=True)
class Failure:
    """One refusal. `status` is the HTTP status, 0 where none came."""

    error_class: ErrorClass
    detail: str
    retryable: bool = False
    status: int = 0
    container_missing: bool = False


def from_status(status: int, text: str = "", code: str = "", message: str = "") -> Failure:
    """Judge an HTTP answer by its status and the code in `text` (an XML body) or in `code`."""
    code = code or _first(_CODE, text)
    message = message or _first(_MESSAGE, text)
    told = " ".join(part for part in (f"HTTP {status}", code) if part)
    detail = redact(f"{told}: {one_line(message)}" if message else told)
    error_class = ErrorClass.from_http(status, code)
    return Failure(
        error_class,
        detail,
        retryable=error_class in _RETRYABLE,
        status=status,
        container_missing=code in _CONTAINER_CODES,
    )


def timeout(detail: str) -> Failure:
    """No answer, or no further byte, in time."""
    return Failure(ErrorClass.TIMEOUT, one_line(detail), retryable=True)


def unreachable(detail: str) -> Failure:
    """No connection, or one that broke off."""
    return Failure(ErrorClass.UNREACHABLE, one_line(detail), retryable=True)


def credentials_failure(detail: str) -> Failure:
    """No credentials, or ones that cannot be had."""
    return Failure(ErrorClass.PERMISSION, one_line(detail))


def one_line(text: str) -> str:
    """The first line of a library's message, redacted, at most 200 characters."""
    stripped = redact(text).strip()
    return stripped.splitlines()[0][:200] if stripped else ""


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1].strip() if match else ""
