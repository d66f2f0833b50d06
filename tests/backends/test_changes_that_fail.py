"""Requests that change objects are sent again, or fail in one line with their class."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from faults import KEYS, Handler, place, serving

from tracekit import backend_for
from tracekit.backends.objects.store import ObjectStoreBackend
from tracekit.errors import BackendError


@pytest.fixture
def keys(clean_env: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)
    return clean_env


class Store:
    """One object in parts, as S3 and Azure have them. The first request of each kind fails by `fault`."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.seen: Counter[str] = Counter()
        self.parts: dict[str, bytes] = {}
        self.made = b""

    def __call__(self, handler: Handler) -> None:
        query = parse_qs(urlsplit(handler.path).query, keep_blank_values=True)
        number = (query.get("partNumber") or query.get("blockid") or [""])[0]
        kind = number or ("complete" if "uploadId" in query or "comp" in query else handler.command)
        self.seen[kind] += 1
        if self.seen[kind] == 1 or self.fault == "always":
            self._fail(handler, kind)
        elif number:
            self.parts[number] = handler.body
            handler.reply(200) if self.fault != "no tag" else self._plain(handler)
        elif kind == "complete":
            named = re.findall(r"<(?:PartNumber|Latest)>(.*?)<", handler.body.decode())
            self.made = b"".join(self.parts[name] for name in named)
            handler.reply(*((201,) if "comp" in query else (200, b"<CompleteMultipartUploadResult/>")))
        elif handler.command == "DELETE":
            handler.reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            handler.reply(200, b"<R><UploadId>u&amp;1</UploadId></R>")

    def _fail(self, handler: Handler, kind: str) -> None:
        if self.fault == "in the body" and kind == "complete":
            handler.reply(200, b"<Error><Code>InternalError</Code></Error>")
        elif self.fault == "empty body" and kind == "complete":
            handler.reply(200, b"\n\n")
        elif self.fault == "closed":
            handler.drop()
        elif self.fault == "throttled":
            handler.reply(503, b"<Error><Code>SlowDown</Code></Error>")
        else:
            handler.reply(500, b"<Error><Code>InternalError</Code></Error>")

    @staticmethod
    def _plain(handler: Handler) -> None:
        handler.send_response_only(200)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


def backend_at(endpoint: str, scheme: str) -> tuple[ObjectStoreBackend, str]:
    uri, options = place(endpoint, scheme)
    backend: Any = backend_for(uri, retries=2, timeout_s=5, **options)
    return backend, uri


@pytest.mark.parametrize(
    ("scheme", "fault"),
    [
        *((scheme, fault) for scheme in ("s3", "az") for fault in ("throttled", "server error", "closed")),
        ("s3", "in the body"),  # of a request that takes long, S3 sends the status first
        ("s3", "empty body"),
    ],
)
def test_each_request_of_an_upload_in_parts_is_sent_again(
    keys: pytest.MonkeyPatch, scheme: str, fault: str
) -> None:
    store = Store(fault)
    with serving(store) as (endpoint, seen):
        backend, uri = backend_at(endpoint, scheme)
        upload = backend.changer.upload(uri)
        for number, data in ((2, b"second"), (1, b"first ")):
            assert upload.part(number, 0, memoryview(data)) == 6
        upload.complete()
        assert store.made == b"first second"
        counters = backend.counters
        assert (counters["parts"], counters["completes"]) == (2, 1)
        assert counters["retries"] == (4 if scheme == "s3" else 3)  # Azure begins with the first part
        assert len(seen) == 2 * counters["retries"]
        backend.close()


@pytest.mark.parametrize("scheme", ["s3", "az"])
def test_a_part_that_is_refused_each_time_is_an_error_with_its_class(
    keys: pytest.MonkeyPatch, scheme: str
) -> None:
    store = Store("server error")
    with serving(store) as (endpoint, _):
        backend, uri = backend_at(endpoint, scheme)
        upload = backend.changer.upload(uri)
        store.fault = "always"
        with pytest.raises(BackendError) as raised:
            upload.part(1, 0, memoryview(b"x"))
        assert (raised.value.error_class, raised.value.tries) == ("server_error", 3)
        assert "\n" not in str(raised.value)
        backend.close()


def test_a_part_that_the_store_does_not_name_is_an_error(keys: pytest.MonkeyPatch) -> None:
    with serving(Store("no tag")) as (endpoint, _):
        backend, uri = backend_at(endpoint, "s3")
        upload = backend.changer.upload(uri)
        with pytest.raises(BackendError, match="did not name the part") as raised:
            upload.part(1, 0, memoryview(b"x"))
        assert raised.value.error_class == "io_error"
        backend.close()


@pytest.mark.parametrize("scheme", ["s3", "az"])
def test_an_object_that_a_lost_try_deleted_is_deleted(keys: pytest.MonkeyPatch, scheme: str) -> None:
    with serving(Store("closed")) as (endpoint, seen):
        backend, uri = backend_at(endpoint, scheme)
        backend.changer.delete(uri)
        assert len(seen) == 2
        with pytest.raises(BackendError) as raised:  # this time the first answer says so
            backend.changer.delete(uri)
        assert raised.value.error_class == "not_found"
        backend.close()
