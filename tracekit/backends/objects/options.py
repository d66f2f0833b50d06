"""What the clients of object stores make of their options. `tracekit.store_options` describes the options themselves."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import urlsplit

from tracekit.errors import UsageError

__all__ = ["Transport", "certificate_pair", "check_endpoint", "check_endpoints", "one_endpoint", "untaken"]


class Transport(Protocol):
    """The options that say how requests are carried; every scheme has them."""

    @property
    def timeout_s(self) -> float: ...
    @property
    def connect_timeout_s(self) -> float: ...
    @property
    def total_timeout_s(self) -> float | None: ...
    @property
    def pool_size(self) -> int: ...
    @property
    def ca_bundle(self) -> str | None: ...
    @property
    def client_cert(self) -> str | None: ...
    @property
    def proxy(self) -> str | None: ...
    @property
    def http2(self) -> bool: ...
    @property
    def verify_checksums(self) -> bool: ...


def certificate_pair(client_cert: str | None) -> str | tuple[str, str] | None:
    """Return a client certificate as client libraries take it: one file, or a certificate and its key."""
    certificate, comma, key = (client_cert or "").partition(",")
    return (certificate, key) if comma else certificate or None


def check_endpoints(scheme: str, endpoints: str | None) -> tuple[str, ...]:
    """The endpoints in a list separated by commas, each checked; none of None."""
    return tuple(check_endpoint(scheme, one.strip()) for one in (endpoints or "").split(",") if one.strip())


def one_endpoint(client: str, endpoints: tuple[str, ...]) -> None:
    """Raise UsageError if there are several endpoints, which only the native client uses in turn."""
    if len(endpoints) > 1:
        raise UsageError(
            f"client={client!r} takes one endpoint, not {len(endpoints)}",
            'client="native" uses several in turn',
        )


def untaken(client: str, taker: str = "native", /, **given: object) -> None:
    """Raise UsageError for the first option that is set and that the client library cannot take; `taker` can."""
    for name, value in given.items():
        if value:
            raise UsageError(f"client={client!r} does not take {name}=", f'client="{taker}" does')


def check_endpoint(scheme: str, endpoint: str, *, name: str = "endpoint") -> str:
    """`endpoint`, the value of the option `name`, without a trailing slash; raises UsageError if it is not a URL or carries a secret."""
    hint = f"give {name}=http://host:port or {name}=https://host; credentials belong in the environment"
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in endpoint or parts.query or parts.fragment:
        shown = endpoint.partition("?")[0].partition("#")[0].rpartition("@")[2]
        raise UsageError(f"{scheme}: {name}={shown!r} is not valid", hint)
    return endpoint.rstrip("/")
