"""Classification of failed requests: an error class, one line of detail, whether to try again.

The module of each client library finds the HTTP status and the store's own error code;
`ErrorClass.from_http` classifies them. No body, header or signed URL may get into a
detail: only the code and the first line of the message, redacted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tracekit.errors import ErrorClass
from tracekit.redaction import redact

__all__ = [
    "CREDENTIALS_MARK",
    "Failure",
    "credentials_failure",
    "from_status",
    "one_line",
    "timeout",
    "unreachable",
]

CREDENTIALS_MARK = "tracekit-credentials: "
"""Prefix of the message that a credential provider of ours raises inside a client library."""

_CODE = re.compile(r"<Code>([^<]{1,80})</Code>")
_MESSAGE = re.compile(r"<Message>([^<\n\\]{1,200})")
_RETRYABLE = (ErrorClass.THROTTLED, ErrorClass.TIMEOUT, ErrorClass.SERVER_ERROR)
_CONTAINER_CODES = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"})


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request. `status` is the HTTP status, 0 if there was no answer."""

    error_class: ErrorClass
    detail: str
    retryable: bool = False
    status: int = 0
    container_missing: bool = False


def from_status(status: int, text: str = "", code: str = "", message: str = "") -> Failure:
    """Classify an HTTP answer by its status and by `code`, or the code in `text` (an XML body)."""
    code = code or _first(_CODE, text)
    message = message or _first(_MESSAGE, text)
    answer = " ".join(part for part in (f"HTTP {status}", code) if part)
    detail = redact(f"{answer}: {one_line(message)}" if message else answer)
    error_class = ErrorClass.from_http(status, code)
    return Failure(
        error_class,
        detail,
        retryable=error_class in _RETRYABLE,
        status=status,
        container_missing=code in _CONTAINER_CODES,
    )


def timeout(detail: str) -> Failure:
    """Classify a request without an answer, or without a further byte, in time."""
    return Failure(ErrorClass.TIMEOUT, one_line(detail), retryable=True)


def unreachable(detail: str) -> Failure:
    """Classify a request without a connection, or whose connection broke off."""
    return Failure(ErrorClass.UNREACHABLE, one_line(detail), retryable=True)


def credentials_failure(detail: str) -> Failure:
    """Classify a request for which there are no valid credentials."""
    return Failure(ErrorClass.PERMISSION, one_line(detail))


def one_line(text: str) -> str:
    """Return the first line of a library's message, redacted, at most 200 characters."""
    stripped = redact(text).strip()
    return stripped.splitlines()[0][:200] if stripped else ""


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1].strip() if match else ""
