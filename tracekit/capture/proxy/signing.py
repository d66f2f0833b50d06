"""Checks the signature of a request (AWS version 4), and signs it again for another host.

A signature covers the host, so a request that was signed for the proxy is signed again for the store. That is done
only for a request whose own signature was made with the same credentials: others on this machine
can reach the proxy, and must not use the user's credentials through it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from calendar import timegm
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from tracekit.backends.objects.native.s3 import Signer

__all__ = ["SIGNATURE", "Claim", "Resigner", "claim_of", "without_signature"]

SIGNATURE = ("authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token")
"""The headers that make up a signature."""

_HEADER = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=([^/,\s]+)/(\d{8})/([^/,\s]+)/([^/,\s]+)/aws4_request\s*,\s*"
    r"SignedHeaders=([^,\s]+)\s*,\s*Signature=([0-9a-f]{64})\s*"
)
_IN_QUERY = frozenset(
    f"x-amz-{name}"
    for name in ("algorithm", "credential", "date", "expires", "signedheaders", "signature", "security-token")
)
_SKEW_S = 15 * 60
"""How far the clock of a client may be off, as at AWS."""
_REMEMBERED = 8
_DATE = re.compile(r"\d{8}T\d{6}Z")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a signed request says of its signature. `valid_s` is how long it may be used."""

    access_key: str
    day: str
    region: str
    service: str
    headers: tuple[str, ...]
    signature: str
    date: str
    payload: str
    valid_s: int


def claim_of(target: str, headers: Mapping[str, str]) -> Claim | None:
    """Return the signature of a request, in its headers or in its query; None if there is none of version 4."""
    if (found := _HEADER.fullmatch(headers.get("Authorization", "").strip())) is not None:
        key, day, region, service, names, signature = found.groups()
        date, payload = headers.get("x-amz-date", ""), headers.get("x-amz-content-sha256", "")
        return Claim(key, day, region, service, tuple(names.split(";")), signature, date, payload, _SKEW_S)
    asked = {name.lower(): value for name, value in _decoded(target.partition("?")[2])}
    scope = asked.get("x-amz-credential", "").split("/")
    expires = asked.get("x-amz-expires", "")
    if len(scope) != 5 or not expires.isdecimal() or "x-amz-signature" not in asked:
        return None
    names = asked.get("x-amz-signedheaders", "")
    return Claim(
        scope[0],
        scope[1],
        scope[2],
        scope[3],
        tuple(names.split(";")),
        asked["x-amz-signature"],
        asked.get("x-amz-date", ""),
        headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        int(expires),
    )


class Resigner:
    """Signs requests with the credentials that `credentials` returns; it may renew them at any call."""

    def __init__(self, credentials: Callable[[], Any]) -> None:
        self._credentials = credentials
        self._signer = Signer(credentials)
        self._secrets: dict[str, str] = {}

    def accepts(self, claim: Claim, method: str, target: str, headers: Mapping[str, str]) -> bool:
        """Whether the request was signed with our credentials, of now or from before they were renewed."""
        known = self._credentials()
        self._secrets[known.access_key] = known.secret_key
        if len(self._secrets) > _REMEMBERED:
            del self._secrets[next(iter(self._secrets))]
        secret = self._secrets.get(claim.access_key)
        if secret is None or not claim.payload or not _is_current(claim):
            return False
        listed = "".join(f"{name}:{_value(headers, name)}\n" for name in claim.headers)
        path, _, query = target.partition("?")
        canonical = (
            f"{method}\n{_canonical_path(path)}\n{_canonical_query(query, leave_out=('x-amz-signature',))}\n"
            f"{listed}\n{';'.join(claim.headers)}\n{claim.payload}"
        )
        scope = f"{claim.day}/{claim.region}/{claim.service}/aws4_request"
        digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
        key = f"AWS4{secret}".encode()
        for part in (claim.day, claim.region, claim.service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{claim.date}\n{scope}\n{digest}"
        ours = hmac.digest(key, text.encode(), "sha256").hex()
        return hmac.compare_digest(ours, claim.signature)

    def signed(
        self, claim: Claim, method: str, host: str, target: str, headers: Mapping[str, str], payload: str
    ) -> dict[str, str]:
        """Return the headers that make up the signature for `host`; `target` has no signature any more."""
        path, _, query = target.partition("?")
        covered = {
            name.lower(): _value(headers, name).encode("utf-8", "surrogateescape").decode("latin-1")
            for name in dict.fromkeys(headers)
            if name.lower().startswith("x-amz-") and name.lower() not in SIGNATURE
        }
        signed = self._signer.headers(
            claim.region, method, host, _canonical_path(path), _canonical_query(query), covered, payload
        )
        return {name: signed[name] for name in SIGNATURE if name in signed}


def without_signature(target: str) -> str:
    """Return the target without the parameters of a signature in its query."""
    path, mark, query = target.partition("?")
    kept = [part for part in query.split("&") if part.partition("=")[0].lower() not in _IN_QUERY]
    return path + mark + "&".join(kept) if any(kept) else path


def _is_current(claim: Claim) -> bool:
    if _DATE.fullmatch(claim.date) is None or not claim.date.startswith(claim.day):
        return False
    age = time.time() - timegm(time.strptime(claim.date, "%Y%m%dT%H%M%SZ"))
    return -_SKEW_S <= age <= claim.valid_s


def _value(headers: Mapping[str, str], name: str) -> str:
    """The value of a header as signatures have it: repeated ones joined, white space made single."""
    every = getattr(headers, "getall", None)
    values = [headers.get(name, "")] if every is None else every(name, [""])
    return ",".join(" ".join(value.split()) for value in values)


def _canonical_path(path: str) -> str:
    return quote(unquote_to_bytes(path), safe="/-_.~") or "/"


def _decoded(query: str) -> list[tuple[str, str]]:
    pairs = (part.partition("=") for part in query.split("&") if part)
    return [
        (
            unquote_to_bytes(name).decode("utf-8", "surrogateescape"),
            unquote_to_bytes(value).decode("utf-8", "surrogateescape"),
        )
        for name, _, value in pairs
    ]


def _canonical_query(query: str, leave_out: tuple[str, ...] = ()) -> str:
    encoded = sorted(
        (_quoted(name), _quoted(value)) for name, value in _decoded(query) if name.lower() not in leave_out
    )
    return "&".join(f"{name}={value}" for name, value in encoded)


def _quoted(text: str) -> str:
    return quote(text.encode("utf-8", "surrogateescape"), safe="-_.~")
