"""A web server, read only: the path and the query of a URL are sent as they were given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from tracekit.backends.objects.native.endpoint import Endpoint
from tracekit.backends.objects.native.service import Page, SignedRequest

__all__ = ["WebService"]


@dataclass(slots=True)
class WebService:
    """One host. `queries` has the query of each key that was given with one: it may be a signature."""

    located: Sequence[Endpoint]
    queries: Mapping[str, str] = field(repr=False)
    create_only: Mapping[str, str] = field(default_factory=dict)
    code_header: str = "x-amz-error-code"
    lists: bool = False
    put_method: str = "PUT"
    describes: bool = False
    accept_encoding: str = "identity"

    def endpoints(self) -> Sequence[Endpoint]:
        return self.located

    def relocate(self, region: str) -> bool:
        return False

    def moment(self) -> object:
        return None

    def signed(
        self,
        endpoint: Endpoint,
        method: str,
        key: str | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes | memoryview,
    ) -> SignedRequest:
        path = f"{endpoint.base}/{quote(key or '', safe='/-_.~!$&()*+,;=:@', errors='surrogateescape')}"
        asked = self.queries.get(key or "", "")
        return SignedRequest(f"{path}?{asked}" if asked else path, headers)

    def list_query(self, prefix: str, after: str, token: str) -> Mapping[str, str]:
        return {}

    def page(self, body: bytes) -> Page:
        raise ValueError("a web server has no listing")
