"""Checksums that a store sends are held against the whole object, in every algorithm that stores have."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from faults import BODY, KEYS, Handler, place, serving

from tracekit.backends.objects.crc import crc32c, crc64nvme
from tracekit.backends.registry import backend_for
from tracekit.errors import BackendError, UsageError

CASTAGNOLI, NVME = (0x82F63B78, 32), (0x9A6C9329AC4BC9B5, 64)


def by_bits(body: bytes, polynomial: int, bits: int) -> bytes:
    """The definition of a reflected CRC, one bit at a time."""
    state = ones = (1 << bits) - 1
    for byte in body:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (polynomial if state & 1 else 0)
    return (state ^ ones).to_bytes(bits // 8, "big")


def test_the_published_check_values_are_met() -> None:
    digits = memoryview(b"123456789")
    assert crc32c(digits).hex() == "e3069283"
    assert crc64nvme(digits).hex() == "ae8b14860a799888"
    assert crc32c(memoryview(b"")).hex() == "00000000"


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 511, 513, 4095, 20_001])
def test_every_length_has_the_checksum_of_the_definition(size: int) -> None:
    body = (hashlib.sha512(b"seed").digest() * (size // 64 + 1))[:size]
    assert crc32c(memoryview(body)) == by_bits(body, *CASTAGNOLI)
    assert crc64nvme(memoryview(body)) == by_bits(body, *NVME)


def test_a_long_body_has_the_checksum_of_its_pieces() -> None:
    """Zeros in front change nothing but by the first state: two long bodies differ as their ends do."""
    tail = b"123456789"
    zeros = bytes((1 << 20) + 77)
    long = [int.from_bytes(crc32c(memoryview(zeros + end)), "big") for end in (tail, bytes(9))]
    short = [int.from_bytes(by_bits(end, *CASTAGNOLI), "big") for end in (tail, bytes(9))]
    assert long[0] ^ long[1] == short[0] ^ short[1] != 0


SENT: dict[str, Callable[[bytes], bytes]] = {
    "x-amz-checksum-crc32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "x-amz-checksum-crc32c": lambda body: by_bits(body, *CASTAGNOLI),
    "x-amz-checksum-crc64nvme": lambda body: by_bits(body, *NVME),
    "x-amz-checksum-sha1": lambda body: hashlib.sha1(body).digest(),
    "x-amz-checksum-sha256": lambda body: hashlib.sha256(body).digest(),
    "Content-MD5": lambda body: hashlib.md5(body).digest(),
    "x-ms-blob-content-md5": lambda body: hashlib.md5(body).digest(),
    "x-goog-hash md5": lambda body: hashlib.md5(body).digest(),
    "x-goog-hash crc32c": lambda body: by_bits(body, *CASTAGNOLI),
}


def whole(handler: Handler, **headers: str) -> None:
    """Answer with the whole object; the Azure SDK asks for that as a range, too."""
    if "x-ms-range" in handler.headers:
        handler.reply(206, BODY, Content_Range=f"bytes 0-{len(BODY) - 1}/{len(BODY)}", **headers)
    else:
        handler.reply(200, BODY, **headers)


CLIENTS_OF_CHECKSUMS = [
    "s3 native",
    "s3 aiobotocore",
    "az native",
    "az azure-sdk",
    "gs native",
    "http native",
]


@pytest.fixture
def keys(clean_env: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)


def checking(endpoint: str, client: str) -> tuple[str, Any]:
    scheme, _, library = client.partition(" ")
    uri, options = place(endpoint, scheme)
    return uri, backend_for(uri, client=library, retries=0, verify_checksums=True, **options)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("name", "client"),
    [
        (name, client)
        for name in SENT
        for client in CLIENTS_OF_CHECKSUMS
        if client.endswith("native")
        or "goog" not in name  # Google sends the header twice; SDKs show one of them
    ],
)
def test_a_wrong_checksum_of_a_whole_object_is_an_error(name: str, client: str) -> None:
    header, _, part = name.partition(" ")
    sums = [SENT[name](BODY), SENT[name](BODY + b"x")]

    def answer(handler: Handler) -> None:
        value = base64.b64encode(sums.pop(0)).decode()
        if part:
            whole(handler, **{header: f"{part}={value}", "X-Goog-Hash": "sha0=AAAA"})
        else:
            whole(handler, **{header: value})

    with serving(answer) as (endpoint, _):
        uri, backend = checking(endpoint, client)
        assert bytes(backend.open(uri).get()[0]) == BODY
        with pytest.raises(BackendError, match="checksum") as raised:
            backend.open(uri).get()
        assert raised.value.error_class == "io_error"
        assert (backend.counters["checksums_verified"], backend.counters.get("checksums_absent")) == (1, None)
        backend.close()


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("client", CLIENTS_OF_CHECKSUMS)
def test_a_checksum_of_parts_or_of_an_unknown_kind_counts_as_absent(client: str) -> None:
    told = [
        {"x-amz-checksum-crc32c": "AAAAAA==-3"},
        {"x-amz-checksum-crc32c": "AAAAAA==", "x-amz-checksum-type": "COMPOSITE"},
        {"x-amz-checksum-crc9": "AAAAAA=="},
        {},
    ]
    with serving(lambda handler: whole(handler, **told[len(handler.seen) - 1])) as (endpoint, _):
        uri, backend = checking(endpoint, client)
        for _ in told:
            assert bytes(backend.open(uri).get()[0]) == BODY
        assert backend.counters["checksums_absent"] == len(told)
        backend.close()


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("client", ["native", "aiobotocore"])
def test_a_checksum_is_asked_for_with_whole_objects_alone(client: str) -> None:
    asked: list[str | None] = []

    def script(handler: Handler) -> None:
        asked.append(handler.headers.get("x-amz-checksum-mode"))
        handler.ranged() if "Range" in handler.headers else handler.reply(200, BODY)

    with serving(script) as (endpoint, _):
        uri, backend = checking(endpoint, f"s3 {client}")
        handle = backend.open(uri)
        handle.get()
        handle.read_into(0, backend.allocate(10))
        backend.close()
    assert asked == ["ENABLED", None]


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("scheme", ["s3", "az"])
def test_obstore_refuses_to_verify_checksums_that_it_does_not_show(scheme: str) -> None:
    with pytest.raises(UsageError, match="verify_checksums"):
        uri, backend = checking("http://127.0.0.1:1", f"{scheme} obstore")
        backend.open(uri)
