"""The server of `tracekit serve`: reports with a query box, on the loopback alone.

Whoever may ask is told by a token. The address that `serve` returns holds it; the server then sets a cookie, and a page
sends the token back with each query. Requests for another host name (DNS rebinding) or from another origin are refused,
and nothing allows another origin to read an answer.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tracekit.errors import TracekitError, UsageError
from tracekit.extras import require
from tracekit.redaction import redact
from tracekit.serving.page import Pages
from tracekit.serving.sandbox import Limits, Rows, run_query
from tracekit.store.locate import each_trace
from tracekit.store.reader import TraceLike

__all__ = ["Server", "serve"]

_LOOPBACK = "127.0.0.1"
_MOST_BODY = 1 << 20
_IDLE_S = 30
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; "
    "font-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Server:
    """Serves the pages of some traces, as `tracekit.serve` starts it. As a context manager, it is closed on exit."""

    def __init__(self, pages: Pages, port: int, limits: Limits) -> None:
        self._token = secrets.token_urlsafe(32)
        try:
            self._http = _Http((_LOOPBACK, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"port={port}: cannot listen: {error.strerror or error}", "choose another port, or 0"
            ) from error
        self._http.app = _App(pages, self._token, self.port, limits)
        self._thread = threading.Thread(target=self._http.serve_forever, name="tracekit-serve", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that the server listens at."""
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        """The address to open, with the token that admits its reader."""
        return f"http://{_LOOPBACK}:{self.port}/?token={self._token}"

    def close(self) -> None:
        """Stop to listen. Requests under way end first."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(
    traces: TraceLike | Sequence[TraceLike],
    *,
    port: int = 0,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Server:
    """Start a server on the loopback that shows the report of each trace with a query box, and return it.

    Port 0 takes a free one. A query can only read its trace, as `Trace.query`; it has 30 s, and `threads` and
    `memory`. Raises UsageError if the extra `report` is missing or the port is taken, TraceFormatError if a trace
    cannot be read.
    """
    require("plotly", extra="report")
    if not 0 <= port < 65_536:
        raise UsageError(f"port={port} is not a port", "give a number up to 65535, or 0 for a free one")
    several: list[Any] = list(traces) if isinstance(traces, list | tuple) else [traces]
    if not several:
        raise UsageError("traces= names no trace", "give one or more")
    return Server(Pages(each_trace(several)), port, Limits(threads=threads, memory=memory))


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    app: _App


class _App:
    """What the handlers of requests share."""

    def __init__(self, pages: Pages, token: str, port: int, limits: Limits) -> None:
        self.pages, self.token, self.limits = pages, token, limits
        self.cookie = f"tracekit-{port}"  # cookies do not know ports
        self.hosts = {f"{name}:{port}" for name in (_LOOPBACK, "localhost")}
        self.origins = {f"http://{host}" for host in self.hosts}

    def admits(self, token: str | None) -> bool:
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())


class _Refused(Exception):
    """A request that is not answered: status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    server_version, sys_version = "tracekit", ""
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S

    def do_GET(self) -> None:
        self._answered(self._get)

    def do_POST(self) -> None:
        self._answered(self._post)

    def _answered(self, answer: Any) -> None:
        try:
            self._check_origin()
            answer()
        except _Refused as refused:
            self._send_json({"error": {"message": refused.reason, "hint": ""}}, status=refused.status)
        except TracekitError as error:
            facts = {"message": redact(error.message), "hint": redact(error.hint)}
            self._send_json({"error": facts}, status=400)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True  # the reader has gone

    def _check_origin(self) -> None:
        """Refuse another host name, which a rebound DNS name would be, and another origin."""
        app = self.server.app
        if self.headers.get_all("Host", []) not in [[host] for host in app.hosts]:
            raise self._refusal(421, "this server is for 127.0.0.1 alone")
        if self.headers.get("Origin", next(iter(app.origins))) not in app.origins:
            raise self._refusal(403, "requests of other sites are refused")

    def _refusal(self, status: int, reason: str) -> _Refused:
        """A refusal after which the connection ends, since the body of the request was not read."""
        self.close_connection = True
        return _Refused(status, reason)

    def _get(self) -> None:
        app, target = self.server.app, urlsplit(self.path)
        given = parse_qs(target.query).get("token")
        if given is not None:
            if not app.admits(given[0]):
                raise _Refused(403, "the token is wrong: open the address that tracekit serve printed")
            self._redirect(target.path)
            return
        if not app.admits(self._cookie()):
            raise _Refused(403, "no token: open the address that tracekit serve printed")
        parts = target.path.strip("/").split("/")
        if parts == [""]:
            page = app.pages.listing() if len(app.pages) > 1 else app.pages.trace(0, app.token)
        elif (
            len(parts) == 2 and parts[0] == "trace" and parts[1].isdigit() and int(parts[1]) < len(app.pages)
        ):
            page = app.pages.trace(int(parts[1]), app.token)
        else:
            raise _Refused(404, "there is no such page")
        self._send(200, page.encode(), "text/html; charset=utf-8")

    def _cookie(self) -> str | None:
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.app.cookie)
        except CookieError:
            return None
        return None if found is None else found.value

    def _redirect(self, path: str) -> None:
        """Admit this reader by a cookie, and take the token out of the address."""
        app = self.server.app
        self.send_response(303)
        self.send_header("Location", f"/{path.strip('/')}")
        self.send_header("Set-Cookie", f"{app.cookie}={app.token}; Path=/; HttpOnly; SameSite=Strict")
        self.send_header("Content-Length", "0")
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def _post(self) -> None:
        app = self.server.app
        if urlsplit(self.path).path != "/query":
            raise self._refusal(404, "there is no such page")
        if not app.admits(self.headers.get("X-Tracekit-Token")):
            raise self._refusal(403, "the token is missing or wrong")
        if self.headers.get_content_type() != "application/json":
            raise self._refusal(415, "a query is sent as JSON")
        size = self.headers.get("Content-Length", "")
        if not size.isdigit() or int(size) > _MOST_BODY:
            raise self._refusal(413, "the query is too long")
        try:
            asked = json.loads(self.rfile.read(int(size)))
            number, sql = asked["trace"], asked["sql"]
        except (ValueError, KeyError, TypeError):
            raise _Refused(400, 'a query is {"trace": NUMBER, "sql": TEXT}') from None
        if type(number) is not int or not 0 <= number < len(app.pages) or not isinstance(sql, str):
            raise _Refused(400, 'a query is {"trace": NUMBER, "sql": TEXT}')
        self._send_json(_as_text(run_query(app.pages.reader(number), sql, app.limits)))

    def _send_json(self, value: dict[str, Any], *, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a line would hold the token."""


def _as_text(found: Rows) -> dict[str, Any]:
    """The rows with each value as text, as a browser shows it: its numbers would lose digits of ours."""
    answer = found.to_dict()
    answer["rows"] = [[None if value is None else _shown(value) for value in row] for row in found.rows]
    return answer


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
