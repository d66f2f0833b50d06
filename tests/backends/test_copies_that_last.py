"""Copies that the store makes while the client waits: they end in time, and are those that were begun."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from faults import KEYS, Handler, place, serving

from tracekit import backend_for
from tracekit.backends.objects.limits import CopyLimit
from tracekit.backends.objects.store import ObjectStoreBackend
from tracekit.errors import BackendError
from tracekit.store_options import CLIENTS

WITH_EACH_CLIENT = pytest.mark.parametrize("client", CLIENTS["az"])


@pytest.fixture
def keys(clean_env: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)
    return clean_env


class Copying:
    """Azure's side of a copy; `states` are told one after the other, the last one from then on."""

    def __init__(self, *states: str, abort: int = 204, lost: bool = False) -> None:
        self.states = list(states)
        self.abort, self.lost = abort, lost
        self.copy_id = "id-1"
        self.source = ""
        self.asked: list[str] = []

    def __call__(self, handler: Handler) -> None:
        query = parse_qs(urlsplit(handler.path).query)
        if "comp" in query:
            action = handler.headers["x-ms-copy-action"]
            self.asked.append(f"{action} {query['comp'][0]} {query['copyid'][0]}")
            handler.reply(self.abort, x_ms_error_code="NoPendingCopyOperation")
        elif handler.command == "HEAD":
            self.asked.append("HEAD")
            self._tell(handler, 200)
        elif self.source:
            self.asked.append("copy again")
            handler.reply(409, x_ms_error_code="PendingCopyOperation")
        else:
            self.asked.append("copy")
            self.source = handler.headers["x-ms-copy-source"]
            handler.drop() if self.lost else self._tell(handler, 202)

    def _tell(self, handler: Handler, status: int) -> None:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        named = {"x_ms_copy_status_description": "it did not fit"} if state == "failed" else {}
        handler.reply(
            status, x_ms_copy_status=state, x_ms_copy_id=self.copy_id, x_ms_copy_source=self.source, **named
        )


def copied(store: Callable[[Handler], None], client: str, **options: Any) -> ObjectStoreBackend:
    """Copy an object at `store`, and return the backend that did it."""
    with serving(store) as (endpoint, _):
        uri, where = place(endpoint, "az")
        backend: Any = backend_for(uri, client=client, timeout_s=5, **where, **options)
        try:
            backend.changer.copy(uri, "az://bucket/to")
        finally:
            backend.close()
        return backend  # type: ignore[no-any-return]


def refused(store: Callable[[Handler], None], client: str = "native", **options: Any) -> BackendError:
    with pytest.raises(BackendError) as raised:
        copied(store, client, **options)
    assert "\n" not in str(raised.value)
    return raised.value


@WITH_EACH_CLIENT
def test_a_copy_is_waited_for_and_the_questions_are_counted(keys: pytest.MonkeyPatch, client: str) -> None:
    store = Copying("pending", "pending", "success")
    counters = copied(store, client, total_timeout_s=60).counters
    assert store.asked == ["copy", "HEAD", "HEAD"]
    assert (counters["copies"], counters["heads"], counters["retries"]) == (1, 2, 0)


@WITH_EACH_CLIENT
def test_a_copy_that_is_not_done_in_time_is_aborted_and_not_sent_again(
    keys: pytest.MonkeyPatch, client: str
) -> None:
    store = Copying("pending")
    error = refused(store, client, total_timeout_s=0.3, retries=3)
    assert (error.error_class, error.tries) == ("timeout", 1)
    assert "the copy took longer than total_timeout_s and was aborted (raise total_timeout_s=)" in str(error)
    assert [store.asked[0], store.asked[-1]] == ["copy", "abort copy id-1"]
    assert set(store.asked[1:-1]) == {"HEAD"}


def test_a_copy_that_ends_while_it_is_aborted_is_taken_as_it_ended(keys: pytest.MonkeyPatch) -> None:
    class Ending(Copying):
        def __call__(self, handler: Handler) -> None:
            if "comp=copy" in handler.path:
                self.states = [ended]
            super().__call__(handler)

    for ended in ("success", "failed"):
        store = Ending("pending", abort=409)
        if ended == "success":
            assert copied(store, "native", total_timeout_s=0.3).counters["aborts"] == 1
        else:
            error = refused(store, total_timeout_s=0.3)
            assert (error.error_class, "failed: it did not fit" in str(error)) == ("io_error", True)
        assert store.asked[-2:] == ["abort copy id-1", "HEAD"]


@pytest.mark.parametrize("status", [403, 409, 500])
def test_a_copy_that_cannot_be_aborted_is_said_to_go_on(keys: pytest.MonkeyPatch, status: int) -> None:
    error = refused(Copying("pending", abort=status), total_timeout_s=0.3, retries=0)
    assert (error.error_class, "goes on: HTTP" in str(error)) == ("timeout", True)


def test_an_object_of_another_copy_is_not_taken_for_ours(keys: pytest.MonkeyPatch) -> None:
    class Replaced(Copying):
        def __call__(self, handler: Handler) -> None:
            self.copy_id = "id-2" if self.asked else "id-1"
            super().__call__(handler)

    store = Replaced("pending", "success")
    assert refused(store, retries=0).error_class == "conflict"
    assert store.asked == ["copy", "HEAD"]


def test_a_copy_whose_answer_was_lost_is_waited_for_and_not_begun_again(keys: pytest.MonkeyPatch) -> None:
    store = Copying("pending", "pending", "success", lost=True)
    assert copied(store, "native", retries=2).counters["retries"] == 1
    assert store.asked == ["copy", "copy again", "HEAD", "HEAD", "HEAD"]

    other = Copying("pending")
    other.source = "http://elsewhere/account/bucket/other"
    error = refused(other, retries=0)
    assert (error.error_class, "PendingCopyOperation" in str(error)) == ("conflict", True)


def test_a_copy_of_google_ends_by_the_total_timeout() -> None:
    def script(handler: Handler) -> None:
        handler.pause(0.2)
        told = {"done": False, "rewriteToken": f"t{len(handler.seen)}"}
        handler.reply(200, json.dumps(told).encode())

    with serving(script) as (endpoint, seen):
        uri, where = place(endpoint, "gs")
        backend: Any = backend_for(uri, total_timeout_s=0.5, retries=3, **where)
        with pytest.raises(BackendError) as raised:
            backend.changer.copy(uri, "gs://bucket/to")
        assert (raised.value.error_class, raised.value.tries) == ("timeout", 1)
        assert "total_timeout_s" in str(raised.value)
        assert backend.counters["copies"] == len(seen) > 1
        backend.close()


def test_a_copy_without_a_total_timeout_ends_if_it_makes_no_progress(keys: pytest.MonkeyPatch) -> None:
    keys.setattr("tracekit.backends.objects.limits.COPY_LIMIT_S", 0.3)
    store = Copying("pending")
    error = refused(store, retries=3)
    assert (error.error_class, error.tries) == ("timeout", 1)
    assert "made no progress" in str(error) and "was aborted (raise total_timeout_s=)" in str(error)
    assert store.asked[-1] == "abort copy id-1"


def test_a_copy_of_google_ends_if_it_makes_no_progress(keys: pytest.MonkeyPatch) -> None:
    keys.setattr("tracekit.backends.objects.limits.COPY_LIMIT_S", 0.3)

    def script(handler: Handler) -> None:
        handler.pause(0.1)
        told = {"done": False, "rewriteToken": f"t{len(handler.seen)}", "totalBytesRewritten": "7"}
        handler.reply(200, json.dumps(told).encode())

    with serving(script) as (endpoint, seen):
        uri, where = place(endpoint, "gs")
        backend: Any = backend_for(uri, retries=3, **where)
        with contextlib.closing(backend), pytest.raises(BackendError) as raised:
            backend.changer.copy(uri, "gs://bucket/to")
        assert (raised.value.error_class, raised.value.tries) == ("timeout", 1)
        assert "made no progress" in str(raised.value)
        assert backend.counters["copies"] == len(seen) > 1


@pytest.mark.parametrize(
    ("total_s", "words"), [(None, "made no progress"), (0.3, "took longer than total_timeout_s")]
)
def test_a_copy_of_s3_that_only_sends_blanks_ends(
    keys: pytest.MonkeyPatch, total_s: float | None, words: str
) -> None:
    keys.setattr("tracekit.backends.objects.limits.COPY_LIMIT_S", 0.3)

    def blanks(handler: Handler) -> None:
        handler.head(200, Connection="close")
        while not handler.ended.wait(0.05):
            handler.wfile.write(b" ")

    with serving(blanks) as (endpoint, seen):
        uri, where = place(endpoint, "s3")
        backend: Any = backend_for(uri, retries=3, total_timeout_s=total_s, **where)
        with contextlib.closing(backend), pytest.raises(BackendError) as raised:
            backend.changer.copy(uri, "s3://bucket/to")
        assert (raised.value.error_class, len(seen)) == ("timeout", 1)
        assert words in str(raised.value) and "raise total_timeout_s=" in str(raised.value)


def test_a_copy_may_take_longer_than_its_limit_while_it_makes_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("tracekit.backends.objects.limits.time.monotonic", lambda: now[0])
    free, bound = CopyLimit(None), CopyLimit(5000)
    for minutes, progress, over in [(50, "1", False), (100, "2", False), (150, "2", False), (161, "2", True)]:
        now[0] = minutes * 60.0
        assert (free.over(progress), bound.over(progress)) == (over, now[0] >= 5000)


@pytest.mark.server
@WITH_EACH_CLIENT
def test_an_object_is_copied_with_a_total_timeout(az_container: str, client: str) -> None:
    backend: Any = backend_for(f"az://{az_container}", client=client, total_timeout_s=60)
    backend.put(f"az://{az_container}/from", b"0123456789")
    backend.changer.copy(f"az://{az_container}/from", f"az://{az_container}/to")
    assert bytes(backend.open(f"az://{az_container}/to").get()[0]) == b"0123456789"
    backend.close()
