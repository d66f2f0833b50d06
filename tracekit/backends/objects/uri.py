"""URIs of objects: `scheme://container/key`, and back, so that every key survives.

A key may hold any character, but a URI's `?` and `#` begin what must never be recorded.
So the URIs that we make percent-encode `%`, `?`, `#` and control characters in keys and
nothing else, and the URIs that we read are percent-decoded. A query string in a URI is
refused, not dropped: it would be a credential in the wrong place or a key meant raw.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple
from urllib.parse import unquote

from tracekit.errors import UsageError
from tracekit.uri import clean

__all__ = ["ObjectAddress", "escape", "join", "split", "unescape"]

_ESCAPED = re.compile(r"[%?#\x00-\x1f\x7f]")
_CONTAINER = re.compile(r"[A-Za-z0-9._:$-]+")
"""What S3, Azure and those who speak like them let a container be called; a client may crash on more."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/]*)/?(.*)", re.DOTALL)


class ObjectAddress(NamedTuple):
    """A bucket or container, and a key or prefix in it (decoded; empty for the root)."""

    container: str
    key: str


def join(scheme: str, container: str, key: str) -> str:
    """The URI of a key."""
    return f"{scheme}://{container}/{escape(key)}"


def escape(key: str) -> str:
    """A key, or part of one, as URIs of objects have it."""
    if _ESCAPED.search(key) is None:
        return key
    return _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", key)


def unescape(text: str) -> str:
    """The key, or part of one, that a URI of an object means."""
    return unquote(text, errors="surrogateescape")


@functools.lru_cache(maxsize=65_536)
def split(uri: str) -> ObjectAddress:
    """The container and key of a URI. Raises UsageError if it names no container or has a query."""
    bare = clean(uri)
    match = _ADDRESS.fullmatch(bare)
    if match is None or not match[1]:
        raise UsageError(f"{bare}: no bucket or container named", "write scheme://container/key")
    if _CONTAINER.fullmatch(match[1]) is None:
        raise UsageError(
            f"{bare}: no bucket or container can be called {match[1]!r}",
            "letters, digits, dots and hyphens; write scheme://container/key",
        )
    if "?" in uri or "#" in uri:
        raise UsageError(
            f"{bare}: the URI goes on with a query string or fragment",
            "give credentials by the environment; write ? and # in a key as %3F and %23",
        )
    return ObjectAddress(match[1], unescape(match[2]))
