import asyncio
import gc
import io
import subprocess
import sys
from pathlib import Path

import pytest
import servers

from tracekit import capture
from tracekit.capture import sample, step
from tracekit.capture.ranges import asked_range, granted_range
from tracekit.store.reader import open_reader

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
BODY = bytes(range(256)) * 1000
SIZE = len(BODY)


@pytest.fixture
def bucket(s3_bucket, s3_env):
    s3_env.put(s3_bucket, "data/a.bin", BODY)
    return s3_bucket


def client(**more):
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3", config=Config(**{"retries": {"max_attempts": 3, "mode": "standard"}, **more})
    )


def facts(found):
    return [(r["op"], r["offset"], r["len"], r["bytes"], r["error"]) for r in found]


def test_a_range_is_a_read_with_its_first_byte_and_its_last(bucket, trace, ops):
    with capture.start(trace, hooks=["botocore"]), step(2), sample(9):
        answer = client().get_object(Bucket=bucket, Key="data/a.bin", Range="bytes=100-1099")
        assert answer["Body"].read() == BODY[100:1100]
    (row,) = ops(trace)
    assert facts([row]) == [("read", 100, 1000, 1000, None)]
    assert row["uri"] == f"s3://{bucket}/data/a.bin"
    assert (row["sample_id"], row["step"]) == (9, 2)
    assert 0 < row["ttfb"] <= row["latency"]


@pytest.mark.parametrize("header, wanted", [("bytes=255900-", (255900, 100)), ("bytes=-100", (255900, 100))])
def test_an_open_ended_range_gets_its_length_from_the_response(header, wanted, bucket, trace, ops):
    with capture.start(trace, hooks=["botocore"]):
        client().get_object(Bucket=bucket, Key="data/a.bin", Range=header)["Body"].read()
    assert facts(ops(trace)) == [("read", *wanted, 100, None)]


def test_other_requests_have_their_kinds_of_op(bucket, trace, ops):
    with capture.start(trace, hooks=["botocore"]):
        s3 = client()
        s3.get_object(Bucket=bucket, Key="data/a.bin")["Body"].read()
        s3.put_object(Bucket=bucket, Key="b", Body=b"12345")
        s3.put_object(Bucket=bucket, Key="c", Body=io.BytesIO(b"1234567"))
        s3.head_object(Bucket=bucket, Key="b")
        s3.list_objects_v2(Bucket=bucket, Prefix="data/")
        s3.delete_object(Bucket=bucket, Key="b")
    assert facts(ops(trace)) == [
        ("get", None, SIZE, SIZE, None),
        ("put", None, 5, 5, None),
        ("put", None, 7, 7, None),
        ("stat", None, None, None, None),
        ("list", None, None, None, None),
        ("delete", None, None, None, None),
    ]


def test_every_way_to_read_a_body_is_followed_to_its_end(bucket, trace, ops):
    ways = [
        lambda body: b"".join(body.iter_chunks(10_000)),
        lambda body: b"".join(body),
        lambda body: io.BufferedReader(body, 4096).read(),
        lambda body: body.read(SIZE),
        lambda body: b"".join(line + b"\n" for line in body.iter_lines())[:-1],
    ]
    with capture.start(trace, hooks=["botocore"]):
        for way in ways:
            way(client().get_object(Bucket=bucket, Key="data/a.bin")["Body"])
    assert facts(ops(trace)) == [("get", None, SIZE, SIZE, None)] * len(ways)


def test_a_body_closed_early_or_never_read_is_marked(bucket, trace, ops):
    with capture.start(trace, hooks=["botocore"]):
        s3 = client()
        body = s3.get_object(Bucket=bucket, Key="data/a.bin")["Body"]
        body.read(1000)
        body.close()
        s3.get_object(Bucket=bucket, Key="data/a.bin")
        gc.collect()
        with s3.get_object(Bucket=bucket, Key="data/a.bin")["Body"] as raw:
            raw.read(500)
        del raw
        gc.collect()
    found = ops(trace)
    assert [(r["bytes"], r["error"], r["latency"] is None) for r in found] == [
        (1000, "cancelled", False),
        (None, None, True),
        (500, None, True),
    ]


def test_each_retry_is_a_row_and_statuses_become_classes(bucket, trace, ops, fault_proxy, s3_env):
    proxy = fault_proxy(s3_env.endpoint)
    proxy.faults += [servers.SLOW_DOWN, servers.SLOW_DOWN]
    with capture.start(trace, hooks=["botocore"]):
        s3 = boto3.session.Session().client("s3", endpoint_url=proxy.endpoint)
        assert len(s3.get_object(Bucket=bucket, Key="data/a.bin", Range="bytes=0-9")["Body"].read()) == 10
        with pytest.raises(s3.exceptions.NoSuchKey):
            s3.get_object(Bucket=bucket, Key="none")
    assert facts(ops(trace)) == [
        ("read", 0, 10, 0, "throttled"),
        ("read", 0, 10, 0, "throttled"),
        ("read", 0, 10, 10, None),
        ("get", None, None, 0, "not_found"),
    ]
    assert open_reader(trace).counters == {"retries": 2, "throttles": 2}


def test_a_body_cut_short_is_a_short_read(bucket, trace, ops, fault_proxy, s3_env):
    proxy = fault_proxy(s3_env.endpoint)
    proxy.faults += [servers.Fault(truncate=True)]
    with capture.start(trace, hooks=["botocore"]):
        s3 = boto3.session.Session().client("s3", endpoint_url=proxy.endpoint)
        with pytest.raises(Exception):  # noqa: B017 - urllib3 and botocore word it differently
            s3.get_object(Bucket=bucket, Key="data/a.bin")["Body"].read()
    (row,) = ops(trace)
    assert row["error"] in ("short_read", "unreachable", "io_error")


def test_a_missing_response_has_an_error_class(trace, ops, s3_env):
    from botocore.config import Config

    with capture.start(trace, hooks=["botocore"]):
        s3 = boto3.session.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{servers.free_port()}",
            config=Config(retries={"max_attempts": 1, "mode": "standard"}),
        )
        with pytest.raises(Exception, match="connect"):
            s3.head_object(Bucket="b", Key="k")
    assert {r["error"] for r in ops(trace)} == {"unreachable"}


def test_clients_that_existed_before_are_recorded_and_left_alone_after(bucket, trace, ops):
    s3 = client()
    with capture.start(trace, hooks=["botocore"]):
        s3.head_object(Bucket=bucket, Key="data/a.bin")
    s3.head_object(Bucket=bucket, Key="data/a.bin")
    client().head_object(Bucket=bucket, Key="data/a.bin")
    assert len(ops(trace)) == 1


def test_transfers_in_threads_keep_their_ranges(bucket, trace, ops, tmp_path):
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(multipart_threshold=100_000, multipart_chunksize=100_000, max_concurrency=4)
    with capture.start(trace, hooks=["botocore"]), step(3):
        client().download_file(bucket, "data/a.bin", str(tmp_path / "a.bin"), Config=config)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    reads = [r for r in ops(trace) if r["op"] == "read"]
    assert sorted((r["offset"], r["bytes"]) for r in reads) == [
        (0, 100_000),
        (100_000, 100_000),
        (200_000, 56_000),
    ]
    assert {r["step"] for r in reads} == {3}


def test_aiobotocore_clients_are_recorded_with_their_tasks_samples(bucket, trace, ops):
    aiobotocore = pytest.importorskip("aiobotocore.session", reason="aiobotocore is not installed")

    async def fetch(s3, number):
        with sample(number):
            answer = await s3.get_object(
                Bucket=bucket, Key="data/a.bin", Range=f"bytes={number * 10}-{number * 10 + 9}"
            )
            async with answer["Body"] as body:
                return await body.read()

    async def run():
        async with aiobotocore.get_session().create_client("s3") as s3:
            return await asyncio.gather(*(fetch(s3, number) for number in range(8)))

    with capture.start(trace, hooks=["botocore"]):
        answers = asyncio.run(run())
    assert answers == [BODY[n * 10 : n * 10 + 10] for n in range(8)]
    assert sorted((r["sample_id"], r["offset"], r["bytes"], r["error"]) for r in ops(trace)) == [
        (n, n * 10, 10, None) for n in range(8)
    ]


def test_s3fs_is_recorded_once_by_the_hook_below_it(bucket, trace, ops):
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    import fsspec
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with capture.start(trace):
        filesystem = fsspec.filesystem("s3")
        with step(4), filesystem.open(f"{bucket}/data/a.bin", block_size=50_000) as file:
            file.seek(10)
            file.read(10)
    reads = [r for r in ops(trace) if r["op"] == "read"]
    assert [(r["offset"], r["step"], r["ttfb"] > 0) for r in reads] == [(10, 4, True)]


def test_presigned_urls_and_credentials_never_reach_a_trace(bucket, trace, s3_env):
    with capture.start(trace, hooks=["botocore"]):
        s3 = client()
        url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "data/a.bin"})
        assert "Signature" in url
        s3.get_object(Bucket=bucket, Key="data/a.bin")["Body"].read()
    raw = b"".join(path.read_bytes() for path in Path(trace).iterdir())
    rows = str(open_reader(trace).query("SELECT * FROM ops").to_pylist()).encode()
    for secret in (b"testing-secret-key", b"Signature", b"Credential", b"Authorization"):
        assert secret not in raw + rows


def test_a_program_is_recorded_by_its_environment_alone(bucket, trace, ops):
    program = (
        f"import boto3; boto3.client('s3').get_object(Bucket={bucket!r}, Key='data/a.bin')['Body'].read()"
    )
    with capture.start(trace):
        subprocess.run([sys.executable, "-c", program], check=True)
    assert facts(ops(trace)) == [("get", None, SIZE, SIZE, None)]


@pytest.mark.parametrize(
    "header, wanted",
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=5-", (5, None)),
        ("bytes=-7", (None, 7)),
        ("bytes=1-2,4-5", (None, None)),
        ("x", (None, None)),
    ],
)
def test_range_headers(header, wanted):
    assert asked_range(header) == wanted


def test_a_whole_object_has_no_offset():
    assert granted_range("get", None, None, None, 10) == (None, 10)
    assert granted_range("read", None, 5, "bytes 95-99/100", 5) == (95, 5)


@pytest.mark.parametrize(
    "filters, kept",
    [
        ({"include": ["s3://*/data/*"]}, "data/a.bin"),
        ({"exclude": ["s3://*/logs/*"]}, "data/a.bin"),
        ({"include": ["*.log"]}, "logs/b.log"),
        ({"include": ["s3://*/logs/"], "exclude": ["*.txt"]}, "logs/b.log"),
    ],
)
def test_include_and_exclude_select_objects(filters, kept, bucket, s3_env, trace, ops):
    s3_env.put(bucket, "logs/b.log", b"12345")
    with capture.start(trace, hooks=["botocore"], **filters):
        s3 = client()
        for key in ("data/a.bin", "logs/b.log"):
            s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    assert {row["uri"] for row in ops(trace)} == {f"s3://{bucket}/{kept}"}


def test_object_globs_reach_child_processes(bucket, s3_env, trace, ops):
    s3_env.put(bucket, "logs/b.log", b"12345")
    program = f"""import boto3
s3 = boto3.client("s3")
for key in ("data/a.bin", "logs/b.log"):
    s3.get_object(Bucket={bucket!r}, Key=key)["Body"].read()
"""
    with capture.start(trace, hooks=["botocore"], include=["/nowhere/*", f"s3://{bucket}/data/*"]):
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert {row["uri"] for row in ops(trace)} == {f"s3://{bucket}/data/a.bin"}
