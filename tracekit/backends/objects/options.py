"""The check of an object store's endpoint. `tracekit.options` describes the options themselves."""

from __future__ import annotations

from urllib.parse import urlsplit

from tracekit.errors import UsageError

__all__ = ["check_endpoint", "check_endpoints", "one_endpoint", "untaken"]


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


def untaken(client: str, **given: object) -> None:
    """Raise UsageError for the first option that is set and that the client library cannot take."""
    for name, value in given.items():
        if value:
            raise UsageError(f"client={client!r} does not take {name}=", 'client="native" does')


def check_endpoint(scheme: str, endpoint: str) -> str:
    """`endpoint` without a trailing slash; raises UsageError if it is not a URL or carries a secret."""
    hint = "give endpoint=http://host:port or endpoint=https://host; credentials belong in the environment"
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in endpoint or parts.query or parts.fragment:
        shown = endpoint.partition("?")[0].partition("#")[0].rpartition("@")[2]
        raise UsageError(f"{scheme}: endpoint={shown!r} is not valid", hint)
    return endpoint.rstrip("/")
