"""Reads text logs as blocks of whole, numbered lines, decompressed on the way, in bounded memory.

Recognises all three line ends, and UTF-16 by its byte order mark. It knows nothing of what the lines say.
"""

from __future__ import annotations

import codecs
import os
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tracekit.errors import TraceFormatError
from tracekit.formats.base import Tally
from tracekit.formats.packed import Stream, UpToTheBreak, codec_of, opened

__all__ = ["Block", "ahead", "blocks", "decoded_lines", "in_parallel"]

_TAR = b"ustar"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_WHOLE_JSON = re.compile(rb"\s*(\{.*\}|\]|\})\s*,?\s*", re.DOTALL)
"""A last line of JSON, which is whole if it can be read."""
_NOT_EMPTY = re.compile(rb"[^\n]+")
_BLOCK_BYTES = 8 << 20
_READ_BYTES = 1 << 20
_SHORT_LINE = 4
"""Shorter lines than this, on average, are mostly blank: cutting them all would need much memory."""
_LINE_MAX_BYTES = 64 << 20
_WORKERS = min(os.cpu_count() or 1, 4)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines, each ending in `\\n`; the first has the number `first_line` (from 1)."""

    data: bytes
    first_line: int
    lines: int


def blocks(source: Path, tally: Tally, *, block_bytes: int = _BLOCK_BYTES) -> Iterator[Block]:
    """Yield the text of `source` in blocks of about `block_bytes`, without blocks of blank lines.

    A compressed stream that breaks off counts as a bad line. Raises TraceFormatError if nothing
    could be read before the break, and for a line longer than 64 MiB.
    """
    line, rest = 1, b""
    for piece in _pieces(source, block_bytes):
        whole, rest = _whole_lines([rest, *piece.parts])
        if len(rest) > _LINE_MAX_BYTES:
            at = line + whole.count(b"\n")
            raise TraceFormatError(f"{source}, line {at}: longer than 64 MiB", "is this a text log?")
        if whole:
            text = _unix_lines(whole)
            block = Block(text, line, text.count(b"\n"))
            line += block.lines
            if not text.isspace():
                yield block
        if piece.broken is not None:
            lines_done = line + (1 if rest else 0)
            if lines_done == 1:
                raise TraceFormatError(f"{source} cannot be read: {piece.broken}", "is the file whole?")
            tally.bad(line, f"the compressed stream breaks off here ({piece.broken})")
            return
    if rest:
        ended = rest.endswith((b"\n", b"\r"))
        if not ended and not rest.isspace() and not _WHOLE_JSON.fullmatch(rest):
            tally.lost(
                f"line {line}, the last, has no line end: the log may be cut short, and that line with it"
            )
        text = _unix_lines(rest) + (b"" if ended else b"\n")
        yield Block(text, line, text.count(b"\n"))


def decoded_lines(block: Block, tally: Tally, *, lossy: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the number and text of each line that is not blank; lines that are not UTF-8 are counted bad.

    With `lossy`, bytes that are not UTF-8 become U+FFFD instead.
    """
    text = _whole_text(block)
    if text is not None:
        for number, line in enumerate(text.split("\n"), block.first_line):
            if line and not line.isspace():
                yield number, line
        return
    number, at = block.first_line, 0
    for found in _NOT_EMPTY.finditer(block.data):
        number += block.data.count(b"\n", at, found.start())
        at = found.start()
        raw = found[0]
        if not raw.strip():
            continue
        try:
            text = raw.decode("utf-8", "replace" if lossy else "strict")
        except UnicodeDecodeError:
            tally.bad(number, "not UTF-8")
            continue
        if "\x00" in text:
            tally.bad(number, "holds NUL bytes")
            continue
        yield number, text


def _whole_text(block: Block) -> str | None:
    """Return the text of a block that can be decoded and cut at once; None if its lines need a look at each."""
    if block.lines > len(block.data) // _SHORT_LINE or b"\x00" in block.data:
        return None
    try:
        return block.data.decode()
    except UnicodeDecodeError:
        return None


def ahead(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """Yield `items`, made by another thread up to `depth` ahead; its exceptions are raised here."""
    ready: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: tuple[T | None, BaseException | None, bool]) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None, False)):
                    return
            put((None, None, True))
        except BaseException as error:  # noqa: BLE001 - raised again by the consumer
            put((None, error, True))

    thread = threading.Thread(target=work, name="tracekit-import", daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = ready.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]  # None only with `last` or `error`
    finally:
        stop.set()
        thread.join()


def in_parallel(work: Callable[[T], R], items: Iterator[T]) -> Iterator[R]:
    """Yield `work` of each of `items` in order, done by a few threads; for work that releases the interpreter."""
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="tracekit-parse")
    try:
        for item in ahead(items):
            waiting.append(pool.submit(work, item))
            if len(waiting) > _WORKERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # garbage collection may close this generator in a thread of the pool, which cannot wait for itself
        pool.shutdown(wait=False, cancel_futures=True)


class _Text:
    """The text of a stream in UTF-8 without a byte order mark; a mark of UTF-16 says that it is to be converted."""

    def __init__(self, source: Path, stream: Stream) -> None:
        self._stream = stream
        self._source = source
        self._decoder: codecs.IncrementalDecoder | None = None
        self._begun = False

    def read(self, size: int) -> bytes:
        """Return some of the text; nothing at its end."""
        while True:
            part = self._stream.read(size)
            text = self._converted(part)
            if text or not part:
                return text

    def _converted(self, part: bytes) -> bytes:
        """Return the next `part` of the stream in UTF-8. Raises TraceFormatError if the first is not text."""
        if part and not self._begun:
            self._begun = True
            if codec_of(part) is not None or part[257:262] == _TAR:
                what = "a tar archive" if part[257:262] == _TAR else "compressed twice"
                raise TraceFormatError(f"{self._source} is {what}", "unpack it first")
            if part.startswith(_UTF16):
                self._decoder = codecs.getincrementaldecoder("utf-16")("replace")
            part = part.removeprefix(codecs.BOM_UTF8)
        if self._decoder is None:
            return part
        return self._decoder.decode(part, final=not part).encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class _Piece:
    parts: list[bytes]
    broken: str | None = None


def _pieces(source: Path, block_bytes: int) -> Iterator[_Piece]:
    with opened(source) as stream:
        log = UpToTheBreak(source, stream)
        text = _Text(source, log)
        more = True
        while more:
            parts, size = [], 0
            while size < block_bytes and (more := bool(part := text.read(_READ_BYTES))):
                parts.append(part)
                size += len(part)
            if log.broken and not more:
                yield _Piece(parts, log.broken)
            elif parts:
                yield _Piece(parts)


def _whole_lines(parts: list[bytes]) -> tuple[bytes, bytes]:
    """Return the whole lines in `parts`, and the rest. Copies once, because fresh pages are expensive."""
    last = parts[-1]
    cut = last.rfind(b"\n") + 1
    if not cut:
        parts, last = [], b"".join(parts)
        cut = _after_last_line(last)
    return b"".join([*parts[:-1], last[:cut]]), last[cut:]


def _after_last_line(data: bytes) -> int:
    newline = data.rfind(b"\n")
    if newline >= 0:
        return newline + 1
    return data.rfind(b"\r", 0, len(data) - 1) + 1


def _unix_lines(data: bytes) -> bytes:
    if b"\r" not in data:
        return data
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
