"""`tracekit serve`: who may ask, what a query may do, and the page in a browser."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from chromium import chromium

import tracekit
from tracekit.cli.app import run
from tracekit.serving.sandbox import Limits, run_query
from tracekit.store.reader import open_reader

pytest.importorskip("plotly", reason="plotly is not installed")

REPO = Path(__file__).resolve().parents[2]
SAMPLE, OTHER = REPO / "sample_traces" / "s3.trace", REPO / "sample_traces" / "file.trace"


@pytest.fixture(scope="module")
def server() -> Iterator[tracekit.Server]:
    with tracekit.serve([SAMPLE, OTHER]) as running:
        yield running


def token_of(server: tracekit.Server) -> str:
    return parse_qs(urlsplit(server.url).query)["token"][0]


def request(
    server: tracekit.Server, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any, str]:
    """Status, headers and body of one request; a header `Host` replaces ours."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, None if body is None else json.dumps(body), named)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, text


def cookie(server: tracekit.Server) -> str:
    return f"tracekit-{server.port}={token_of(server)}"


def query(server: tracekit.Server, sql: Any, trace: Any = 0, **headers: str) -> tuple[int, dict[str, Any]]:
    given = {"Content_Type": "application/json", "X_Tracekit_Token": token_of(server), **headers}
    status, _, text = request(server, "POST", "/query", {"trace": trace, "sql": sql}, **given)
    return status, json.loads(text)


def test_the_address_admits_its_reader_and_leaves_no_token_in_the_next_one(server: tracekit.Server) -> None:
    status, headers, _ = request(server, "GET", f"/?token={token_of(server)}")
    assert (status, headers["Location"]) == (303, "/")
    assert (
        headers["Set-Cookie"].startswith(cookie(server))
        and "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]
    )
    status, headers, page = request(server, "GET", "/", Cookie=cookie(server))
    assert (status, page.count("<li>")) == (200, 2)
    assert "Access-Control-Allow-Origin" not in headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/", "/trace/0", "/?token=wrong"])
def test_without_the_token_there_is_no_page(server: tracekit.Server, path: str) -> None:
    status, _, text = request(server, "GET", path)
    assert status == 403 and "open the address" in text and "ops" not in text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1:1", "0.0.0.0", ""])
def test_another_host_name_is_refused(server: tracekit.Server, host: str) -> None:
    assert request(server, "GET", "/", Host=host, Cookie=cookie(server))[0] == 421
    assert query(server, "SELECT 1", Host=host)[0] == 421


def test_another_origin_is_refused_and_may_not_read(server: tracekit.Server) -> None:
    status, answer = query(server, "SELECT 1", Origin="http://evil.example")
    assert status == 403 and "other sites" in answer["error"]["message"]
    status, headers, _ = request(server, "OPTIONS", "/query", Origin="http://evil.example")
    assert status == 501 and not [name for name in headers if name.lower().startswith("access-control")]
    assert query(server, "SELECT 1", Origin=f"http://127.0.0.1:{server.port}")[0] == 200


@pytest.mark.parametrize("token", ["", "wrong", "é"])
def test_a_query_needs_the_token_and_not_only_the_cookie(server: tracekit.Server, token: str) -> None:
    status, answer = query(server, "SELECT 1", X_Tracekit_Token=token, Cookie=cookie(server))
    assert status == 403 and "rows" not in answer


@pytest.mark.parametrize(
    ("body", "status"),
    [([], 400), ({"sql": "SELECT 1"}, 400), ({"trace": 9, "sql": "SELECT 1"}, 400), ({"trace": True, "sql": "SELECT 1"}, 400),
     ({"trace": 0, "sql": 1}, 400)],
)  # fmt: skip
def test_a_malformed_query_is_refused(server: tracekit.Server, body: Any, status: int) -> None:
    headers = {"Content_Type": "application/json", "X_Tracekit_Token": token_of(server)}
    assert request(server, "POST", "/query", body, **headers)[0] == status


def test_a_body_that_is_too_long_is_not_read(server: tracekit.Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", "/query")
    for name, value in (
        ("Content-Type", "application/json"),
        ("X-Tracekit-Token", token_of(server)),
        ("Content-Length", str(1 << 30)),
    ):
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_form_of_another_site_cannot_ask(server: tracekit.Server) -> None:
    """A form needs no preflight, but cannot send JSON."""
    assert query(server, "SELECT 1", Content_Type="text/plain")[0] == 415


def test_a_query_gives_the_rows_as_text_with_all_their_digits(server: tracekit.Server) -> None:
    status, answer = query(server, "SELECT 9007199254740993 AS n, 'a' AS t, NULL::BIGINT AS u", 1)
    assert (status, answer["rows"], answer["more"]) == (200, [["9007199254740993", "a", None]], False)
    assert [column["type"] for column in answer["columns"]] == ["BIGINT", "VARCHAR", "BIGINT"]
    status, answer = query(server, "FROM range(5000)")
    assert (len(answer["rows"]), answer["more"]) == (1000, True)


@pytest.mark.parametrize(
    "sql",
    ["COPY ops TO '/tmp/x.csv'", "SELECT * FROM read_text('/etc/passwd')", "ATTACH 'x.db'", "SET memory_limit = '1TB'",
     "INSTALL httpfs", "SELECT 1; SELECT 2", "CREATE TABLE t AS FROM ops", "FROM '/etc/passwd'"],
)  # fmt: skip
def test_a_query_can_only_read_the_trace(server: tracekit.Server, sql: str) -> None:
    status, answer = query(server, sql)
    assert status == 400 and answer["error"]["message"].startswith("query: ")
    assert not Path("/tmp/x.csv").exists()


def test_an_error_keeps_the_suggestions(server: tracekit.Server) -> None:
    _, answer = query(server, "SELECT latencyy FROM ops")
    assert '"latency"' in answer["error"]["hint"]


def test_a_query_that_takes_too_long_is_ended() -> None:
    endless = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = 7"
    with pytest.raises(tracekit.UsageError, match=r"not done after 0\.2 s"):
        run_query(open_reader(SAMPLE), endless, Limits(seconds=0.2))


def test_a_trace_that_grows_has_a_new_page(tmp_path: Path) -> None:
    with tracekit.Recorder(tmp_path / "t") as recorder:
        recorder.record("file:///d/a", 0, 1, 1, 5)
        recorder.flush()
        with tracekit.serve(tmp_path / "t") as running:
            first = query(running, "SELECT count(*) FROM ops")[1]["rows"]
            recorder.record("file:///d/a", 0, 1, 1, 5)
            recorder.flush()
            assert (first, query(running, "SELECT count(*) FROM ops")[1]["rows"]) == ([["1"]], [["2"]])


def test_a_taken_port_and_a_missing_trace_are_named(
    server: tracekit.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", str(SAMPLE), "--port", str(server.port)]) == 2
    assert "cannot listen" in capsys.readouterr().err
    assert run(["serve", "/none", "--json"]) == 2
    assert "no such trace" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_a_signal(number: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "tracekit", "serve", str(SAMPLE), "--json"],
        stdout=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert child.stdout is not None
    url = json.loads(child.stdout.readline())["url"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(url.partition("?")[0], timeout=30)
    os.kill(child.pid, number)
    assert child.wait(30) == 0
    child.stdout.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with chromium(tmp_path / "chrome") as opened:
        yield opened


def test_a_browser_runs_a_ready_question_and_shows_an_error(server: tracekit.Server, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    browser.set_window_size(1280, 900)
    browser.get(f"http://127.0.0.1:{server.port}/trace/0?token={token_of(server)}")
    assert "token" not in browser.current_url
    wait = WebDriverWait(browser, 60)
    Select(browser.find_element(By.ID, "tk-question")).select_by_value("op-kinds")
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#tk-result td"))
    cells = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "#tk-result tr:nth-child(2) td")]
    assert cells[:2] == ["read", "512"]
    box = browser.find_element(By.ID, "tk-sql")
    box.clear()
    box.send_keys("SELECT latencyy FROM ops")
    browser.find_element(By.ID, "tk-run").click()
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#tk-result .tk-error"))
    assert "Candidate" in browser.find_element(By.CSS_SELECTOR, "#tk-result .tk-error").text
    if shots := os.environ.get("TRACEKIT_SCREENSHOTS"):
        browser.save_screenshot(f"{shots}/serve.png")
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [entry for entry in severe if "/query" not in entry["message"]] == []
