"""Where requests go: host, port, TLS and proxy, and why a connection could not be made.

Sends nothing. The words of a failure name the real cause: an untrusted certificate, a port that speaks
another protocol, a proxy that is down.
"""

from __future__ import annotations

import base64
import math
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from tracekit.backends.objects import failures
from tracekit.backends.objects.failures import TOO_LONG, Failure
from tracekit.backends.objects.native.http2 import require_h2
from tracekit.backends.objects.native.wire import Malformed, SpeaksTls
from tracekit.backends.objects.options import Transport
from tracekit.errors import ErrorClass, UsageError

__all__ = [
    "Broken",
    "Endpoint",
    "Limits",
    "Proxy",
    "broken",
    "endpoint_of",
    "endpoints_of",
    "limits_of",
    "malformed",
    "proxy_for",
    "tls_context",
    "too_long",
]


class Broken(Exception):
    """A request without an answer, or whose answer broke off."""

    def __init__(self, error_class: ErrorClass, detail: str, retryable: bool = True, hint: str = "") -> None:
        super().__init__(detail)
        self.failure = Failure(error_class, failures.one_line(detail), retryable, hint=hint)

    @classmethod
    def of(cls, failure: Failure) -> Broken:
        return cls(failure.error_class, failure.detail, failure.retryable, failure.hint)


def too_long(detail: str = TOO_LONG) -> Broken:
    """Return the failure of a request that is not whole in time: it would take as long again."""
    return Broken.of(failures.too_long(detail))


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds, and how many idle connections to keep."""

    connect_s: float
    byte_s: float
    """For the next byte."""
    total_s: float
    """For a whole request; infinite without a limit."""
    pool_size: int


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. `authorization` is a secret and is shown nowhere."""

    host: str
    port: int
    authorization: str = ""

    @property
    def shown(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def with_login(self) -> str:
        """The URL with the login in it: a secret, for a client library only."""
        user, _, password = base64.b64decode(self.authorization.removeprefix("Basic ")).partition(b":")
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        return f"http://{login}{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a store. `base` is the path in front of every request's."""

    scheme: str
    host: str
    port: int
    base: str
    context: ssl.SSLContext | None
    proxy: Proxy | None

    @property
    def authority(self) -> str:
        """The value of the Host header: it is signed, and the default port is not part of it."""
        usual = 443 if self.scheme == "https" else 80
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == usual else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        return f"{self.scheme}://{self.authority}{self.base}"

    @property
    def forwards(self) -> bool:
        """Whether requests are handed to a proxy as they are; with TLS, it only connects."""
        return self.proxy is not None and self.context is None


def limits_of(options: Transport) -> Limits:
    """Return the limits among the options of a backend."""
    total = math.inf if options.total_timeout_s is None else options.total_timeout_s
    return Limits(options.connect_timeout_s, options.timeout_s, total, options.pool_size)


def endpoint_of(url: str, options: Transport, *, ca_bundle: str | None, bucket: str = "") -> Endpoint:
    """Return the endpoint at `url`; with `bucket` as the first label of its host, if one is given.

    `ca_bundle` takes the place of the option, for a store that also looks for one elsewhere.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    return Endpoint(
        parts.scheme,
        f"{bucket}.{host}" if bucket else host,
        parts.port or (443 if secure else 80),
        parts.path.rstrip("/"),
        tls_context(url, ca_bundle, options.client_cert, http2=options.http2),
        proxy_for(parts.scheme, host, options.proxy),
    )


def endpoints_of(urls: Iterable[str], options: Transport) -> list[Endpoint]:
    """Return the endpoints at `urls`."""
    return [endpoint_of(url, options, ca_bundle=options.ca_bundle) for url in urls]


def proxy_for(scheme: str, host: str, given: str | None) -> Proxy | None:
    """Return the proxy: `given`, or that of HTTPS_PROXY, HTTP_PROXY and NO_PROXY; none for "none"."""
    found = given
    if found is None:
        if proxy_bypass_environment(host):
            return None
        known = getproxies_environment()
        found = known.get(scheme) or known.get("all")
    if not found or found == "none":
        return None
    try:
        parts = urlsplit(found if "://" in found else f"http://{found}")
        usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError("the proxy is not valid", "give proxy=http://host:port, or proxy=none")
    if given is not None and parts.username:
        raise UsageError(
            "the proxy must not carry a password: options are written into traces",
            "give it in HTTPS_PROXY or HTTP_PROXY",
        )
    secret = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
    return Proxy(
        parts.hostname or "",
        parts.port or 80,
        f"Basic {base64.b64encode(secret).decode()}" if parts.username else "",
    )


def tls_context(
    url: str | None, ca_bundle: str | None, client_cert: str | None, *, http2: bool = False
) -> ssl.SSLContext | None:
    """Return what is trusted at `url` (None: with TLS), and whether to offer HTTP/2.

    Raises UsageError for certificates that cannot be used.
    """
    return None if (url or "").startswith("http:") else _context(ca_bundle, client_cert, http2)


@lru_cache(maxsize=16)
def _context(ca_bundle: str | None, client_cert: str | None, http2: bool) -> ssl.SSLContext:
    try:
        folder = ca_bundle is not None and Path(ca_bundle).is_dir()
        context = ssl.create_default_context(
            cafile=None if folder else ca_bundle, capath=ca_bundle if folder else None
        )
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"ca_bundle={ca_bundle!r} cannot be used: {error}", "give a file of PEM certificates"
        ) from None
    if ca_bundle is None and not context.cert_store_stats()["x509_ca"]:
        _trust_certifi(context)
    if client_cert is not None:
        certificate, _, key = client_cert.partition(",")
        try:
            context.load_cert_chain(certificate, key or None, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise UsageError(
                f"client_cert={client_cert!r} cannot be used: {error}",
                "give a PEM file with certificate and key, or CERTIFICATE,KEY",
            ) from None
    if http2:
        require_h2()
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    return context


def _no_password() -> str:
    raise ValueError("its key is encrypted")


def _trust_certifi(context: ssl.SSLContext) -> None:
    """Trust certifi's authorities where the system has none."""
    try:
        import certifi
    except ImportError:
        return
    context.load_verify_locations(certifi.where())


def broken(error: Exception, endpoint: Endpoint, connecting: bool) -> Broken:
    """Return what went wrong, with the real cause in words; `connecting`: before anything was sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message or error.reason or "it cannot be verified"
        return Broken.of(failures.bad_certificate(error.verify_code, reason))
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) and not connecting:
        return Broken(ErrorClass.UNREACHABLE, "the connection broke off")
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if error.reason in (
            "WRONG_VERSION_NUMBER",
            "HTTP_REQUEST",
            "RECORD_LAYER_FAILURE",
            "PACKET_LENGTH_TOO_LONG",
        ):
            return Broken.of(failures.without_tls())
        return Broken(ErrorClass.UNREACHABLE, f"TLS failed: {reason}", not connecting)
    if isinstance(error, TimeoutError):
        if connecting:
            return Broken(ErrorClass.UNREACHABLE, f"no connection in time{_by(endpoint)}")
        return Broken(ErrorClass.TIMEOUT, "timed out")
    if isinstance(error, socket.gaierror):
        name = endpoint.proxy.host if endpoint.proxy else endpoint.host
        return Broken(ErrorClass.UNREACHABLE, f"the host name {name} cannot be resolved{_by(endpoint)}")
    if connecting:
        reason = (
            (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        )
        if isinstance(error, ConnectionRefusedError):
            reason = "connection refused"
        return Broken(ErrorClass.UNREACHABLE, f"{reason.lower()}{_by(endpoint)}")
    return Broken(ErrorClass.UNREACHABLE, "the connection broke off")


def malformed(error: Malformed) -> Broken:
    """Return the failure of a request whose answer is not HTTP/1.1."""
    if isinstance(error, SpeaksTls):
        return Broken.of(failures.speaks_tls())
    return Broken(ErrorClass.IO_ERROR, str(error))


def _by(endpoint: Endpoint) -> str:
    return f" by the proxy {endpoint.proxy.shown}" if endpoint.proxy else ""
