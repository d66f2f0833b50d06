"""Exceptions that tracekit raises, and the error classes of failed ops.

Every error that tracekit raises on purpose is a `TracekitError`: a message (what and
where) and a hint (what to do). The CLI prints both on one line and exits with
`exit_code`. `ErrorClass` holds the only strings that the `error` column may contain,
and the only tables that map an errno, an HTTP status or another tool's words to them.
This module imports nothing of tracekit.
"""

from __future__ import annotations

import errno as e
import os
import re
from enum import StrEnum
from functools import lru_cache

__all__ = [
    "BackendError",
    "ErrorClass",
    "ParityError",
    "TraceFormatError",
    "TracekitError",
    "UsageError",
]


class ErrorClass(StrEnum):
    """Why an op failed: a value of the `error` column. `meaning` is one line for the docs."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> ErrorClass:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    NOT_FOUND = "not_found", "no such file, object, bucket or container"
    PERMISSION = "permission", "access denied, a read-only file system, or no valid credentials"
    TIMEOUT = "timeout", "no answer, or no further byte, in time"
    THROTTLED = "throttled", "the store asked the client to slow down"
    UNREACHABLE = "unreachable", "no connection, or the connection broke off"
    SERVER_ERROR = "server_error", "the store failed (HTTP 5xx)"
    SHORT_READ = "short_read", "fewer bytes than requested: the object ended early"
    OUT_OF_RANGE = (
        "out_of_range",
        "an offset or length outside the object or outside what the system can address",
    )
    EXISTS = "exists", "the target already exists"
    CONFLICT = "conflict", "another operation on the same object got in the way"
    WRONG_REGION = "wrong_region", "the store redirects to another region or host"
    BAD_KEY = "bad_key", "the client or the file system cannot use this name"
    UNSUPPORTED = "unsupported", "the target does not support the operation"
    OUT_OF_MEMORY = "out_of_memory", "the request does not fit into memory"
    CANCELLED = "cancelled", "the op was interrupted or cancelled"
    IO_ERROR = "io_error", "any other I/O error"
    UNKNOWN = "unknown", "a foreign log reported a failure without a known reason"

    @classmethod
    def from_errno(cls, number: int) -> ErrorClass:
        """Return the class of an errno; negative numbers are taken as the kernel returns them."""
        return _BY_ERRNO.get(abs(number), cls.IO_ERROR)

    @classmethod
    def from_http(cls, status: int, code: str = "") -> ErrorClass:
        """Return the class of an HTTP status (0 if there was no answer) and the store's own error code."""
        if code in _BY_CODE:
            return _BY_CODE[code]
        if status == 503 and not code:  # the answer to a HEAD has no body, hence no code
            return cls.THROTTLED
        if status in _BY_STATUS:
            return _BY_STATUS[status]
        if status >= 500:
            return cls.SERVER_ERROR
        return cls.IO_ERROR

    @classmethod
    def from_text(cls, text: str) -> ErrorClass:
        """Return the class that another tool's words describe; `UNKNOWN` if they describe none.

        Understands our own names, errno names and messages, HTTP statuses, and the
        names that stores and client libraries give to their errors.
        """
        return _from_text(text)


_BY_ERRNO = {
    **dict.fromkeys((e.ENOENT, e.ENOTDIR), ErrorClass.NOT_FOUND),
    **dict.fromkeys((e.EACCES, e.EPERM, e.EROFS), ErrorClass.PERMISSION),
    **dict.fromkeys((e.ETIMEDOUT, e.ETIME), ErrorClass.TIMEOUT),
    **dict.fromkeys(
        (e.ECONNREFUSED, e.ECONNRESET, e.ECONNABORTED, e.ENOTCONN, e.EPIPE, e.ESHUTDOWN),
        ErrorClass.UNREACHABLE,
    ),
    **dict.fromkeys((e.EHOSTDOWN, e.EHOSTUNREACH, e.ENETDOWN, e.ENETUNREACH), ErrorClass.UNREACHABLE),
    **dict.fromkeys((e.EOVERFLOW, e.EFBIG), ErrorClass.OUT_OF_RANGE),
    e.EEXIST: ErrorClass.EXISTS,
    **dict.fromkeys((e.EBUSY, e.ETXTBSY, e.ENOTEMPTY), ErrorClass.CONFLICT),
    **dict.fromkeys((e.ENAMETOOLONG, e.EILSEQ), ErrorClass.BAD_KEY),
    **dict.fromkeys((e.EINVAL, e.EOPNOTSUPP, e.ENOSYS, e.EISDIR, e.ESPIPE), ErrorClass.UNSUPPORTED),
    e.ENOMEM: ErrorClass.OUT_OF_MEMORY,
    **dict.fromkeys((e.EINTR, e.ECANCELED), ErrorClass.CANCELLED),
}
_BY_STATUS = {
    **dict.fromkeys((301, 302, 303, 307, 308), ErrorClass.WRONG_REGION),
    **dict.fromkeys((401, 403, 407), ErrorClass.PERMISSION),
    **dict.fromkeys((404, 410), ErrorClass.NOT_FOUND),
    **dict.fromkeys((405, 501), ErrorClass.UNSUPPORTED),
    408: ErrorClass.TIMEOUT,
    409: ErrorClass.CONFLICT,
    412: ErrorClass.EXISTS,
    416: ErrorClass.OUT_OF_RANGE,
    429: ErrorClass.THROTTLED,
    499: ErrorClass.CANCELLED,
}
_BY_CODE = {
    **dict.fromkeys(
        (
            "SlowDown",
            "ServerBusy",
            "TooManyRequests",
            "Throttling",
            "ThrottlingException",
            "RequestLimitExceeded",
            "RequestThrottled",
            "BandwidthLimitExceeded",
            "ServiceUnavailable",
        ),
        ErrorClass.THROTTLED,
    ),
    **dict.fromkeys(
        (
            "ExpiredToken",
            "InvalidToken",
            "TokenRefreshRequired",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "AuthenticationFailed",
            "AuthorizationHeaderMalformed",
            "InvalidAuthenticationInfo",
            "AccessDenied",
        ),
        ErrorClass.PERMISSION,
    ),
    **dict.fromkeys(("RequestTimeout", "OperationTimedOut"), ErrorClass.TIMEOUT),
    **dict.fromkeys(("BlobAlreadyExists", "PreconditionFailed"), ErrorClass.EXISTS),
    **dict.fromkeys(("NoSuchKey", "NoSuchBucket", "BlobNotFound", "ContainerNotFound"), ErrorClass.NOT_FOUND),
    "InvalidRange": ErrorClass.OUT_OF_RANGE,
}
_BY_WORDS = (
    (ErrorClass.SHORT_READ, ("unexpectedeof", "unexpectedendoffile", "shortread", "incomplete")),
    (ErrorClass.NOT_FOUND, ("notfound", "nosuch", "doesnotexist")),
    (ErrorClass.TIMEOUT, ("timeout", "timedout", "deadline")),
    (
        ErrorClass.PERMISSION,
        (
            "denied",
            "forbidden",
            "permission",
            "unauthorized",
            "unauthenticated",
            "signature",
            "credentials",
            "expiredtoken",
            "invalidtoken",
            "invalidaccesskey",
            "notpermitted",
        ),
    ),
    (
        ErrorClass.THROTTLED,
        (
            "slowdown",
            "throttl",
            "toomany",
            "reduceyourrequest",
            "serverbusy",
            "ratelimit",
            "serviceunavailable",
        ),
    ),
    (ErrorClass.EXISTS, ("alreadyexists", "fileexists", "preconditionfailed")),
    (ErrorClass.OUT_OF_RANGE, ("outofrange", "invalidrange", "notsatisfiable")),
    (ErrorClass.OUT_OF_MEMORY, ("outofmemory", "memoryerror", "cannotallocate")),
    (ErrorClass.UNSUPPORTED, ("notsupported", "unsupported", "notimplemented", "invalidargument")),
    (
        ErrorClass.UNREACHABLE,
        ("refused", "unreachable", "resetbypeer", "noroute", "nosuchhost", "dns", "connect", "brokenpipe"),
    ),
    (ErrorClass.CANCELLED, ("cancel", "aborted", "interrupted")),
    (ErrorClass.SERVER_ERROR, ("internal", "servererror", "badgateway")),
    (ErrorClass.CONFLICT, ("conflict",)),
    (ErrorClass.IO_ERROR, ("ioerror", "inputoutput")),
)
"""Parts of messages, in lower case without spaces and punctuation. The first match decides."""
_NAMES = frozenset(ErrorClass)
_ERRNO_NAMES = {name.lower(): number for number, name in e.errorcode.items()}
_ERRNO_MESSAGES = {
    os.strerror(number).lower(): number
    for number in sorted(e.errorcode, key=lambda number: -len(os.strerror(number)))  # one may begin another
}
_STATUS = re.compile(r"(?:^|http\S*|status|code|error)[\s:=]*([45]\d\d)\b")


@lru_cache(maxsize=4096)
def _from_text(text: str) -> ErrorClass:
    lower = text.strip().lower()
    if lower in _NAMES:
        return ErrorClass(lower)
    for word in re.findall(r"\be[a-z0-9]{2,}\b", lower):
        if word in _ERRNO_NAMES:
            return ErrorClass.from_errno(_ERRNO_NAMES[word])
    for message, number in _ERRNO_MESSAGES.items():
        if message in lower:
            return ErrorClass.from_errno(number)
    squeezed = re.sub(r"[^a-z0-9]+", "", lower)
    for kind, parts in _BY_WORDS:
        if any(part in squeezed for part in parts):
            return kind
    status = _STATUS.search(lower)
    return ErrorClass.from_http(int(status[1])) if status else ErrorClass.UNKNOWN


class TracekitError(Exception):
    """Base class of tracekit's errors: `message` says what and where, `hint` what to do."""

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
    """An invalid option, argument or value."""


class TraceFormatError(TracekitError):
    """A trace, segment or foreign log that cannot be read."""


class BackendError(TracekitError):
    """A failed storage request. `error_class` is what the op's row carries."""

    def __init__(
        self,
        message: str,
        hint: str = "",
        error_class: ErrorClass = ErrorClass.IO_ERROR,
        tries: int | None = None,
        wait_ns: int = 0,
    ) -> None:
        super().__init__(message, hint)
        self.error_class = ErrorClass(error_class)
        self.tries = tries
        """How often the request was sent; None where it cannot be sent again."""
        self.wait_ns = wait_ns
        """From the first submit to that of the last try."""

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message, self.hint, self.error_class, self.tries, self.wait_ns))


class ParityError(TracekitError):
    """A replay or comparison is outside its tolerance."""

    exit_code = 1
