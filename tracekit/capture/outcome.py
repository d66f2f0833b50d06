"""What an exception of a host's call means as an op's `error`: one stable class.

Knows Python's own exceptions and, by duck typing, the HTTP status that cloud libraries
hang on theirs; it imports none of them.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError
from errno import EACCES, ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EINTR, ENOENT, ENOTDIR, EPERM, ETIMEDOUT

from tracekit.backends.objects.failures import from_status

__all__ = ["error_class", "status_class"]

_BY_ERRNO = {
    ENOENT: "not_found", ENOTDIR: "not_found", EACCES: "permission", EPERM: "permission", ETIMEDOUT: "timeout",
    EINTR: "cancelled", ECONNREFUSED: "unreachable", ECONNRESET: "unreachable", EHOSTUNREACH: "unreachable",
}  # fmt: skip
_NAMED = (
    ("Timeout", "timeout"), ("TimedOut", "timeout"), ("NotFound", "not_found"), ("NoSuch", "not_found"),
    ("PermissionDenied", "permission"), ("Unauthenticated", "permission"), ("AccessDenied", "permission"),
    ("Connect", "unreachable"), ("EndpointConnection", "unreachable"), ("NoCredentials", "permission"),
    ("AlreadyExists", "exists"), ("Throttl", "throttled"), ("SlowDown", "throttled"),
    ("IncompleteRead", "short_read"),
)  # fmt: skip


def error_class(error: BaseException) -> str:
    """The class of what a call raised."""
    if isinstance(error, (asyncio.CancelledError, CancelledError, KeyboardInterrupt, GeneratorExit)):
        return "cancelled"
    if isinstance(error, FileNotFoundError):
        return "not_found"
    if isinstance(error, PermissionError):
        return "permission"
    if isinstance(error, TimeoutError):
        return "timeout"
    status, code = _answer(error)
    if status:
        return status_class(status, code)
    if isinstance(error, OSError) and error.errno in _BY_ERRNO:
        return _BY_ERRNO[error.errno]
    name = type(error).__name__
    return next((said for part, said in _NAMED if part in name), "io_error")


def status_class(status: int, code: str = "") -> str:
    """The class of an HTTP answer and the store's own code."""
    return from_status(status, code=code).error_class


def _answer(error: BaseException) -> tuple[int, str]:
    """HTTP status and code of an exception of botocore (`response`) or azure-core (`status_code`)."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = response.get("Error", {}).get("Code")
        return (status if isinstance(status, int) else 0, code if isinstance(code, str) else "")
    status = getattr(error, "status_code", None)
    code = getattr(error, "error_code", None)
    return (status if isinstance(status, int) else 0, str(getattr(code, "value", code) or ""))
