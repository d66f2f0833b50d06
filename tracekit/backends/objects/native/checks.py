"""What the answer to one request may be: held against the request before a byte of its body is believed."""

from __future__ import annotations

from tracekit.backends.objects.native.wire import Answer, Overlong, Reception, Refused
from tracekit.backends.objects.ranges import OtherBytes, check_body, range_bytes, whole_bytes

__all__ = [
    "HttpFailure",
    "RangeCheck",
    "Told",
    "Untold",
    "WholeCheck",
    "any_answer",
    "refused",
    "succeeded",
    "told_size",
]

_ERROR_BYTES = 64 << 10


class HttpFailure(Refused):
    """An answer with a status other than success."""

    def __init__(self, answer: Answer, body: bytes = b"") -> None:
        super().__init__(f"HTTP {answer.status}")
        self.answer, self.body = answer, body


class Told(Refused):
    """The headers tell the size of the object; the body is not read."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Untold(Refused):
    """The answer to a GET of one byte does not tell the size of the object."""


class RangeCheck:
    """One range GET into `buffer`: what may come, and what came."""

    __slots__ = ("_expected", "_reception", "buffer", "filled", "offset")

    def __init__(self, offset: int, buffer: memoryview) -> None:
        self.offset = offset
        self.buffer = buffer
        self.filled = False
        """Whether exactly the bytes that were asked for are in the buffer, checked by the exchange in C."""
        self._expected = 0
        self._reception: Reception | None = None

    @property
    def range(self) -> str:
        """The value of the request's header."""
        return f"bytes={self.offset}-{self.offset + len(self.buffer) - 1}"

    @property
    def reception(self) -> Reception:
        if self._reception is None:
            self._reception = Reception("GET", self._accept)
        return self._reception

    @property
    def writable(self) -> bool:
        """Whether C can write into the buffer: bytes, one after the other."""
        return self.buffer.itemsize == 1 and self.buffer.c_contiguous and not self.buffer.readonly

    def count(self) -> int:
        """Return the bytes in the buffer. Raises OtherBytes if there are fewer than announced."""
        if self.filled:
            return len(self.buffer)
        body = self.reception.body
        check_body(len(body), self._expected)
        if body.obj is not self.buffer.obj:
            self.buffer[: len(body)] = body
        return len(body)

    def _accept(self, answer: Answer) -> memoryview | None:
        if not _has_bytes(answer):
            return any_answer(answer)
        self._expected = range_bytes(answer.headers.get("content-range"), self.offset, len(self.buffer))
        if answer.length is None:
            answer.most = self._expected
            return None
        check_body(answer.length, self._expected)
        return self.buffer[: answer.length]


class WholeCheck:
    """One GET of a whole object, of at most `most` bytes: what may come, and what came."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.reception = Reception("GET", self._accept)
        self._total: int | None = None

    def body(self) -> memoryview:
        """Return the object. Raises OtherBytes if it is shorter than announced."""
        body = self.reception.body
        if self._total is not None:
            check_body(len(body), self._total)
        return body

    def _accept(self, answer: Answer) -> memoryview | None:
        if not _has_bytes(answer):
            return any_answer(answer)
        if answer.status == 206 or "content-range" in answer.headers:
            self._total = whole_bytes(answer.headers.get("content-range"), answer.length)
        size = self._total if answer.length is None else answer.length
        if self.most is not None and size is not None and size > self.most:
            raise Overlong("longer than wanted")
        answer.most = self.most if size is None else size
        return None


def _has_bytes(answer: Answer) -> bool:
    """Whether the body has bytes of the object. Raises OtherBytes for a success without them."""
    if 200 <= answer.status < 300 and answer.status not in (200, 206):
        raise OtherBytes(f"HTTP {answer.status} is no answer to a GET")
    return answer.status in (200, 206)


def told_size(answer: Answer) -> memoryview | None:
    """Raise Told with the size of the object, if the headers have it; the body is not read."""
    if not _has_bytes(answer):
        return any_answer(answer)
    told = answer.headers.get("content-range")
    if told is not None or answer.status == 206:
        total = (told or "").rpartition("/")[2]
        if total.isascii() and total.isdigit() and len(total) < 20:
            raise Told(int(total))
        raise Untold(f"Content-Range {told!r}")
    if answer.length is not None:
        raise Told(answer.length)
    return None


def any_answer(answer: Answer) -> memoryview | None:
    if answer.status >= 300:
        if answer.length is not None and answer.length > _ERROR_BYTES:
            raise HttpFailure(answer)
        answer.most = _ERROR_BYTES
    return None


def refused(reception: Reception, error: Overlong) -> Exception:
    """Return what an overlong body means: the start of a long error message is enough."""
    answer = reception.answer
    return HttpFailure(answer, bytes(reception.body)) if answer and answer.status >= 300 else error


def succeeded(reception: Reception, first: int) -> int:
    answer = reception.answer
    assert answer is not None
    if not 200 <= answer.status < 300:
        raise HttpFailure(answer, bytes(reception.body))
    return first
