"""URIs of objects, `scheme://container/key`: made and parsed without loss for every key.

A key may contain any character, but `?` and `#` begin parts of a URI that are never recorded.
So keys are written with `%`, `?`, `#` and control characters percent-encoded, and nothing
else; URIs are percent-decoded when they are read. A URI with a query string is refused:
it is a misplaced credential or a key that was not encoded.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple
from urllib.parse import unquote

from tracekit.errors import UsageError
from tracekit.uri import clean

__all__ = ["ObjectAddress", "account_in", "escape", "join", "split", "unescape"]

_ESCAPED = re.compile(r"[%?#\x00-\x1f\x7f]")
_CONTAINER = re.compile(r"[A-Za-z0-9._:$-]+")
"""Characters that S3, Azure and compatible stores allow in a container's name; clients may crash on others."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/]*)/?(.*)", re.DOTALL)


class ObjectAddress(NamedTuple):
    """A bucket or container, and a key or prefix in it (decoded; empty for the root).

    In `abfss://container@account.dfs.core.windows.net/key`, the container includes the account's host.
    """

    container: str
    key: str


def join(scheme: str, container: str, key: str) -> str:
    """Return the URI of a key."""
    return f"{scheme}://{container}/{escape(key)}"


def account_in(uri: str) -> str | None:
    """Return the storage account that a URI names behind its container, as Hadoop writes it."""
    if uri[:4].lower() != "abfs":
        return None
    host = uri.partition("://")[2].partition("/")[0].partition("@")[2]
    return host.partition(".")[0] or None


def escape(key: str) -> str:
    """Encode a key, or a part of one, for a URI."""
    if _ESCAPED.search(key) is None:
        return key
    return _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", key)


def unescape(text: str) -> str:
    """Decode a key, or a part of one, from a URI."""
    return unquote(text, errors="surrogateescape")


@functools.lru_cache(maxsize=65_536)
def split(uri: str) -> ObjectAddress:
    """Return container and key of a URI. Raises UsageError if it names no container or has a query."""
    bare = clean(uri)
    if account_in(uri) is not None and account_in(bare) is None:
        raise UsageError(
            f"{bare}: invalid container or account",
            "write abfss://container@account.dfs.core.windows.net/key, or abfs://container/key",
        )
    match = _ADDRESS.fullmatch(bare)
    if match is None or not match[1]:
        raise UsageError(f"{bare}: no bucket or container named", "write scheme://container/key")
    if _CONTAINER.fullmatch(match[1].partition("@")[0]) is None:
        raise UsageError(
            f"{bare}: invalid bucket or container name {match[1]!r}",
            "use letters, digits, dots and hyphens; write scheme://container/key",
        )
    if "?" in uri or "#" in uri:
        raise UsageError(
            f"{bare}: the URI has a query string or fragment",
            "give credentials in the environment; write ? and # in a key as %3F and %23",
        )
    return ObjectAddress(match[1], unescape(match[2]))
