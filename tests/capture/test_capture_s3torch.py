import pytest

from tracekit import capture
from tracekit.capture import step

pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")
s3torch = pytest.importorskip("s3torchconnector", reason="s3torchconnector is not installed")
BODY = bytes(range(256)) * 1000


@pytest.fixture
def uri(s3_env, s3_bucket):
    s3_env.put(s3_bucket, "set/a.bin", BODY)
    return f"s3://{s3_bucket}/set/a.bin"


def dataset(uri, s3_env, **more):
    config = s3torch.S3ClientConfig(force_path_style=True)
    return s3torch.S3MapDataset.from_objects(
        [uri], region="us-east-1", endpoint=s3_env.endpoint, s3client_config=config, **more
    )


def test_whole_objects_and_ranges_are_recorded(uri, s3_env, trace, ops):
    with capture.start(trace, hooks=["s3torch"]), step(3):
        assert dataset(uri, s3_env, transform=lambda reader: reader.read())[0] == BODY
        ranged = s3torch.S3ReaderConstructor.range_based(buffer_size=0)
        reader = dataset(uri, s3_env, reader_constructor=ranged)[0]
        reader.seek(1000)
        assert reader.read(500) == BODY[1000:1500]
    moved = [r for r in ops(trace) if r["op"] in ("read", "get")]
    assert [(r["op"], r["uri"], r["offset"], r["len"], r["bytes"], r["step"], r["error"]) for r in moved] == [
        ("get", uri, None, len(BODY), len(BODY), 3, None),
        ("read", uri, 1000, 500, 500, 3, None),
    ]
    assert all(0 < r["ttfb"] <= r["latency"] for r in moved)


def test_a_failure_reaches_the_host_and_the_trace(uri, s3_env, trace, ops):
    with capture.start(trace, hooks=["s3torch"]), pytest.raises(Exception, match=r"."):
        dataset(uri + ".none", s3_env)[0].read()
    assert any(r["error"] is not None for r in ops(trace))
