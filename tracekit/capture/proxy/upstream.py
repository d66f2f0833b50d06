"""Where the proxy sends a request, and with which headers.

Three cases: an unsigned request goes on unsigned; one that was signed with the user's own credentials is signed
again for the store; one that was signed with others goes on as it is, with the host that its signature covers. AWS
itself would refuse the last, so it is refused here, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from multidict import CIMultiDict

from tracekit.backends.objects.aws import AwsSettings
from tracekit.capture.proxy.requests import Asked, understand
from tracekit.capture.proxy.signing import SIGNATURE, Claim, Resigner, claim_of, without_signature
from tracekit.errors import BackendError

__all__ = ["HOP_BY_HOP", "Refused", "Route", "S3Upstream", "Upstream", "passed_on"]

HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
    )
)
"""Headers that concern one connection only, in lower case."""
_OTHER_SIGNATURES = re.compile(r"[?&](?:X-Amz-)?Signature=", re.IGNORECASE)
_SIGNED_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"


class Refused(Exception):
    """A request that cannot be sent on: the store's code for it, and the reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Route:
    """What is sent to the store. With `unwrap`, the body is taken out of its signed chunks."""

    url: str
    headers: CIMultiDict[str]
    unwrap: bool = False


class Upstream(Protocol):
    """The store behind the proxy: what its requests do, and where they go."""

    @property
    def shown(self) -> str:
        """The store as messages name it."""

    @property
    def unsigned_because(self) -> str:
        """Why requests are not signed again; empty if they are."""

    @property
    def path(self) -> str:
        """What follows the host in the proxy's endpoint."""

    def understand(self, method: str, target: str, headers: Mapping[str, str]) -> Asked:
        """Return what the request with this target (path and query, as sent) asks for."""

    def route(self, method: str, target: str, headers: CIMultiDict[str]) -> Route:
        """Return where the request goes. Raises Refused if the store could not check its signature."""

    def environment(self, endpoint: str) -> dict[str, str]:
        """Return the variables that lead clients to the proxy at `endpoint`."""

    def shown_environment(self, endpoint: str) -> dict[str, str]:
        """Return those of them that hold no credential."""


class S3Upstream:
    """S3; AWS itself, in the region of each request, if `settings` names no endpoint."""

    path = ""

    def __init__(self, settings: AwsSettings) -> None:
        self._settings = settings
        self._resigner: Resigner | None = None
        self.unsigned_because = "" if not settings.anonymous else "anonymous=True"
        if not settings.anonymous:
            try:
                self._resigner = Resigner(settings.frozen())
            except BackendError as error:  # requests are passed on as they are signed
                self.unsigned_because = error.message

    @property
    def shown(self) -> str:
        """The store as messages name it."""
        return self._settings.shown_endpoint

    def understand(self, method: str, target: str, headers: Mapping[str, str]) -> Asked:
        """As the protocol says."""
        return understand(method, target, headers)

    def environment(self, endpoint: str) -> dict[str, str]:
        """As the protocol says."""
        return {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_ALLOW_HTTP": "true",  # polars, and others in Rust
        }

    shown_environment = environment

    def route(self, method: str, target: str, headers: CIMultiDict[str]) -> Route:
        """As the protocol says."""
        claim = claim_of(target, headers)
        region = self._settings.region if claim is None else claim.region
        base = self._settings.endpoint or self._settings.aws_endpoint(None, region)
        kept = passed_on(headers)
        if claim is None and "Authorization" not in headers and _OTHER_SIGNATURES.search(target) is None:
            kept["Host"] = urlsplit(base).netloc
            return Route(base + target, kept)
        if (
            claim is None
            or self._resigner is None
            or not self._resigner.accepts(claim, method, target, headers)
        ):
            if self._settings.endpoint is None:
                raise Refused("SignatureDoesNotMatch", self._why())
            return Route(base + target, kept)
        return _resigned(self._resigner, claim, base, method, without_signature(target), kept)

    def _why(self) -> str:
        if self._resigner is None:
            return f"tracekit proxy: a signed request cannot be signed for AWS: {self.unsigned_because}"
        return (
            "tracekit proxy: the request is not signed with the credentials that the proxy has, so it cannot be"
            " signed for AWS; start the proxy with the credentials of the client"
        )


def _resigned(
    resigner: Resigner, claim: Claim, base: str, method: str, target: str, headers: CIMultiDict[str]
) -> Route:
    """Sign the request for the store. A body of signed chunks is sent without them: their signatures have the old
    signature as their seed."""
    parts = urlsplit(base)
    unwrap = claim.payload.startswith(_SIGNED_CHUNKS)
    for name in SIGNATURE:
        headers.popall(name, None)
    if unwrap:
        _unwrap(headers)
    payload = "UNSIGNED-PAYLOAD" if unwrap else claim.payload
    headers.update(resigner.signed(claim, method, parts.netloc, parts.path + target, headers, payload))
    headers["Host"] = parts.netloc
    return Route(base + target, headers, unwrap)


def passed_on(headers: CIMultiDict[str]) -> CIMultiDict[str]:
    """The headers without those of one connection."""
    return CIMultiDict([(name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP])


def _unwrap(headers: CIMultiDict[str]) -> None:
    """Describe the body as it is inside its chunks."""
    headers["Content-Length"] = headers.pop("x-amz-decoded-content-length", "0")
    headers.popall("x-amz-trailer", None)
    codings = [one.strip() for one in headers.pop("Content-Encoding", "").split(",")]
    if others := [one for one in codings if one and one.lower() != "aws-chunked"]:
        headers["Content-Encoding"] = ",".join(others)
