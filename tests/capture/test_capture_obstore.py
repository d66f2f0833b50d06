import asyncio

import pytest

from tracekit import capture
from tracekit.capture import sample, step
from tracekit.capture.hooks.obstore import wrap

obstore = pytest.importorskip("obstore", reason="obstore is not installed")
from obstore.store import LocalStore, MemoryStore, S3Store  # noqa: E402

BODY = bytes(range(256)) * 100
SIZE = len(BODY)


@pytest.fixture
def store():
    made = MemoryStore()
    made.put("set/a.bin", BODY)
    return made


def facts(found):
    return [(r["op"], r["uri"], r["offset"], r["len"], r["bytes"], r["error"]) for r in found]


def test_functions_and_methods_are_recorded_with_their_ranges(store, trace, ops):
    with capture.start(trace, hooks=["obstore"]), step(1), sample(2):
        assert bytes(store.get_range("set/a.bin", start=10, length=20)) == BODY[10:30]
        assert bytes(obstore.get_range(store, "set/a.bin", start=10, end=20)) == BODY[10:20]
        store.get_ranges("set/a.bin", starts=[0, 100], lengths=[5, 6])
        assert bytes(store.get("set/a.bin").bytes()) == BODY
        assert bytes(store.get("set/a.bin", options={"range": (5, 15)}).bytes()) == BODY[5:15]
        assert b"".join(bytes(chunk) for chunk in store.get("set/a.bin").stream(1000)) == BODY
        store.put("b", b"12345")
        store.head("b")
        store.delete(["b"])
    uri = "memory:///set/a.bin"
    found = ops(trace)
    assert facts(found) == [
        ("read", uri, 10, 20, 20, None),
        ("read", uri, 10, 10, 10, None),
        ("read", uri, 0, 5, 5, None),
        ("read", uri, 100, 6, 6, None),
        ("get", uri, None, SIZE, SIZE, None),
        ("read", uri, 5, 10, 10, None),
        ("get", uri, None, SIZE, SIZE, None),
        ("put", "memory:///b", None, 5, 5, None),
        ("stat", "memory:///b", None, None, None, None),
        ("delete", "memory:///b", None, None, None, None),
    ]
    assert {(row["sample_id"], row["step"]) for row in found} == {(2, 1)}


def test_a_wrapped_result_keeps_its_type_and_methods(store, trace):
    plain = store.get("set/a.bin")
    with capture.start(trace, hooks=["obstore"]):
        result = store.get("set/a.bin")
        assert isinstance(result, type(plain))
        assert result.meta["size"] == SIZE and result.range == (0, SIZE)
        reader = obstore.open_reader(store, "set/a.bin")
        reader.seek(100)
        assert bytes(reader.read(10)) == BODY[100:110] and reader.tell() == 110


def test_asynchronous_calls_start_at_once_and_keep_their_samples(store, trace, ops):
    async def fetch(number):
        with sample(number):
            return bytes(await store.get_range_async("set/a.bin", start=number * 10, length=10))

    async def run():
        whole = await obstore.get_async(store, "set/a.bin")
        assert bytes(await whole.bytes_async()) == BODY
        reader = await obstore.open_reader_async(store, "set/a.bin")
        assert bytes(await reader.read(5)) == BODY[:5]
        under_way = obstore.head_async(store, "set/a.bin")
        assert asyncio.isfuture(under_way)
        await under_way
        return await asyncio.gather(*(fetch(number) for number in range(5)))

    with capture.start(trace, hooks=["obstore"]):
        assert asyncio.run(run()) == [BODY[n * 10 : n * 10 + 10] for n in range(5)]
    ranges = [r for r in ops(trace) if r["sample_id"] is not None]
    assert sorted((r["sample_id"], r["offset"], r["bytes"]) for r in ranges) == [
        (n, n * 10, 10) for n in range(5)
    ]


def test_a_failure_reaches_the_host_and_the_trace(store, trace, ops):
    with capture.start(trace, hooks=["obstore"]), pytest.raises(FileNotFoundError):
        store.get_range("none", start=0, length=5)
    assert facts(ops(trace)) == [("read", "memory:///none", 0, 5, 0, "not_found")]


def test_a_wrapped_store_needs_no_hook(store, trace, ops):
    with capture.start(trace, hooks=[]):
        recorded = wrap(store)
        recorded.get_range("set/a.bin", start=1, length=2)
        store.get_range("set/a.bin", start=1, length=2)
    assert len(ops(trace)) == 1


def test_local_stores_have_file_uris(tmp_path, trace, ops):
    (tmp_path / "a.bin").write_bytes(BODY)
    with capture.start(trace, hooks=["obstore"]):
        LocalStore(str(tmp_path)).get_range("a.bin", start=0, length=3)
    assert ops(trace)[0]["uri"] == f"file://{tmp_path}/a.bin"


def test_s3_stores_used_through_fsspec_are_recorded_once(s3_env, s3_bucket, trace, ops):
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    from obstore.fsspec import FsspecStore

    s3_env.put(s3_bucket, "set/a.bin", BODY)
    options = {"endpoint": s3_env.endpoint, "client_options": {"allow_http": True}}
    with capture.start(trace):
        S3Store(s3_bucket, prefix="set", **options).get_range("a.bin", start=7, length=5)
        FsspecStore("s3", **options).cat_file(f"s3://{s3_bucket}/set/a.bin", 100, 120)
    uri = f"s3://{s3_bucket}/set/a.bin"
    assert facts(ops(trace)) == [("read", uri, 7, 5, 5, None), ("read", uri, 100, 20, 20, None)]
    assert b"testing-secret-key" not in b"".join(path.read_bytes() for path in trace.iterdir())


def test_stop_puts_the_functions_back(store, trace):
    before = obstore.get_range
    with capture.start(trace, hooks=["obstore"]):
        assert obstore.get_range is not before
    assert obstore.get_range is before


def test_every_argument_may_be_given_by_its_name(store, trace, ops):
    with capture.start(trace, hooks=["obstore"]):
        assert bytes(obstore.get_range(store=store, path="set/a.bin", start=1, length=2)) == BODY[1:3]
        store.put(file=b"123", path="b")
        store.head(path="b")
        obstore.delete(store, paths=["b", "none"])
        wrap(store).delete(paths="c")

        async def later() -> None:
            await store.put_async(path="d", file=b"1")
            await obstore.delete_async(store, paths="d")

        asyncio.run(later())
    assert [(row["op"], row["uri"], row["bytes"]) for row in ops(trace)] == [
        ("read", "memory:///set/a.bin", 2), ("put", "memory:///b", 3), ("stat", "memory:///b", None),
        ("delete", "memory:///b", None), ("delete", "memory:///none", None), ("delete", "memory:///c", None),
        ("put", "memory:///d", 1), ("delete", "memory:///d", None),
    ]  # fmt: skip
