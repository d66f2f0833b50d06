"""A store that answers as a script says: requests for one object, and every fault of the table in docs/backends.md."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = [
    "BODY",
    "EXPECTED",
    "EXPECTED_OF",
    "FAULTS",
    "KEYS",
    "Handler",
    "Script",
    "place",
    "serving",
]

BODY = bytes(range(256)) * 16
KEYS = {
    "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1",
    "AZURE_STORAGE_ACCOUNT": "account", "AZURE_STORAGE_KEY": "a2V5",
}  # fmt: skip
"""What the environment must have, so that a client signs its requests."""
Script = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the script says; `reply` and `ranged` help it."""

    protocol_version = "HTTP/1.1"
    script: Script
    seen: list[str]
    ended: threading.Event
    body: bytes

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.seen.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            type(self).script(self)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_CONNECT = do_GET

    def handle_expect_100(self) -> bool:
        return True  # nothing is said before the answer, as some stores do

    def finish(self) -> None:
        with contextlib.suppress(OSError):  # the client may have closed the connection
            super().finish()

    @property
    def asked(self) -> tuple[int, int]:
        """The first and the last byte that the request is for."""
        told = self.headers.get("Range") or self.headers.get("x-ms-range") or "bytes=0-4095"
        first, _, last = told.removeprefix("bytes=").partition("-")
        return int(first), min(int(last or len(BODY) - 1), len(BODY) - 1)

    def reply(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.head(status, Content_Length=str(len(body) if length is None else length), **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def ranged(self) -> None:
        """Answer a request for a range, or for the whole object, rightly."""
        first, last = self.asked
        self.reply(206, BODY[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(BODY)}")

    def drop(self) -> None:
        """Close the connection with nothing more."""
        self.close_connection = True

    def pause(self, seconds: float) -> None:
        """Send nothing for a while, or until the server ends."""
        self.ended.wait(seconds)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError | ssl.SSLError):  # clients may hang up
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serving(script: Script, context: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve `script` on a free port; yield the endpoint and the requests that came."""
    seen: list[str] = []
    ended = threading.Event()
    members = {"script": staticmethod(script), "seen": seen, "ended": ended}
    server = _Server(("127.0.0.1", 0), type("Scripted", (Handler,), members))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_address[1]}", seen
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def place(endpoint: str, scheme: str) -> tuple[str, dict[str, Any]]:
    """Return the URI of an object of the server, and the options that lead to it."""
    if scheme == "http":
        return f"{endpoint}/bucket/k", {}
    base = f"{endpoint}/account" if scheme == "az" else endpoint
    return f"{scheme}://bucket/k", {"endpoint": base, **({"anonymous": True} if scheme == "gs" else {})}


def _error(status: int, code: str = "", **headers: str) -> Script:
    body = f"<Error><Code>{code}</Code><Message>told by the test</Message></Error>".encode() if code else b""
    named = {"x_ms_error_code": code} if code else {}
    return lambda handler: handler.reply(status, body, None, **named, **headers)


def _range(
    shift: int = 0, less: int = 0, total: str = str(len(BODY)), status: int = 206, sent: int = 0
) -> Script:
    """Answer with a range that is moved, shortened or announced otherwise; `sent` more bytes than that."""

    def script(handler: Handler) -> None:
        first, last = handler.asked
        first, last = first + shift, last + shift - less
        body = BODY[first : last + 1 + sent]
        handler.reply(status, body, Content_Range=f"bytes {first}-{last}/{total}")

    return script


def _whole(handler: Handler) -> None:
    handler.reply(200, BODY)


def _without_range(handler: Handler) -> None:
    first, last = handler.asked
    handler.reply(206, BODY[first : last + 1])


def _with_range(told: str) -> Script:
    def script(handler: Handler) -> None:
        first, last = handler.asked
        handler.reply(206, BODY[first : last + 1], Content_Range=told)

    return script


def _cut(handler: Handler) -> None:
    first, last = handler.asked
    told = f"bytes {first}-{last}/{len(BODY)}"
    handler.reply(206, BODY[first:last], length=last - first + 1, Content_Range=told)
    handler.drop()


def _shorter(handler: Handler) -> None:
    first, last = handler.asked
    handler.reply(206, BODY[first:last], Content_Range=f"bytes {first}-{last}/{len(BODY)}")


def _reset(handler: Handler) -> None:
    first, last = handler.asked
    told = f"bytes {first}-{last}/{len(BODY)}"
    handler.head(206, Content_Length=str(last - first + 1), Content_Range=told)
    handler.wfile.write(BODY[first:last])
    handler.pause(0.1)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.rfile.close()
    handler.connection.close()
    handler.drop()


def _silence(handler: Handler) -> None:
    handler.pause(2.5)
    handler.drop()


def _silence_in_the_body(handler: Handler) -> None:
    first, last = handler.asked
    told = f"bytes {first}-{last}/{len(BODY)}"
    handler.reply(206, BODY[first:last], length=last - first + 1, Content_Range=told)
    handler.wfile.flush()
    handler.pause(4)
    handler.drop()


def _drip(handler: Handler) -> None:
    first, last = handler.asked
    told = f"bytes {first}-{last}/{len(BODY)}"
    handler.head(206, Content_Length=str(last - first + 1), Content_Range=told)
    for byte in BODY[first : last + 1]:
        handler.wfile.write(bytes([byte]))
        handler.pause(0.2)


def _drip_of_the_head(handler: Handler) -> None:
    for letter in b"HTTP/1.1 206 Partial Content\r\nContent-Length: 50\r\n":
        handler.wfile.write(bytes([letter]))
        handler.pause(0.2)
    handler.drop()


def _chunked(handler: Handler) -> None:
    first, last = handler.asked
    handler.head(206, Transfer_Encoding="chunked", Content_Range=f"bytes {first}-{last}/{len(BODY)}")
    for at in range(first, last + 1, 7):
        part = BODY[at : min(at + 7, last + 1)]
        handler.wfile.write(f"{len(part):x};x=y\r\n".encode() + part + b"\r\n")
    handler.wfile.write(b"0\r\nTrailer: t\r\n\r\n")


def _chunked_and_cut(handler: Handler) -> None:
    first, last = handler.asked
    handler.head(206, Transfer_Encoding="chunked", Content_Range=f"bytes {first}-{last}/{len(BODY)}")
    handler.wfile.write(f"{last - first + 1:x}\r\n".encode() + BODY[first:last])
    handler.drop()


def _chunked_and_longer(handler: Handler) -> None:
    first, last = handler.asked
    handler.head(206, Transfer_Encoding="chunked", Content_Range=f"bytes {first}-{last}/{len(BODY)}")
    for _ in range(3):
        handler.wfile.write(f"{last - first + 1:x}\r\n".encode() + BODY[first : last + 1] + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def _until_the_end(handler: Handler) -> None:
    first, last = handler.asked
    handler.head(206, Connection="close", Content_Range=f"bytes {first}-{last}/{len(BODY)}")
    handler.wfile.write(BODY[first : last + 1])
    handler.drop()


def _continued(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    handler.ranged()


def _raw(text: bytes) -> Script:
    def script(handler: Handler) -> None:
        handler.wfile.write(text)
        handler.drop()

    return script


def _gone(handler: Handler) -> None:
    handler.drop()


FAULTS: dict[str, Script] = {
    "400 InvalidArgument": _error(400, "InvalidArgument"),
    "401": _error(401),
    "403 AccessDenied": _error(403, "AccessDenied"),
    "404 NoSuchKey": _error(404, "NoSuchKey"),
    "404 NoSuchBucket": _error(404, "NoSuchBucket"),
    "408": _error(408),
    "409": _error(409),
    "412": _error(412),
    "429": _error(429),
    "429, Retry-After: 1": _error(429, Retry_After="1"),
    "500 InternalError": _error(500, "InternalError"),
    "501": _error(501),
    "502": _error(502),
    "503 SlowDown": _error(503, "SlowDown"),
    "504": _error(504),
    "301": _error(301, Location="http://127.0.0.2:9/k"),
    "307 within the host": _error(307, Location="/elsewhere"),
    "204": lambda handler: handler.head(204),
    "200 and the whole object": _whole,
    "a range that is moved": _range(shift=1),
    "a range that ends early": _range(less=1),
    "a body longer than its range": _range(sent=10),
    "a body shorter than its range": _shorter,
    "206 without Content-Range": _without_range,
    "an invalid Content-Range": _with_range("bytes x-y/z"),
    "a body that is cut": _cut,
    "a chunked body that is cut": _chunked_and_cut,
    "a chunked body that is longer": _chunked_and_longer,
    "a connection that is closed": _gone,
    "a connection that is reset": _reset,
    "silence": _silence,
    "silence in the body": _silence_in_the_body,
    "a byte now and then": _drip,
    "a header byte now and then": _drip_of_the_head,
    "another protocol": _raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a length that is no number": _raw(b"HTTP/1.1 206 Partial Content\r\nContent-Length: many\r\n\r\n"),
    "a length of 1 EiB": _raw(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1152921504606846976\r\n\r\n"),
    "an empty total": _range(total=""),
    "right, with an unknown total": _range(total="*"),
    "right, with status 200": _range(status=200),
    "right, chunked": _chunked,
    "right, until the end of the connection": _until_the_end,
    "right, after 100 Continue": _continued,
}
"""What the store does to each request for a range of an object, by the name of the row in docs/backends.md."""

_ONCE = {
    "400 InvalidArgument": "io_error", "401": "permission", "403 AccessDenied": "permission", "404 NoSuchKey": "not_found",
    "404 NoSuchBucket": "not_found", "409": "conflict", "412": "exists", "501": "unsupported", "301": "wrong_region",
    "307 within the host": "wrong_region", "a byte now and then": "timeout", "a header byte now and then": "timeout",
    "right, with an unknown total": "ok", "right, with status 200": "ok", "right, chunked": "ok",
    "right, until the end of the connection": "ok", "right, after 100 Continue": "ok",
}  # fmt: skip
_TWICE = {
    "408": "timeout", "429": "throttled", "429, Retry-After: 1": "throttled", "500 InternalError": "server_error",
    "502": "server_error", "503 SlowDown": "throttled", "504": "server_error", "204": "io_error",
    "200 and the whole object": "io_error", "a range that is moved": "io_error", "a range that ends early": "io_error",
    "a body longer than its range": "io_error", "a body shorter than its range": "io_error", "206 without Content-Range": "io_error",
    "an invalid Content-Range": "io_error", "a body that is cut": "unreachable",
    "a chunked body that is cut": "unreachable", "a chunked body that is longer": "io_error",
    "a connection that is closed": "unreachable", "a connection that is reset": "unreachable", "silence": "timeout",
    "silence in the body": "timeout", "a length of 1 EiB": "io_error", "an empty total": "io_error",
    "another protocol": "io_error", "a length that is no number": "io_error",
}  # fmt: skip
EXPECTED = {
    **{fault: (kind, 1) for fault, kind in _ONCE.items()},
    **{fault: (kind, 2) for fault, kind in _TWICE.items()},
}
"""The error class (or ok) of each fault, and how often the request is sent with `retries=1`."""
EXPECTED_OF: dict[tuple[str, str], tuple[str, int]] = {
    ("obstore", "a chunked body that is cut"): ("io_error", 2),
    ("obstore", "right, with an unknown total"): ("io_error", 2),
    ("obstore", "right, with status 200"): ("io_error", 2),
    ("obstore", "right, chunked"): ("io_error", 2),
    ("obstore", "right, until the end of the connection"): ("io_error", 2),
    ("obstore", "a header byte now and then"): ("timeout", 2),
    ("azure-sdk", "right, with an unknown total"): ("io_error", 2),
}
"""Where a client library refuses more than the native client."""
