"""What an exception of a host's call means as an op's `error`: one stable class.

Knows Python's own exceptions and, by duck typing, the HTTP status that cloud libraries
hang on theirs; it imports none of them.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError

from tracekit.errors import BackendError, ErrorClass

__all__ = ["error_class", "status_class"]


def error_class(error: BaseException) -> ErrorClass:
    """Return the class of what a call raised."""
    if isinstance(error, (asyncio.CancelledError, CancelledError, KeyboardInterrupt, GeneratorExit)):
        return ErrorClass.CANCELLED
    if isinstance(error, BackendError):
        return error.error_class
    if isinstance(error, MemoryError):
        return ErrorClass.OUT_OF_MEMORY
    status, code = _answer(error)
    if status:
        return ErrorClass.from_http(status, code)
    if isinstance(error, OSError) and error.errno is not None:
        return ErrorClass.from_errno(error.errno)
    named = ErrorClass.from_text(type(error).__name__)
    return ErrorClass.IO_ERROR if named is ErrorClass.UNKNOWN else named


def status_class(status: int, code: str = "") -> ErrorClass:
    """Return the class of an HTTP answer and the store's own code."""
    return ErrorClass.from_http(status, code)


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
