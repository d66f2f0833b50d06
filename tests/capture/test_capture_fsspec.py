import os
import pickle

import pytest

from tracekit import capture
from tracekit.capture import sample, step
from tracekit.capture.hooks.fsspec import wrap

fsspec = pytest.importorskip("fsspec")
SIZE = 1_000_000


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def memory():
    import fsspec.implementations.memory as memory

    memory.MemoryFileSystem.store.clear()
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/set/a.bin", b"m" * 10_000)
    return filesystem


def facts(found):
    return [(row["op"], row["uri"], row["offset"], row["len"], row["bytes"]) for row in found]


def test_local_reads_carry_offset_sample_and_step(data, trace, ops):
    with capture.start(trace, hooks=["fsspec"]), step(2), sample(5), fsspec.open(str(data), "rb") as file:
        file.seek(70_000)
        assert file.read(30_000) == data.read_bytes()[70_000:100_000]
    found = ops(trace)
    assert {row["uri"] for row in found} == {f"file://{data}"}
    assert found[0]["offset"] == 70_000
    assert sum(row["bytes"] for row in found) >= 30_000
    assert {(row["sample_id"], row["step"]) for row in found} == {(5, 2)}


def test_a_wrapped_filesystem_is_recorded_without_the_hook(memory, trace, ops):
    with capture.start(trace, hooks=[]):
        assert wrap(memory) is memory
        memory.cat_file("/set/a.bin", 10, 30)
    assert facts(ops(trace)) == [("read", "memory:///set/a.bin", 10, 20, 20)]


def test_whole_files_ranges_and_writes(memory, trace, ops):
    with capture.start(trace, hooks=["fsspec"]):
        memory.pipe_file("/set/b.bin", b"x" * 100)
        memory.cat_file("/set/b.bin")
        memory.cat_file("/set/b.bin", start=90)
        memory.cat_file("/set/b.bin", start=-20)
        memory.cat_ranges(["/set/b.bin"] * 2, [0, 50], [10, 60])
    uri = "memory:///set/b.bin"
    assert facts(ops(trace)) == [
        ("put", uri, None, 100, 100),
        ("get", uri, None, 100, 100),
        ("read", uri, 90, 10, 10),
        ("read", uri, None, 20, 20),
        ("read", uri, 0, 10, 10),
        ("read", uri, 50, 10, 10),
    ]


def test_a_failure_reaches_the_host_and_the_trace(memory, trace, ops):
    with capture.start(trace, hooks=["fsspec"]), pytest.raises(FileNotFoundError):
        memory.cat_file("/set/none", 0, 10)
    assert [(r["op"], r["offset"], r["len"], r["bytes"], r["error"]) for r in ops(trace)] == [
        ("read", 0, 10, 0, "not_found")
    ]


@pytest.mark.parametrize("protocol", ["simplecache", "filecache"])
def test_a_cache_is_seen_above_and_the_requests_below_it(protocol, memory, trace, ops, tmp_path):
    with capture.start(trace, hooks=["fsspec:both"]):
        cached = fsspec.filesystem(protocol, target_protocol="memory", cache_storage=str(tmp_path / "cache"))
        for _ in range(2):
            with cached.open("/set/a.bin") as file:
                file.seek(100)
                assert file.read(50) == b"m" * 50
    found = ops(trace)
    above = [row for row in found if row["uri"].startswith("app+") and row["len"] == 50]
    below = [row for row in found if not row["uri"].startswith("app+")]
    assert [(row["uri"], row["offset"]) for row in above] == [("app+memory:///set/a.bin", 100)] * 2
    assert sum(row["bytes"] for row in below) == 10_000


def test_stop_leaves_no_hook_behind(memory, trace, data):
    from fsspec.implementations import local

    classes = [type(memory), local.LocalFileSystem]
    before = [dict(vars(cls)) for cls in classes]
    with capture.start(trace, hooks=["fsspec"]):
        assert vars(classes[0])["cat_file" if "cat_file" in vars(classes[0]) else "pipe_file"]
    assert [dict(vars(cls)) for cls in classes] == before
    assert "open" not in vars(local)


def test_filesystems_and_files_can_still_be_pickled(memory, data, trace):
    with capture.start(trace, hooks=["fsspec"]):
        assert pickle.loads(pickle.dumps(memory)).cat_file("/set/a.bin", 0, 3) == b"mmm"
        opened = pickle.loads(pickle.dumps(fsspec.open(str(data), "rb")))
        with opened as file:
            assert file.read(4) == data.read_bytes()[:4]


@pytest.fixture
def s3(s3_bucket, s3_env, monkeypatch):
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3_env.put(s3_bucket, "set/part ü.bin", bytes(range(256)) * 4000)
    return s3_bucket


def test_s3fs_files_show_the_fetches_of_their_read_ahead(s3, trace, ops):
    with capture.start(trace, hooks=["fsspec:both"]):
        filesystem = fsspec.filesystem("s3")
        with step(1), filesystem.open(f"{s3}/set/part ü.bin", block_size=65_536) as file:
            file.seek(1000)
            for _ in range(10):
                file.read(100)
    found = ops(trace)
    above = [row for row in found if row["uri"].startswith("app+")]
    below = [row for row in found if row["uri"].startswith("s3://")]
    assert [row["offset"] for row in above] == list(range(1000, 2000, 100))
    assert [(r["uri"], r["offset"], r["step"]) for r in below] == [(f"s3://{s3}/set/part ü.bin", 1000, 1)]
    assert below[0]["len"] == below[0]["bytes"] >= 65_536


def test_s3fs_made_before_the_capture_is_recorded_through_its_synchronous_methods_too(s3, trace, ops):
    filesystem = fsspec.filesystem("s3")
    key = f"{s3}/set/part ü.bin"
    with capture.start(trace, hooks=["fsspec"]):
        filesystem.cat_file(key, start=5, end=15)
        filesystem.cat_ranges([key, key], [0, 100], [10, 110])
        filesystem.pipe_file(f"{s3}/out", b"12345")
    uri = f"s3://{s3}/set/part ü.bin"
    assert sorted(facts(ops(trace))) == [
        ("put", f"s3://{s3}/out", None, 5, 5),
        ("read", uri, 0, 10, 10),
        ("read", uri, 5, 10, 10),
        ("read", uri, 100, 10, 10),
    ]
    filesystem.cat_file(key, start=5, end=15)


def test_pandas_and_pyarrow_read_parquet_through_it(s3, trace, ops):
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    import pyarrow.parquet as pq

    frame = pd.DataFrame({"a": range(50_000), "b": [float(n) for n in range(50_000)]})
    with capture.start(trace, hooks=["fsspec"]):
        filesystem = fsspec.filesystem("s3")
        with filesystem.open(f"{s3}/frame.parquet", "wb") as file:
            frame.to_parquet(file, row_group_size=10_000)
        with step(7):
            assert len(pd.read_parquet(f"{s3}/frame.parquet", filesystem=filesystem, columns=["a"])) == 50_000
        with step(8):
            table = pq.read_table(f"{s3}/frame.parquet", filesystem=filesystem, columns=["b"])
            assert table.num_rows == 50_000
    found = ops(trace)
    assert {row["uri"] for row in found} == {f"s3://{s3}/frame.parquet"}
    assert {row["op"] for row in found} == {"put", "read"}
    # pyarrow reads in threads of its own: the step is known there too.
    assert {row["step"] for row in found if row["op"] == "read"} == {7, 8}
    assert all(row["offset"] is not None for row in found if row["op"] == "read")


def test_every_argument_may_be_given_by_its_name(tmp_path, trace, ops):
    from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

    class Odd(AbstractFileSystem):
        protocol = "odd"
        cachable = False

        def cat_file(self, thing, start=None, end=None, **kwargs):
            return b"0123456789"[start:end]

        def get_file(self, rpath, lpath, **kwargs):
            (tmp_path / "got").write_bytes(b"123")

        def put_file(self, lpath, rpath, **kwargs):
            pass

        def _open(self, path, mode="rb", **kwargs):
            return Ten(self, path, mode, size=10, block_size=4)

        def info(self, path, **kwargs):
            return {"name": path, "size": 10, "type": "file"}

    class Ten(AbstractBufferedFile):
        def _fetch_range(self, start, end):
            return b"0123456789"[start:end]

    (tmp_path / "local").write_bytes(b"12345")
    with capture.start(trace, hooks=["fsspec:both"]):
        odd = Odd()
        assert odd.cat_file(thing="a", start=2, end=5) == b"234"
        odd.get_file(lpath=str(tmp_path / "got"), rpath="b")
        odd.put_file(rpath="c", lpath=str(tmp_path / "local"))
        with odd.open("d") as file:
            assert file.read(length=4) == b"0123"
            assert file.read() == b"456789"
    found = facts(ops(trace))
    assert found[:3] == [
        ("read", "odd://a", 2, 3, 3), ("get", "odd://b", None, 3, 3), ("put", "odd://c", None, 5, 5)
    ]  # fmt: skip
    assert [row for row in found if row[1].startswith("app+")] == [
        ("read", "app+odd://d", 0, 4, 4), ("read", "app+odd://d", 4, 6, 6)
    ]  # fmt: skip
