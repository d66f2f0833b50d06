"""The check of an object store's endpoint. `tracekit.options` describes the options themselves."""

from __future__ import annotations

from urllib.parse import urlsplit

from tracekit.errors import UsageError

__all__ = ["check_endpoint"]


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
