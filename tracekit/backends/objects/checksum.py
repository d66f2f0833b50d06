"""Checksums that a store sends with a whole object, held against its bytes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Mapping

from tracekit.backends.objects.crc import crc32c, crc64nvme
from tracekit.backends.objects.ranges import OtherBytes

__all__ = ["verify", "verify_counted"]

_HEADERS: dict[str, Callable[[memoryview], bytes]] = {
    "x-amz-checksum-sha256": lambda body: hashlib.sha256(body).digest(),
    "x-amz-checksum-sha1": lambda body: hashlib.sha1(body, usedforsecurity=False).digest(),
    "x-amz-checksum-crc64nvme": crc64nvme,
    "x-amz-checksum-crc32c": crc32c,
    "x-amz-checksum-crc32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "content-md5": lambda body: hashlib.md5(body, usedforsecurity=False).digest(),
    "x-ms-blob-content-md5": lambda body: hashlib.md5(body, usedforsecurity=False).digest(),
    "crc32c": crc32c,
}
"""Of each header (in lower case), or name in `x-goog-hash`, the checksum. The first that an answer has is verified."""
_GOOGLE = {"md5": "content-md5", "crc32c": "crc32c"}


def verify_counted(headers: Mapping[str, str], body: memoryview, count: Callable[[str], None]) -> None:
    """Verify a whole object, and count whether there was a checksum. Raises OtherBytes if it is wrong."""
    count("checksums_verified" if verify(headers, body) else "checksums_absent")


def verify(headers: Mapping[str, str], body: memoryview) -> bool:
    """Return whether there was a checksum of the whole object to verify. Raises OtherBytes if it is wrong."""
    given = dict(headers)
    for pair in headers.get("x-goog-hash", "").split(","):
        name, _, value = pair.strip().partition("=")
        if name in _GOOGLE:
            given[_GOOGLE[name]] = value
    if given.get("x-amz-checksum-type", "FULL_OBJECT") == "COMPOSITE":
        return False  # of the parts of an upload, whose sizes are not known
    for name, computed in _HEADERS.items():
        value = given.get(name, "")
        if not value or "-" in value:
            continue
        try:
            expected = base64.b64decode(value, validate=True)
        except binascii.Error:
            raise OtherBytes(f"the checksum in {name} is not valid") from None
        if computed(body) != expected:
            raise OtherBytes(f"the body does not match the checksum in {name}")
        return True
    return False
