"""Classification of failed requests: an error class, one line of detail, whether to try again.

The module of each client library finds the HTTP status and the store's own error code;
`ErrorClass.from_http` classifies them. No body, header or signed URL may get into a
detail: only the code and the first line of the message, redacted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tracekit.errors import ErrorClass
from tracekit.redaction import redact

__all__ = [
    "CREDENTIALS_MARK",
    "NO_LISTING",
    "NO_STORE",
    "TOO_LONG",
    "Failure",
    "ForeignAnswer",
    "bad_certificate",
    "check_no_page",
    "check_taken",
    "credentials_failure",
    "foreign",
    "from_status",
    "one_line",
    "other_bytes",
    "redirected",
    "refused_by_proxy",
    "retry_after",
    "speaks_tls",
    "timeout",
    "too_long",
    "unreachable",
    "without_tls",
]

CREDENTIALS_MARK = "tracekit-credentials: "
"""Prefix of the message that a credential provider of ours raises inside a client library."""

TOO_LONG = "the request took longer than total_timeout_s"
_LONGER = "raise total_timeout_s="

NO_LISTING = "the answer is not a listing"
NO_STORE = "the answer is not that of such a store"
_PAGE = re.compile(rb"\s*<(?:!doctype\s+)?html", re.IGNORECASE)
_CODE = re.compile(r"<Code>([^<]{1,80})</Code>")
_MESSAGE = re.compile(r"<Message>([^<\n\\]{1,200})")
_RETRYABLE = (ErrorClass.THROTTLED, ErrorClass.TIMEOUT, ErrorClass.SERVER_ERROR)
_REGION_CODES = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "PermanentRedirect",
        "TemporaryRedirect",
        "IllegalLocationConstraintException",
    }
)
_REGION = re.compile(r"[a-z0-9-]{1,40}")
_RIGHT_REGION = re.compile(r"<Region>([a-z0-9-]{1,40})</Region>|expecting '([a-z0-9-]{1,40})'")
_SPEAKS_TLS = re.compile(
    r"plain HTTP request was sent to HTTPS|HTTP request to an HTTPS server|plain HTTP to an SSL",
    re.IGNORECASE,
)
"""What nginx, Go and Apache say of a request without TLS."""
_LONGEST_WAIT_S = 60.0
"""A longer Retry-After is not waited for in full."""
_EXPIRED = ("its certificate has expired", "renew it at the server, or set this machine's clock")
_NOT_YET = ("its certificate is not valid yet", "set this machine's clock, or look at the certificate")
_OTHER_HOST = ("its certificate is for another host", "check the host's name")
_UNTRUSTED = ("its certificate is not trusted", "ca_bundle= names the authorities that are trusted")
_CERTIFICATES: dict[int | str, tuple[str, str]] = {
    **dict.fromkeys((10, "Expired", "ExpiredContext"), _EXPIRED),
    **dict.fromkeys((9, "NotValidYet", "NotValidYetContext"), _NOT_YET),
    **dict.fromkeys((62, 64, "NotValidForName", "NotValidForNameContext"), _OTHER_HOST),
    **dict.fromkeys((2, 18, 19, 20, 21, 27, "UnknownIssuer", "CaUsedAsEndEntity"), _UNTRUSTED),
}
"""What is wrong with a certificate and what to do, by the codes of OpenSSL and the names of rustls."""
_CONTAINER_CODES = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"})


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request. `status` is the HTTP status, 0 if there was no answer."""

    error_class: ErrorClass
    detail: str
    retryable: bool = False
    status: int = 0
    container_missing: bool = False
    region: str = ""
    """The region that the store names as the right one."""
    retry_after_s: float = 0.0
    """How long the store asks to wait."""
    hint: str = ""
    """What to do, where that depends on more than the class."""


def from_status(
    status: int,
    text: str = "",
    code: str = "",
    message: str = "",
    region: str = "",
    retry_after_s: float = 0.0,
) -> Failure:
    """Classify an HTTP answer by its status and by `code`, or the code in `text` (an XML body).

    `retry_after_s` is how long the store asks to wait. `region` is what the store names as the right region; if
    none is given, it is looked for in `text`.
    """
    code = code or _first(_CODE, text)
    message = message or _first(_MESSAGE, text)
    if status == 400 and _SPEAKS_TLS.search(text or message):
        return speaks_tls()
    if status == 407:
        return refused_by_proxy(status)
    answer = " ".join(part for part in (f"HTTP {status}", code) if part)
    detail = redact(f"{answer}: {one_line(message)}" if message else answer)
    error_class = ErrorClass.from_http(status, code)
    region = region or _named_region(text or message)
    elsewhere = code == "IllegalLocationConstraintException" or (status in (301, 307) and region)
    if elsewhere or (region and code in _REGION_CODES):
        error_class = ErrorClass.WRONG_REGION
    return Failure(
        error_class,
        detail,
        retryable=error_class in _RETRYABLE,
        status=status,
        container_missing=code in _CONTAINER_CODES,
        region=region if error_class == ErrorClass.WRONG_REGION and _REGION.fullmatch(region) else "",
        retry_after_s=retry_after_s,
    )


class ForeignAnswer(ValueError):
    """A success that no store of this kind answers: of a web server, a login page, another protocol."""


def check_no_page(body: bytes) -> None:
    """Raise ForeignAnswer if a body is a web page."""
    if _PAGE.match(body):
        raise ForeignAnswer(NO_STORE)


def check_taken(body: bytes, *, as_json: bool = False) -> None:
    """Raise ForeignAnswer for the body of a success that is not a store's, so that the bytes of a request may not have been taken.

    S3 and Azure send no body, or XML. Google (`as_json`) describes the object.
    """
    check_no_page(body)
    text = body.strip()
    if as_json:
        taken = text[:1] == b"{" and b"storage#object" in text
    else:
        taken = not text or (text[:1] == b"<" and text[-1:] == b">")
    if not taken:
        raise ForeignAnswer(NO_STORE)


def foreign(error: ForeignAnswer) -> Failure:
    """Classify a success of another kind of server."""
    hint = "check the endpoint: another kind of server answers there"
    return Failure(ErrorClass.IO_ERROR, str(error), hint=hint)


def redirected(region: str) -> Failure:
    """Classify a redirect, which is not followed. `region` is what the store names with it."""
    named = region if _REGION.fullmatch(region) else ""
    return Failure(ErrorClass.WRONG_REGION, "the store redirects", region=named)


def speaks_tls() -> Failure:
    """Classify the answer of a port with TLS to a request without."""
    return Failure(ErrorClass.UNREACHABLE, "the port speaks TLS", hint="use https://")


def without_tls() -> Failure:
    """Classify what a port without TLS answers to a handshake."""
    return Failure(ErrorClass.UNREACHABLE, "the port does not speak TLS", hint="try http://")


def refused_by_proxy(status: int, proxy: str = "") -> Failure:
    """Classify the answer of a proxy that does not let a request through."""
    who = f"the proxy {proxy}" if proxy else "the proxy"
    if status == 407:
        hint = "give its login in HTTPS_PROXY or HTTP_PROXY"
        return Failure(ErrorClass.PERMISSION, f"{who} wants a login: HTTP 407", hint=hint, status=status)
    return Failure(ErrorClass.UNREACHABLE, f"{who} refused to connect: HTTP {status}", status >= 500)


def bad_certificate(cause: int | str, reason: str) -> Failure:
    """Classify a certificate that is refused: `cause` is OpenSSL's code or rustls's name, `reason` the library's words."""
    what, hint = _CERTIFICATES.get(
        cause, (f"its certificate is not valid: {one_line(reason)}", "look at the server's certificate")
    )
    return Failure(ErrorClass.UNREACHABLE, what, hint=hint)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return how many seconds the store asks to wait: Retry-After is a number or a date; Azure also says milliseconds.

    A date is held against the store's own Date, so that a wrong clock here does not matter. 0 if there is neither.
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        told = headers.get(name, "")
        if told.isascii() and told.isdigit() and len(told) < 12:
            return _bounded(int(told) / 1000)
    text = headers.get("retry-after", "").strip()
    try:
        return _bounded(float(text or 0))
    except ValueError:
        pass
    at = _time(text)
    if at is None:
        return 0.0
    return _bounded((at - (_time(headers.get("date", "")) or datetime.now(UTC))).total_seconds())


def other_bytes(detail: str) -> Failure:
    """Classify an answer with other bytes than were asked for: the store is asked again."""
    return Failure(
        ErrorClass.IO_ERROR, f"the store sent other bytes than the requested range: {detail}", retryable=True
    )


def timeout(detail: str) -> Failure:
    """Classify a request without an answer, or without a further byte, in time."""
    return Failure(ErrorClass.TIMEOUT, one_line(detail), retryable=True)


def too_long(detail: str = TOO_LONG) -> Failure:
    """Classify a request that was not whole in time. It is not sent again: it would take as long."""
    return Failure(ErrorClass.TIMEOUT, detail, hint=_LONGER)


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


def _named_region(text: str) -> str:
    found = _RIGHT_REGION.search(text)
    return (found[1] or found[2]) if found else ""


def _bounded(seconds: float) -> float:
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), _LONGEST_WAIT_S)


def _time(text: str) -> datetime | None:
    """Return a date as HTTP headers have it; None for anything else."""
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1].strip() if match else ""
