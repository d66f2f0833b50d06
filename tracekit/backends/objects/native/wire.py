"""HTTP/1.1 answers, parsed as they arrive. It does no I/O: blocking and asyncio connections share it.

A body whose length is known is received in the buffer that the caller gave, without a copy.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Answer", "Malformed", "NoRoom", "Overlong", "Reception", "Refused", "SpeaksTls", "request_head"]

_SCRATCH_BYTES = 8 << 10
_HEAD_BYTES = 64 << 10
_CHUNK_LINE_BYTES = 4096
_END = b"\r\n\r\n"
_VERSION = b"HTTP/1."
_TLS_ALERT = b"\x15\x03"
_NO_BODY = (204, 304)
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_LENGTH = re.compile(rb"[0-9A-Fa-f]{1,15}[ \t]*")
_MAPPED_BYTES = 64 << 20
"""Larger bodies are received in mapped memory, which is taken as bytes arrive: a length may be a lie."""


class Malformed(Exception):
    """The peer does not speak HTTP/1.1, or broke its rules."""


class SpeaksTls(Malformed):
    """The peer expects TLS: it answers with one of its alerts."""


class Refused(Exception):
    """The headers show that the body is not what was asked for; `Reception.accept` raises it."""


class Overlong(Refused):
    """A body without an announced length has more bytes than `Answer.most`."""


class NoRoom(Refused):
    """There is no memory for a body of the announced length."""


@dataclass(slots=True)
class Answer:
    """Status and headers (names in lower case). `length` is that of the body, None if it is not announced.

    `most` limits a body that announces no length; whoever accepts the answer may set it.
    """

    status: int
    headers: dict[str, str]
    length: int | None
    most: int | None = None


def request_head(method: str, target: str, host: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request. Values must not contain line breaks: signing has refused them."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"{method} {target} HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n".encode("latin-1")


class Reception:
    """One answer on its way. Receive bytes in `buffer()`, then call `received` with their count.

    `accept` is called once, with the headers. It returns the buffer that gets the body, which must have
    the body's announced length, or None to have the body collected; it raises Refused if the body is not
    wanted. The body is `body` when `received` or `ended` has returned True.
    """

    __slots__ = (
        "_accept",
        "_chunk",
        "_chunked",
        "_collected",
        "_filled",
        "_got",
        "_head_only",
        "_line",
        "_scratch",
        "answer",
        "body",
        "reusable",
        "started",
    )

    def __init__(self, method: str, accept: Callable[[Answer], memoryview | None]) -> None:
        self.answer: Answer | None = None
        self.body = memoryview(b"")
        self.reusable = False
        """Whether the connection can be used again after the answer."""
        self.started = False
        """Whether a byte has arrived."""
        self._accept = accept
        self._head_only = method == "HEAD"
        self._scratch = bytearray(_SCRATCH_BYTES)
        self._filled = 0
        self._got = -1  # bytes of a body of known length, -1 before there is one
        self._collected: bytearray | None = None
        self._chunked = False
        self._chunk = 0  # bytes that are left of the chunk; -1: the line break behind it; -2: trailers
        self._line = b""

    @property
    def filling(self) -> bool:
        """Whether `buffer` is the rest of a body of known length: it is to be filled."""
        return self._got >= 0

    def buffer(self) -> memoryview:
        if self._got >= 0:
            return self.body[self._got :]
        return memoryview(self._scratch)[self._filled :]

    def received(self, count: int) -> bool:
        """Take `count` bytes from the buffer; return whether the answer is whole."""
        if self._got >= 0:
            self._got += count
            return self._got == len(self.body)
        self.started = True
        if self.answer is not None:
            return self._collect(bytes(self._scratch[:count]))
        before = max(self._filled - 3, 0)
        self._filled += count
        return self._head(before)

    def ended(self) -> bool:
        """The peer closed; return whether the answer is whole all the same (a body without a length)."""
        if self.answer is None or self._collected is None or self._chunked:
            return False
        self.body = memoryview(self._collected)
        self.reusable = False
        return True

    def _head(self, before: int) -> bool:
        end = self._scratch.find(_END, before, self._filled)
        if end < 0:
            begun = bytes(self._scratch[: min(self._filled, len(_VERSION))])
            if begun.startswith(_TLS_ALERT):
                raise SpeaksTls("the port speaks TLS")
            if not _VERSION.startswith(begun):
                raise Malformed(
                    "the answer is not HTTP" if begun[:5] != b"HTTP/" else "the answer is not HTTP/1.1"
                )
            if self._filled == len(self._scratch):
                if self._filled >= _HEAD_BYTES:
                    raise Malformed("the headers of the answer are longer than 64 KiB")
                self._scratch = self._scratch + bytes(len(self._scratch))  # a view of the old one may exist
            return False
        answer = _parsed(self._scratch[:end].decode("latin-1"))
        rest = bytes(self._scratch[end + 4 : self._filled])
        self._filled = 0
        if answer.status < 200:  # 100 Continue and the like come before the answer
            self._scratch[: len(rest)] = rest
            self._filled = len(rest)
            return bool(rest) and self._head(0)
        return self._body(answer, rest)

    def _body(self, answer: Answer, rest: bytes) -> bool:
        self.answer = answer
        headers = answer.headers
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        if self._chunked:
            answer.length = None
        self.reusable = "close" not in headers.get("connection", "").lower() and headers[":version"] != "1.0"
        if self._head_only or answer.status in _NO_BODY:
            self._accept(answer)
            self.reusable = self.reusable and not rest
            return True
        wanted = self._accept(answer)
        if answer.length is None:
            self._collected = bytearray()
            return self._collect(rest) if rest else False
        self.body = _room(answer.length) if wanted is None else wanted
        if len(rest) > answer.length:
            self.reusable = False  # bytes that belong to no answer
            rest = rest[: answer.length]
        self.body[: len(rest)] = rest
        self._got = len(rest)
        return self._got == answer.length

    def _collect(self, data: bytes) -> bool:
        """Take bytes of a body without an announced length."""
        collected = self._collected
        assert collected is not None and self.answer is not None
        most = self.answer.most
        if not self._chunked:
            collected += data
            if most is not None and len(collected) > most:
                self._overlong(most)
            return False
        while data:
            if most is not None and len(collected) > most:
                self._overlong(most)
            if self._chunk > 0:
                part = data[: self._chunk]
                collected += part
                self._chunk = self._chunk - len(part) or -1
                data = data[len(part) :]
                continue
            line, found, data = (self._line + data).partition(b"\n")
            if not found:
                if len(line) > _CHUNK_LINE_BYTES:
                    raise Malformed("a chunk of the body has no valid length")
                self._line = line
                return False
            self._line = b""
            if self._chunk_line(line.rstrip(b"\r")):
                self.body = memoryview(collected)
                self.reusable = self.reusable and not data
                return True
        return False

    def _overlong(self, most: int) -> None:
        self.body = memoryview(bytes(self._collected or b""))
        raise Overlong(f"the body has more than {most} bytes")

    def _chunk_line(self, line: bytes) -> bool:
        """Take a line between chunks; return whether it is the last one."""
        if self._chunk == -2:
            return not line
        if self._chunk == -1:
            if line:
                raise Malformed("a chunk of the body is longer than announced")
            self._chunk = 0
            return False
        length = line.partition(b";")[0]
        if _CHUNK_LENGTH.fullmatch(length) is None:
            raise Malformed("a chunk of the body has no valid length")
        self._chunk = int(length, 16) or -2
        return False


def _room(length: int) -> memoryview:
    try:
        return memoryview(mmap.mmap(-1, length) if length > _MAPPED_BYTES else bytearray(length))
    except (MemoryError, OverflowError, OSError, ValueError):
        raise NoRoom(f"a body of {length} bytes does not fit into memory") from None


def _parsed(head: str) -> Answer:
    lines = head.split("\r\n")
    version, _, rest = lines[0].partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/1.") or not (status.isascii() and status.isdigit() and len(status) == 3):
        raise Malformed("the answer is not HTTP/1.1")
    headers = {":version": version[5:]}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        if name == "content-length" and headers.get(name, value) != value:
            raise Malformed("the answer has two different lengths")
        known = headers.get(name, value)
        headers[name] = value if known == value else f"{known}, {value}"
    length = headers.get("content-length")
    if length is not None and _LENGTH.fullmatch(length) is None:
        raise Malformed("the answer has no valid Content-Length")
    return Answer(int(status), headers, None if length is None else int(length))
