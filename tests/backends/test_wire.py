"""Answers of HTTP/1.1 as they arrive: what is believed, what is refused, and how much memory it takes."""

from __future__ import annotations

import pytest

from tracekit.backends.objects.native.service import check_listing, xml_text
from tracekit.backends.objects.native.wire import Answer, Malformed, NoRoom, Overlong, Reception

OK = b"HTTP/1.1 200 OK\r\n"


def received(data: bytes, step: int, most: int | None = None) -> Reception:
    """Receive `data` in pieces of `step` bytes."""

    def accept(answer: Answer) -> None:
        answer.most = most

    reception = Reception("GET", accept)
    at = 0
    while at < len(data):
        buffer = reception.buffer()
        count = min(step, len(buffer), len(data) - at)
        buffer[:count] = data[at : at + count]
        at += count
        if reception.received(count):
            assert at == len(data)
            return reception
    assert reception.ended()
    return reception


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_a_body_is_the_same_however_it_is_cut_into_segments(step: int) -> None:
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x\r\ndefg\r\n0\r\nTrailer: t\r\n\r\n"
    for data in (OK + b"Content-Length: 7\r\n\r\nabcdefg", chunked, OK + b"\r\nabcdefg"):
        assert bytes(received(data, step).body) == b"abcdefg"


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 5\r\nContent-Length: 6", "Content-Length: -1", "Content-Length: \u00b2", "Content-Length: 1_0",
        f"Content-Length: {'9' * 5000}", "Transfer-Encoding: chunked\r\n\r\n-5\r\n", "Transfer-Encoding: chunked\r\n\r\n1_0\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0x5\r\n",
    ],
)  # fmt: skip
def test_a_length_that_is_no_length_is_malformed(head: str) -> None:
    with pytest.raises(Malformed):
        received(OK + head.encode("latin-1") + b"\r\n\r\nabcdef", 1000)


def test_a_status_that_is_no_number_is_malformed() -> None:
    with pytest.raises(Malformed):
        received("HTTP/1.1 2\u00b20 OK\r\n\r\n".encode("latin-1"), 1000)


@pytest.mark.parametrize("head", [b"\r\n", b"Transfer-Encoding: chunked\r\n\r\nff\r\n"])
def test_a_body_without_a_length_takes_no_more_than_it_may(head: bytes) -> None:
    with pytest.raises(Overlong):
        received(OK + head + bytes(200), 50, most=100)


def test_an_announced_length_that_no_memory_holds_is_said() -> None:
    with pytest.raises(NoRoom, match="does not fit into memory"):
        received(OK + b"Content-Length: 900000000000000000\r\n\r\nab", 1000)


def test_a_large_announced_length_takes_memory_only_as_bytes_arrive() -> None:
    reception = Reception("GET", lambda _: None)
    head = OK + b"Content-Length: 8589934592\r\n\r\nab"
    reception.buffer()[: len(head)] = head
    assert not reception.received(len(head))
    assert bytes(reception.body[:3]) == b"ab\0"


def test_a_listing_that_breaks_off_is_not_taken_for_a_whole_one() -> None:
    check_listing("<?xml?><ListBucketResult xmlns='x'/>\n", "ListBucketResult")
    check_listing("<ListBucketResult><Key>a</Key></ListBucketResult>", "ListBucketResult")
    with pytest.raises(ValueError, match="breaks off"):
        check_listing("<ListBucketResult><Contents><Key>a</Key></Contents>", "ListBucketResult")
    with pytest.raises(ValueError, match="not a listing"):
        check_listing("<html></html>", "ListBucketResult")


@pytest.mark.parametrize("text", ["&#1114112;", "&#99999999999999999999;", "&#ab;"])
def test_a_character_that_does_not_exist_is_an_error_of_the_listing(text: str) -> None:
    with pytest.raises(ValueError):
        xml_text(text)
