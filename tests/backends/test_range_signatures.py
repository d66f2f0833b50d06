"""One signature serves for all ranges of an object in a second: it is right, and no other request gets it."""

from __future__ import annotations

import asyncio
import re
from contextlib import closing
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from faults import BODY, KEYS, Handler, place, serving

from tracekit import backend_for

AUTHORIZATION = re.compile(r"AWS4-HMAC-SHA256 Credential=(\w+)/.*, SignedHeaders=([\w;-]+), Signature=(\w+)")


def signature(url: str, sent: dict[str, str], credentials: Credentials) -> str:
    """The signature of a GET by botocore, with the date of the request."""
    request = AWSRequest("GET", url, headers={"Host": sent["host"]})
    for name in ("x-amz-content-sha256", "x-amz-date"):
        request.headers[name] = sent[name]
    request.context["timestamp"] = sent["x-amz-date"]
    signer: Any = S3SigV4Auth(credentials, "s3", "us-east-1")
    return str(signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request))


@pytest.mark.parametrize("looped", [False, True])
def test_each_range_of_each_object_has_its_own_bytes_and_a_signature_that_botocore_makes(
    clean_env: pytest.MonkeyPatch, looped: bool
) -> None:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)
    sent: list[tuple[str, dict[str, str]]] = []

    def script(handler: Handler) -> None:
        sent.append((handler.path, {name.lower(): value for name, value in handler.headers.items()}))
        handler.ranged()

    with serving(script) as (endpoint, _):
        _, options = place(endpoint, "s3")
        backend: Any = backend_for("s3://bucket", **options)
        buffer = backend.allocate(10)

        async def read_on_a_loop(handle: Any, offset: int) -> None:
            await handle.aread_into(offset, buffer)
            await backend.aclose()

        with closing(backend):
            for key in ("one", "two words"):
                handle = backend.open(f"s3://bucket/{key}")
                for offset in (0, 100, 4086):
                    if looped:
                        asyncio.run(read_on_a_loop(handle, offset))
                    else:
                        handle.read_into(offset, buffer)
                    assert bytes(buffer) == BODY[offset : offset + 10]
        for path, headers in sent:
            found = AUTHORIZATION.fullmatch(headers["authorization"])
            assert found is not None
            assert found[2] == "host;x-amz-content-sha256;x-amz-date"
            assert found[3] == signature(endpoint + path, headers, Credentials("k", "s"))
    assert [headers["range"] for _, headers in sent] == ["bytes=0-9", "bytes=100-109", "bytes=4086-4095"] * 2
    assert [path for path, _ in sent] == ["/bucket/one"] * 3 + ["/bucket/two%20words"] * 3


def test_other_credentials_have_other_signatures_in_the_same_second() -> None:
    from tracekit.backends.objects.native.s3 import Signer

    known = [Credentials("k", "s").get_frozen_credentials()]
    signer = Signer(lambda: known[0])
    before = signer.moment()
    known[0] = Credentials("k", "other").get_frozen_credentials()
    assert signer.moment()[1] != before[1]
