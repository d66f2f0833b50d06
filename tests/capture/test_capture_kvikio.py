"""KvikIO, with the driver's library and no GPU: host memory in the compatibility mode, and remote files."""

import ctypes
import sys
import textwrap

import pytest

from tracekit import capture
from tracekit.capture import step
from tracekit.capture.command import capture_command
from tracekit.capture.native import NativeEngine
from tracekit.store.reader import open_reader

np = pytest.importorskip("numpy")
kvikio = pytest.importorskip("kvikio", reason="KvikIO is not installed")
try:
    ctypes.CDLL("libcuda.so.1")
except OSError:
    pytest.skip(
        "there is no libcuda.so.1, which KvikIO needs for memory of the host too", allow_module_level=True
    )
BODY = bytes(range(256)) * 1000


def facts(rows):
    return [(r["op"], r["uri"], r["offset"], r["len"], r["bytes"], r["error"]) for r in rows]


def test_reads_and_writes_of_files_are_recorded(tmp_path, trace, ops):
    path, uri = tmp_path / "x.bin", f"file://{tmp_path}/x.bin"
    data, back = np.frombuffer(BODY, np.uint8).copy(), np.zeros(len(BODY), np.uint8)
    with capture.start(trace, hooks=["kvikio"]), step(4):
        with kvikio.CuFile(path, "w") as file:
            assert file.write(data) == len(BODY)
        with kvikio.CuFile(path) as file:
            assert file.read(back) == len(BODY)
            future = file.pread(back, 1000, 500)
            assert future.get() == 1000
            dropped = file.pread(back, 10, 0)
            while not dropped.done():
                pass
            del dropped
    rows = ops(trace)
    assert facts(rows) == [
        ("write", uri, 0, len(BODY), len(BODY), None),
        ("read", uri, 0, len(BODY), len(BODY), None),
        ("read", uri, 500, 1000, 1000, None),
        ("read", uri, 0, 10, None, None),
    ]
    assert {row["step"] for row in rows} == {4} and rows[3]["latency"] is None
    assert bytes(back[:1000]) == (BODY[:10] + BODY[510:1500])


def test_remote_files_of_s3_are_named_by_bucket_and_key(trace, ops, s3_env, s3_bucket, monkeypatch):
    s3_env.put(s3_bucket, "set/a b.bin", BODY)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_env.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    back = np.zeros(300, np.uint8)
    with capture.start(trace, hooks=["kvikio"]):
        remote = kvikio.RemoteFile.open_s3(s3_bucket, "set/a%20b.bin", len(BODY))
        assert remote.read(back, file_offset=100) == 300
        with pytest.raises(Exception, match=r"."):
            kvikio.RemoteFile.open_s3(s3_bucket, "none", len(BODY)).read(back, 20)
    assert bytes(back) == BODY[100:400]
    rows = ops(trace)
    assert facts(rows) == [
        ("read", f"s3://{s3_bucket}/set/a b.bin", 100, 300, 300, None),
        ("read", f"s3://{s3_bucket}/none", 0, 20, 0, rows[1]["error"]),
    ]
    assert rows[1]["error"] is not None and all(row["latency"] > 0 for row in rows)


@pytest.mark.skipif(NativeEngine().available() is None, reason="there is no native engine and no C compiler")
def test_the_engine_records_files_once_and_the_hook_remote_ones(
    tmp_path, trace, s3_env, s3_bucket, monkeypatch
):
    s3_env.put(s3_bucket, "k", BODY)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_env.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    (tmp_path / "x.bin").write_bytes(BODY)
    program = f"""
        import kvikio, numpy
        data = numpy.zeros({len(BODY)}, numpy.uint8)
        assert kvikio.CuFile({str(tmp_path / "x.bin")!r}).read(data) == len(data)
        assert kvikio.RemoteFile.open_s3({s3_bucket!r}, "k").read(data) == len(data)
    """
    done = capture_command([sys.executable, "-c", textwrap.dedent(program)], trace, method="native")
    rows = open_reader(trace).query("SELECT * FROM ops WHERE fault IS NULL ORDER BY t_submit").to_pylist()
    assert facts(rows) == [
        ("read", f"file://{tmp_path}/x.bin", 0, len(BODY), len(BODY), None),
        ("read", f"s3://{s3_bucket}/k", 0, len(BODY), len(BODY), None),
    ]
    assert done.completeness is not None and done.completeness.unrecorded_client_bytes == 0
