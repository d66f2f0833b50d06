"""What differs between stores that speak HTTP: addresses, signatures, listings, error codes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from tracekit.backends.objects.failures import NO_LISTING, ForeignAnswer
from tracekit.backends.objects.native.endpoint import Endpoint

__all__ = [
    "BadKey",
    "Page",
    "Service",
    "SignedRequest",
    "check_listing",
    "encoded_query",
    "request_path",
    "xml_text",
]

_ENTITY = re.compile(r"&(#x?[0-9A-Fa-f]+|[a-z]+);")
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


class BadKey(Exception):
    """The store cannot be asked for this key."""


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What is sent: the request target (path and query) and the headers besides Host."""

    target: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing: keys with sizes, and the token of the next page ("" if this is the last)."""

    entries: list[tuple[str, int]]
    token: str


class Service(Protocol):
    """One container of one kind of store."""

    create_only: Mapping[str, str]
    """Headers of a put that must not replace an object."""
    code_header: str
    """The response header with the store's own error code."""
    lists: bool
    """Whether the store can list keys. Without a listing, sizes are asked for by a GET of one byte."""
    put_method: str
    describes: bool
    """Whether the answer to a put describes the object, in JSON."""
    accept_encoding: str
    """The encodings in which objects are accepted: those that the store must not remove, and no others."""

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the addresses of the container, which requests take in turn."""
        ...

    def signed(
        self,
        endpoint: Endpoint,
        method: str,
        key: str | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes | memoryview,
    ) -> SignedRequest:
        """Return the request for `key` (None: the container), signed. Raises BadKey."""
        ...

    def moment(self) -> object:
        """Return what the head of a range GET depends on besides key and range; None if it is made for each.

        Heads of the same key and moment differ in their range only.
        """
        ...

    def list_query(self, prefix: str, after: str, token: str) -> Mapping[str, str]: ...

    def page(self, body: bytes) -> Page:
        """Parse a page of a listing. Raises ValueError if it is not one."""
        ...

    def relocate(self, region: str) -> bool:
        """Use this region from now on; return whether the store has regions."""
        ...


def request_path(endpoint: Endpoint, container: str, key: str | None) -> str:
    """Return the encoded path of `key`, or of the container; a `container` in the host's name is ""."""
    path = f"{endpoint.base}/{container}" if container else endpoint.base
    if key is None:
        return path or "/"
    return f"{path}/{quote(key, safe='/-_.~', errors='surrogateescape')}"


def encoded_query(query: Mapping[str, str]) -> str:
    """Return `query` as it stands in a request, in the order of its names."""
    return (
        "&".join(
            [
                f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~', errors='surrogateescape')}"
                for name, value in sorted(query.items())
            ]
        )
        if query
        else ""
    )


def check_listing(text: str, element: str) -> None:
    """Raise ValueError if `text` is not a whole XML document of this element."""
    if f"<{element}" not in text:
        raise ForeignAnswer(NO_LISTING)
    end = text.rstrip()
    if not end.endswith((f"</{element}>", "/>")):
        raise ValueError("the listing breaks off")


def xml_text(text: str) -> str:
    """Return character data of XML with its entities decoded, control characters too."""
    return _ENTITY.sub(_decoded, text) if "&" in text else text


def _decoded(found: re.Match[str]) -> str:
    name = found[1]
    if name[0] == "#":
        try:
            return chr(int(name[2:], 16) if name[1] in "xX" else int(name[1:]))
        except (OverflowError, ValueError):
            raise ValueError(f"the listing has an invalid character {found[0][:20]!r}") from None
    return _NAMED.get(name, found[0])
