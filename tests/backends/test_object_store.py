"""Every object store with every client: bytes, listings, counters, error messages."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import servers

from tracekit.backends.objects import az, s3
from tracekit.backends.objects.store import ObjectStoreBackend
from tracekit.errors import BackendError, UsageError

CASES = ("s3-native", "s3-obstore", "s3-aiobotocore", "az-native", "az-obstore", "az-azure-sdk")
BODY = bytes(range(256)) * 40
AWKWARD = ("plain", "a b", "q?x", "h#y", "p%20z", "p%zz", "ü/é", "a+b", "x/y/z", "a=b&c", "[1]", "a:b@c")


@dataclass
class Store:
    """A new bucket or container, and a function that opens backends on it."""

    root: str
    endpoint: str
    open: Callable[..., ObjectStoreBackend]
    make_container: Callable[[str], None]
    backend: ObjectStoreBackend

    @property
    def scheme(self) -> str:
        return self.root.partition(":")[0]


@pytest.fixture(params=CASES)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    scheme, _, client = request.param.partition("-")
    made: list[ObjectStoreBackend] = []

    def open_backend(**options: Any) -> ObjectStoreBackend:
        made.append((s3 if scheme == "s3" else az).backend(client=client, **options))
        return made[-1]

    if scheme == "s3":
        server = request.getfixturevalue("moto")
        root = f"s3://{request.getfixturevalue('s3_bucket')}"
        make = server.make_bucket
    else:
        server = request.getfixturevalue("azurite")
        root = f"az://{request.getfixturevalue('az_container')}"
        make = server.make_container
    yield Store(root, server.endpoint, open_backend, make, open_backend())
    for backend in made:
        backend.close()


def read(backend: ObjectStoreBackend, uri: str, offset: int, length: int) -> bytes:
    buffer = backend.allocate(length)
    count = backend.open(uri).read_into(offset, buffer).nbytes
    return bytes(buffer[:count])


def test_reads_any_range_of_what_was_put(store: Store) -> None:
    uri = f"{store.root}/dir/obj"
    assert store.backend.put(uri, BODY) == len(BODY)
    handle = store.backend.open(uri)
    assert handle.size == len(BODY)
    for offset, length in ((0, 10), (17, 4096), (len(BODY) - 1, 1), (0, len(BODY))):
        assert read(store.backend, uri, offset, length) == BODY[offset : offset + length]


def test_a_range_past_the_end_of_the_object_is_short_and_not_an_error(store: Store) -> None:
    uri = f"{store.root}/obj"
    store.backend.put(uri, BODY)
    assert read(store.backend, uri, len(BODY) - 5, 100) == BODY[-5:]
    assert read(store.backend, uri, len(BODY), 100) == b""
    assert read(store.backend, uri, len(BODY) + 9999, 100) == b""
    assert read(store.backend, uri, 3, 0) == b""


def test_the_whole_object_comes_in_one_get(store: Store) -> None:
    uri = f"{store.root}/obj"
    store.backend.put(uri, BODY)
    data, moved = store.backend.open(uri).get()
    ttfb = moved.ttfb
    assert bytes(data) == BODY
    assert ttfb is not None and ttfb > 0
    assert store.backend.counters["whole_gets"] == 1


def test_time_to_first_byte_is_within_the_call(store: Store) -> None:
    uri = f"{store.root}/obj"
    store.backend.put(uri, BODY)
    ttfb = store.backend.open(uri).read_into(0, store.backend.allocate(100)).ttfb
    assert ttfb is not None and 0 < ttfb < 60_000_000_000


def test_event_loops_read_the_same_bytes(store: Store) -> None:
    uri = f"{store.root}/obj"
    store.backend.put(uri, BODY)

    async def one(index: int) -> bytes:
        buffer = memoryview(bytearray(64))
        moved = await store.backend.open(uri).aread_into(index * 64, buffer)
        count, ttfb = moved.nbytes, moved.ttfb
        assert ttfb is not None and ttfb > 0
        return bytes(buffer[:count])

    async def main() -> None:
        parts = await asyncio.gather(*(one(index) for index in range(20)))
        assert b"".join(parts) == BODY[: 20 * 64]
        data, _ = await store.backend.open(uri).aget()
        assert bytes(data) == BODY
        moved = await store.backend.open(uri).aread_into(len(BODY) + 1, memoryview(bytearray(4)))
        assert (moved.nbytes, moved.ttfb, moved.tries) == (0, None, 1)
        await store.backend.aclose()

    asyncio.run(main())
    asyncio.run(main())  # a second loop, after the first was closed


def test_many_threads_share_one_handle(store: Store) -> None:
    uri = f"{store.root}/obj"
    store.backend.put(uri, BODY)
    handle = store.backend.open(uri)

    def one(index: int) -> bytes:
        buffer = memoryview(bytearray(256))
        count = handle.read_into(index * 256, buffer).nbytes
        return bytes(buffer[:count])

    with ThreadPoolExecutor(8) as pool:
        assert b"".join(pool.map(one, range(40))) == BODY
    assert store.backend.counters["range_gets"] == 40


def test_awkward_keys_survive_listing_and_reading(store: Store) -> None:
    from tracekit.backends.objects.uri import join, split

    container = split(f"{store.root}/x").container
    for key in AWKWARD:
        store.backend.put(join(store.scheme, container, key), key.encode())
    listed = [info.uri for info in store.backend.list(store.root)]
    assert sorted(split(uri).key for uri in listed) == sorted(AWKWARD)
    for uri in listed:
        assert "?" not in uri and "#" not in uri
        assert bytes(store.backend.open(uri).get()[0]) == split(uri).key.encode()


def test_a_key_is_never_taken_for_another_that_looks_like_it(store: Store) -> None:
    """Libraries drop a trailing slash or resolve `..`: they would read and write another object."""
    uri = f"{store.root}/obj"
    store.backend.put(uri, BODY)

    def refused(call: Callable[[str], object], other: str) -> None:
        with pytest.raises(BackendError) as raised:
            call(other)
        assert raised.value.error_class in ("bad_key", "not_found"), other

    for other in (
        f"{store.root}//obj",
        f"{store.root}/obj/",
        f"{store.root}/x/../obj",
        f"{store.root}/./obj",
    ):
        refused(lambda uri: store.backend.open(uri).get(), other)
        refused(store.backend.stat, other)
        refused(lambda uri: read(store.backend, uri, 0, 4), other)
        refused(
            lambda uri: asyncio.run(store.backend.open(uri).aread_into(0, store.backend.allocate(4))), other
        )
        with contextlib.suppress(BackendError):  # who can name it has made another object
            store.backend.put(other, b"other", overwrite=True)
        assert bytes(store.backend.open(uri).get()[0]) == BODY, other


def test_bytes_are_returned_as_stored_whatever_content_encoding_says(store: Store) -> None:
    from tracekit.backends.objects.uri import split

    packed = gzip.compress(BODY)
    container = split(f"{store.root}/x").container
    if store.scheme == "s3":
        server = servers.S3Server(store.endpoint)
        server.request("PUT", f"/{container}/k", packed, {"Content-Encoding": "gzip"})
    else:
        from azure.storage.blob import BlobServiceClient, ContentSettings

        account = servers.AzuriteServer(store.endpoint).connection_string
        with BlobServiceClient.from_connection_string(account) as service:
            called = ContentSettings(content_encoding="gzip")
            service.get_blob_client(container, "k").upload_blob(packed, content_settings=called)
    uri = f"{store.root}/k"

    async def on_a_loop() -> tuple[bytes, bytes]:
        buffer = store.backend.allocate(30)
        await store.backend.open(uri).aread_into(20, buffer)
        whole, _ = await store.backend.open(uri).aget()
        await store.backend.aclose()
        return bytes(buffer), bytes(whole)

    assert read(store.backend, uri, 20, 30) == packed[20:50]
    assert bytes(store.backend.open(uri).get()[0]) == packed
    assert asyncio.run(on_a_loop()) == (packed[20:50], packed)


def test_a_prefix_lists_whole_folders_only_and_in_order(store: Store) -> None:
    for key in ("a/1", "a/b/2", "a-not", "ab", "z", "a/0"):
        store.backend.put(f"{store.root}/{key}", b"12345")
    listed = [(info.uri, info.size) for info in store.backend.list(f"{store.root}/a")]
    assert listed == [(f"{store.root}/a/{key}", 5) for key in ("0", "1", "b/2")]
    assert [info.uri for info in store.backend.list(f"{store.root}/a/")] == [uri for uri, _ in listed]
    assert [info.uri for info in store.backend.list(f"{store.root}/z")] == [f"{store.root}/z"]
    assert list(store.backend.list(f"{store.root}/none")) == []
    assert len(list(store.backend.list(store.root))) == 6


def test_put_refuses_an_existing_object_unless_overwrite_is_given(store: Store) -> None:
    uri = f"{store.root}/obj"
    store.backend.put(uri, b"first")
    with pytest.raises(BackendError, match="already exists") as raised:
        store.backend.put(uri, b"second")
    assert raised.value.error_class == "exists"
    assert bytes(store.backend.open(uri).get()[0]) == b"first"
    store.backend.put(uri, memoryview(b"second"), overwrite=True)
    assert bytes(store.backend.open(uri).get()[0]) == b"second"


def test_an_empty_object_can_be_put_and_got(store: Store) -> None:
    uri = f"{store.root}/empty"
    store.backend.put(uri, b"")
    assert store.backend.stat(uri).size == 0
    assert bytes(store.backend.open(uri).get()[0]) == b""
    assert read(store.backend, uri, 0, 10) == b""


def test_a_missing_key_is_reported_in_one_line(store: Store) -> None:
    uri = f"{store.root}/nope"
    calls = (
        lambda: store.backend.stat(uri),
        lambda: store.backend.open(uri).read_into(0, store.backend.allocate(4)),
        lambda: store.backend.open(uri).get(),
        lambda: asyncio.run(store.backend.open(uri).aread_into(0, store.backend.allocate(4))),
    )
    for call in calls:
        with pytest.raises(BackendError) as raised:
            call()
        assert raised.value.error_class == "not_found"
        assert str(raised.value).startswith(f"{uri}: no such object")
        assert "\n" not in str(raised.value)
    with pytest.raises(BackendError, match="nothing found"):
        store.backend.preflight(uri)


def test_an_unknown_bucket_is_named_as_such(store: Store) -> None:
    root = f"{store.scheme}://no-such-place-7"
    for call in (
        lambda: store.backend.preflight(root),
        lambda: store.backend.preflight(f"{root}/a"),
        lambda: store.backend.stat(f"{root}/a"),
        lambda: list(store.backend.list(f"{root}/a")),
        lambda: store.backend.open(f"{root}/a").get(),
        lambda: store.backend.put(f"{root}/a", b""),
    ):
        with pytest.raises(BackendError, match=f"^{root}: no such (bucket|container) at http") as raised:
            call()
        assert raised.value.error_class == "not_found"
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["two words", "tab\there", "a|b", "b%20b", "b\u00fccket"])
def test_an_invalid_bucket_name_is_refused_before_any_request(store: Store, name: str) -> None:
    """Client libraries crash on some of them."""
    for call in (store.backend.preflight, store.backend.stat, store.backend.open):
        with pytest.raises(UsageError, match="invalid bucket or container name"):
            call(f"{store.scheme}://{name}/k")


def test_a_missing_object_costs_at_most_one_listing(store: Store) -> None:
    """A HEAD does not say whether the bucket is missing: that takes one more request for each bucket."""
    for index in range(5):
        with pytest.raises(BackendError, match="no such object"):
            store.backend.stat(f"{store.root}/none-{index}")
    assert store.backend.counters["heads"] == 5
    assert store.backend.counters["lists"] == 1


def test_an_unreachable_endpoint_is_named(store: Store) -> None:
    nowhere = f"http://127.0.0.1:{servers.free_port()}/devstoreaccount1"
    backend = store.open(endpoint=nowhere, retries=1)
    for call in (
        lambda: backend.preflight(f"{store.root}/a"),
        lambda: backend.stat(f"{store.root}/a"),
        lambda: list(backend.list(store.root)),
        lambda: asyncio.run(backend.open(f"{store.root}/a").aread_into(0, backend.allocate(4))),
    ):
        with pytest.raises(BackendError, match=f"the connection to {nowhere} failed") as raised:
            call()
        assert raised.value.error_class == "unreachable"
        assert "\n" not in str(raised.value)


def test_preflight_accepts_an_object_a_folder_and_a_container(store: Store) -> None:
    store.backend.put(f"{store.root}/dir/obj", b"x")
    for uri in (f"{store.root}/dir/obj", f"{store.root}/dir", f"{store.root}/dir/", store.root):
        store.backend.preflight(uri)


def test_uris_that_name_no_object_are_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="names a"):
        store.backend.open(store.root)
    with pytest.raises(UsageError, match="no bucket or container"):
        store.backend.stat(f"{store.scheme}:///key")
    with pytest.raises(UsageError, match="query string"):
        store.backend.stat(f"{store.root}/k?X-Amz-Signature=abc")
    with pytest.raises(UsageError, match="page_cache_mode"):
        store.backend.open(f"{store.root}/k", page_cache_mode="warm")


@pytest.fixture
def faulty(
    store: Store, fault_proxy: Callable[[str], servers.FaultProxy]
) -> tuple[servers.FaultProxy, ObjectStoreBackend, str]:
    """A proxy in front of the store, a backend that uses it, and an object."""
    uri = f"{store.root}/obj"
    store.backend.put(uri, BODY)
    proxy = fault_proxy(store.endpoint)
    return proxy, store.open(endpoint=proxy.endpoint, retries=2, timeout_s=1.0), uri


FAULTS = {
    "throttled": servers.SLOW_DOWN,
    "throttled-429": servers.Fault(429, "<Error><Code>TooManyRequests</Code></Error>"),
    "server_error": servers.Fault(500, "oops"),
    "unreachable-cut": servers.Fault(truncate=True),
    "unreachable-dropped": servers.Fault(),
    "timeout": servers.Fault(status=200, stall_s=2.5),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_transient_fault_is_retried_and_counted(
    faulty: tuple[servers.FaultProxy, ObjectStoreBackend, str], kind: str
) -> None:
    proxy, backend, uri = faulty
    proxy.faults.append(FAULTS[kind])
    assert read(backend, uri, 100, 1000) == BODY[100:1100]
    assert backend.counters["retries"] == 1
    assert backend.counters["throttles"] == (1 if kind.startswith("throttled") else 0)
    assert backend.counters["range_gets"] == 1
    assert len(proxy.seen) == 2  # nothing retried behind our back


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind != "timeout"])
def test_a_permanent_fault_is_reported_with_its_class_after_the_retries(
    faulty: tuple[servers.FaultProxy, ObjectStoreBackend, str], kind: str
) -> None:
    proxy, backend, uri = faulty
    proxy.faults.extend([FAULTS[kind]] * 3)

    async def aread() -> None:
        try:
            await backend.open(uri).aread_into(0, backend.allocate(100))
        finally:
            await backend.aclose()

    with pytest.raises(BackendError, match="sent 3 times") as raised:
        asyncio.run(aread())
    assert raised.value.error_class == kind.partition("-")[0]
    assert "\n" not in str(raised.value)
    assert backend.counters["retries"] == 2
    assert len(proxy.seen) == 3


def test_a_listing_resumes_at_the_page_that_failed(
    faulty: tuple[servers.FaultProxy, ObjectStoreBackend, str],
) -> None:
    proxy, backend, uri = faulty
    proxy.faults.append(servers.SLOW_DOWN)
    assert [info.uri for info in backend.list(uri.rpartition("/")[0])] == [uri]
    assert (backend.counters["retries"], backend.counters["throttles"]) == (1, 1)


def test_a_preflight_retries_after_a_throttle_and_counts_it(
    faulty: tuple[servers.FaultProxy, ObjectStoreBackend, str],
) -> None:
    proxy, backend, uri = faulty
    proxy.faults.extend([servers.SLOW_DOWN] * 2)
    backend.preflight(uri)
    assert (backend.counters["retries"], backend.counters["throttles"]) == (2, 2)
    proxy.faults.extend([servers.SLOW_DOWN] * 2)
    backend.preflight(uri.rpartition("/")[0])
    assert (backend.counters["retries"], backend.counters["throttles"]) == (4, 4)


def test_a_page_that_always_fails_ends_the_listing_with_an_error(
    store: Store, many_objects: list[str], fault_proxy: Callable[[str], servers.FaultProxy]
) -> None:
    """Entries that come again when a listing is restarted are not progress."""
    proxy = fault_proxy(store.endpoint)
    proxy.always = dict.fromkeys(("marker=", "continuation-token=", "start-after="), servers.SLOW_DOWN)
    backend = store.open(endpoint=proxy.endpoint, retries=2)
    seen = []
    with pytest.raises(BackendError, match="sent 3 times") as raised:
        for info in backend.list(f"{store.scheme}://many/data"):
            seen.append(info.uri)
    assert raised.value.error_class == "throttled"
    assert len(seen) <= 1000
    assert seen == sorted(set(seen))
    assert len(proxy.seen) < 10


def test_a_stalled_body_is_a_timeout(store: Store, fault_proxy: Callable[[str], servers.FaultProxy]) -> None:
    uri = f"{store.root}/obj"
    store.backend.put(uri, BODY)
    proxy = fault_proxy(store.endpoint)
    proxy.faults.append(servers.Fault(truncate=True, stall_s=3))
    with pytest.raises(BackendError) as raised:
        read(store.open(endpoint=proxy.endpoint, retries=0, timeout_s=0.5), uri, 0, 4000)
    assert raised.value.error_class == "timeout"


def test_bytes_of_another_range_than_requested_are_an_error(
    faulty: tuple[servers.FaultProxy, ObjectStoreBackend, str],
) -> None:
    """A gateway without ranges answers with the whole object or with another page."""
    proxy, backend, uri = faulty

    async def aread() -> None:
        try:
            await backend.open(uri).aread_into(5, backend.allocate(1000))
        finally:
            await backend.aclose()

    for call in (lambda: read(backend, uri, 5, 1000), lambda: asyncio.run(aread())):
        for body in ("please log in", "x" * 5000):
            proxy.faults.extend([servers.Fault(200, body)] * 3)
            with pytest.raises(BackendError) as raised:
                call()
            assert raised.value.error_class == "io_error"
            assert "\n" not in str(raised.value)
            proxy.faults.clear()


def test_an_archived_object_is_not_reported_as_existing(
    faulty: tuple[servers.FaultProxy, ObjectStoreBackend, str],
) -> None:
    proxy, backend, uri = faulty
    proxy.faults.append(servers.Fault(409, "<Error><Code>BlobArchived</Code><Message>No.</Message></Error>"))
    with pytest.raises(BackendError, match="409") as raised:
        read(backend, uri, 0, 4)
    assert raised.value.error_class == "conflict"


def test_2500_objects_are_listed_in_pages(store: Store, many_objects: list[str]) -> None:
    seen = list(store.backend.list(f"{store.scheme}://many/data"))
    assert [info.uri for info in seen] == [f"{store.scheme}://many/{key}" for key in many_objects]
    assert {info.size for info in seen} == {4}
    assert store.backend.counters["lists"] >= 3


def test_a_whole_get_is_cut_at_the_limit_and_never_reads_beyond_it(store: Store) -> None:
    uri = f"{store.root}/k"
    store.backend.put(uri, BODY)
    handle = store.backend.open(uri)
    for most in (None, 1, 100, len(BODY), len(BODY) + 1):
        got, moved = handle.get(most)
        assert bytes(got) == BODY[:most] and moved.nbytes == len(BODY[:most])
        got, moved = asyncio.run(handle.aget(most))
        assert bytes(got) == BODY[:most] and moved.nbytes == len(BODY[:most])


def test_a_buffer_larger_than_memory_is_an_error_with_a_class(store: Store) -> None:
    with pytest.raises(BackendError, match="cannot allocate") as raised:
        store.backend.allocate(1 << 62)
    assert raised.value.error_class == "out_of_memory"
