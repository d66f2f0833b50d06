# ruff: noqa: PTH104, PTH107, PTH123
"""Hooks record writes by the words of schema 2: ranges of files, parts of uploads, copies, renames, deletes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tracekit import capture, schema
from tracekit.capture.writes import WRITE_KINDS, Uploads

MIB = 1024 * 1024


def facts(found, *columns):
    return [tuple(row[name] for name in columns) for row in found]


def test_the_kinds_that_write_are_those_of_the_schema() -> None:
    assert frozenset(schema.WRITE_KINDS) == WRITE_KINDS


def test_a_part_is_placed_once_the_sizes_of_all_earlier_parts_are_known() -> None:
    uploads = Uploads()
    assert uploads.offset("u", 1, 5) == 0
    assert uploads.offset("u", 3, 2) is None
    assert uploads.offset("u", 2, 5) == 5
    assert uploads.offset("u", 3, 2) == 10
    assert [uploads.number("u", name) for name in ("x", "y", "x")] == [1, 2, 1]
    uploads.ended("u")
    assert uploads.offset("u", 2, 5) is None


def test_what_is_done_to_files_has_its_own_kinds(tmp_path: Path, trace, ops):
    a, b, c = (str(tmp_path / name) for name in "abc")
    with capture.start(trace, hooks=["files"]):
        with open(a, "wb", buffering=0) as file:
            file.write(b"x" * 10)
            os.fsync(file.fileno())
            os.fdatasync(file)
            file.truncate(6)
        fd = os.open(a, os.O_RDWR)
        os.pwrite(fd, b"yy", 3)
        os.writev(fd, [b"a", b"bc"])
        os.ftruncate(fd, 5)
        os.close(fd)
        os.truncate(a, 4)
        os.rename(a, b)
        Path(b).replace(c)
        Path(c).unlink()
        with pytest.raises(FileNotFoundError):
            os.remove(c)
    assert facts(ops(trace), "op", "uri", "offset", "len", "bytes", "to_uri", "error") == [
        ("truncate", f"file://{a}", None, 0, None, None, None),
        ("write", f"file://{a}", 0, 10, 10, None, None),
        ("sync", f"file://{a}", None, None, None, None, None),
        ("sync", f"file://{a}", None, None, None, None, None),
        ("truncate", f"file://{a}", None, 6, None, None, None),
        ("write", f"file://{a}", 3, 2, 2, None, None),
        ("write", f"file://{a}", 0, 3, 3, None, None),
        ("truncate", f"file://{a}", None, 5, None, None, None),
        ("truncate", f"file://{a}", None, 4, None, None, None),
        ("rename", f"file://{a}", None, None, None, f"file://{b}", None),
        ("rename", f"file://{b}", None, None, None, f"file://{c}", None),
        ("delete", f"file://{c}", None, None, None, None, None),
        ("delete", f"file://{c}", None, None, None, None, "not_found"),
    ]


def test_what_is_renamed_while_open_goes_on_under_its_new_name(tmp_path, trace, ops):
    parts = tmp_path / "parts"
    parts.mkdir()
    with capture.start(trace, hooks=["files"]), open(parts / "a", "wb", buffering=0) as file:
        fd = os.open(parts / "b", os.O_CREAT | os.O_WRONLY)
        file.write(b"1")
        os.write(fd, b"2")
        os.rename(parts / "a", parts / "c")
        os.rename(parts / "b", parts / "d")
        file.write(b"34")
        os.write(fd, b"56")
        os.rename(parts, tmp_path / "all")
        file.write(b"789")
        os.write(fd, b"012")
        os.close(fd)
    names = [row["uri"].removeprefix(f"file://{tmp_path}/") for row in ops(trace) if row["op"] == "write"]
    assert names == ["parts/a", "parts/b", "parts/c", "parts/d", "all/c", "all/d"]


def test_shutil_copies_in_the_kernel_are_reads_and_writes(tmp_path, trace, ops):
    (tmp_path / "a").write_bytes(bytes(100_000))
    with capture.start(trace, hooks=["files"]):
        shutil.copyfile(tmp_path / "a", tmp_path / "b")
    moved: dict[tuple[str, str], int] = {}
    for row in ops(trace):
        key = (row["op"], row["uri"].rsplit("/", 1)[-1])
        moved[key] = moved.get(key, 0) + (row["bytes"] or 0)
    assert moved == {("read", "a"): 100_000, ("write", "b"): 100_000, ("truncate", "b"): 0}


def test_functions_that_are_replaced_keep_the_abilities_that_shutil_asks_for(tmp_path, trace):
    before = (set(os.supports_dir_fd), set(os.supports_fd))
    with capture.start(trace, hooks=["files"]):
        assert {os.open, os.unlink, os.rename} <= os.supports_dir_fd
        assert os.truncate in os.supports_fd
    assert (os.supports_dir_fd, os.supports_fd) == before


def test_a_multipart_upload_is_parts_with_numbers_and_offsets_and_its_completion(
    s3_bucket, s3_env, trace, ops
):
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    from boto3.s3.transfer import TransferConfig

    client = boto3.session.Session().client("s3")
    body = os.urandom(12 * MIB)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, use_threads=False)
    uri = f"s3://{s3_bucket}"
    with capture.start(trace, hooks=["botocore"]):
        import io

        client.upload_fileobj(io.BytesIO(body), s3_bucket, "big", Config=config)
        started = client.create_multipart_upload(Bucket=s3_bucket, Key="gone")
        client.abort_multipart_upload(Bucket=s3_bucket, Key="gone", UploadId=started["UploadId"])
        client.copy_object(Bucket=s3_bucket, Key="copy", CopySource={"Bucket": s3_bucket, "Key": "big"})
        client.copy_object(Bucket=s3_bucket, Key="c 2", CopySource=f"{s3_bucket}/copy")
        client.delete_objects(Bucket=s3_bucket, Delete={"Objects": [{"Key": "copy"}, {"Key": "c 2"}]})
    assert facts(ops(trace), "op", "uri", "offset", "len", "bytes", "part", "to_uri") == [
        ("part", f"{uri}/big", 0, 5 * MIB, 5 * MIB, 1, None),
        ("part", f"{uri}/big", 5 * MIB, 5 * MIB, 5 * MIB, 2, None),
        ("part", f"{uri}/big", 10 * MIB, 2 * MIB, 2 * MIB, 3, None),
        ("complete", f"{uri}/big", None, None, None, None, None),
        ("abort", f"{uri}/gone", None, None, None, None, None),
        ("copy", f"{uri}/big", None, None, None, None, f"{uri}/copy"),
        ("copy", f"{uri}/copy", None, None, None, None, f"{uri}/c 2"),
        ("delete", f"{uri}/copy", None, None, None, None, None),
        ("delete", f"{uri}/c 2", None, None, None, None, None),
    ]


def test_a_part_that_the_store_copies_is_a_copy_with_its_number(s3_bucket, s3_env, trace, ops):
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    client = boto3.session.Session().client("s3")
    client.put_object(Bucket=s3_bucket, Key="a b", Body=bytes(6 * MIB))
    source = {"Bucket": s3_bucket, "Key": "a b"}
    uri = f"s3://{s3_bucket}"
    with capture.start(trace, hooks=["botocore"]):
        upload = {"Bucket": s3_bucket, "Key": "new"}
        upload["UploadId"] = client.create_multipart_upload(**upload)["UploadId"]
        copied = client.upload_part_copy(
            **upload, PartNumber=1, CopySource=source, CopySourceRange=f"bytes=100-{5 * MIB + 99}"
        )
        sent = client.upload_part(**upload, PartNumber=2, Body=b"x" * 1000)
        tags = [copied["CopyPartResult"]["ETag"], sent["ETag"]]
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert facts(ops(trace), "op", "uri", "offset", "len", "bytes", "part", "to_uri") == [
        ("copy", f"{uri}/a b", 100, 5 * MIB, None, 1, f"{uri}/new"),
        ("part", f"{uri}/new", 5 * MIB, 1000, 1000, 2, None),
        ("complete", f"{uri}/new", None, None, None, None, None),
    ]


def test_blocks_of_azure_are_parts_and_the_block_list_completes_them(az_container, az_env, trace, ops):
    blob = pytest.importorskip("azure.storage.blob", reason="azure-storage-blob is not installed")
    sizes = {"max_block_size": 40_000, "max_single_put_size": 10_000, "min_large_block_upload_threshold": 1}
    uri = f"az://{az_container}"
    with (
        capture.start(trace, hooks=["azure"]),
        blob.BlobServiceClient.from_connection_string(az_env.connection_string, **sizes) as service,
    ):
        service.get_blob_client(az_container, "big").upload_blob(bytes(100_000))
        copy = service.get_blob_client(az_container, "copy")
        copy.start_copy_from_url(service.get_blob_client(az_container, "big").url)
    assert facts(ops(trace), "op", "uri", "offset", "len", "bytes", "part", "to_uri") == [
        ("part", f"{uri}/big", 0, 40_000, 40_000, 1, None),
        ("part", f"{uri}/big", 40_000, 40_000, 40_000, 2, None),
        ("part", f"{uri}/big", 80_000, 20_000, 20_000, 3, None),
        ("complete", f"{uri}/big", None, None, None, None, None),
        ("copy", f"{uri}/big", None, None, None, None, f"{uri}/copy"),
    ]


def test_files_of_fsspec_upload_parts_or_one_object(s3_bucket, s3_env, trace, ops):
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    uri = f"s3://{s3_bucket}"
    with capture.start(trace, hooks=["fsspec"]):
        filesystem = s3fs.S3FileSystem(
            endpoint_url=s3_env.endpoint, key="testing", secret="testing-secret-key", skip_instance_cache=True
        )
        with filesystem.open(f"{s3_bucket}/big", "wb", block_size=5 * MIB) as file:
            for _ in range(12):
                file.write(bytes(MIB))
        with filesystem.open(f"{s3_bucket}/small", "wb") as file:
            file.write(b"12345")
        filesystem.cp_file(f"{s3_bucket}/small", f"{s3_bucket}/copy")
        filesystem.rm_file(f"{s3_bucket}/copy")
    found = [row for row in ops(trace) if row["op"] not in ("list", "stat")]
    parts = [row for row in found if row["uri"] == f"{uri}/big" and row["op"] == "part"]
    assert sum(row["bytes"] for row in parts) == 12 * MIB
    assert [row["part"] for row in parts] == list(range(1, len(parts) + 1))
    assert [row["offset"] for row in parts] == [
        sum(p["bytes"] for p in parts[:at]) for at in range(len(parts))
    ]
    assert facts([row for row in found if row not in parts], "op", "uri", "len", "to_uri") == [
        ("complete", f"{uri}/big", None, None),
        ("put", f"{uri}/small", 5, None),
        ("copy", f"{uri}/small", None, f"{uri}/copy"),
        ("delete", f"{uri}/copy", None, None),
    ]


def test_copies_renames_and_writers_of_obstore_are_recorded(trace, ops):
    obstore = pytest.importorskip("obstore", reason="obstore is not installed")
    from obstore.store import MemoryStore

    store = MemoryStore()
    with capture.start(trace, hooks=["obstore"]):
        store.put("a", b"123")
        store.copy("a", "b")
        obstore.rename(store, "b", "c")
        with obstore.open_writer(store, "w") as writer:
            writer.write(b"12345")
            writer.write(b"678")
    assert bytes(store.get("w").bytes()) == b"12345678"
    assert facts(ops(trace), "op", "uri", "len", "bytes", "to_uri") == [
        ("put", "memory:///a", 3, 3, None),
        ("copy", "memory:///a", None, None, "memory:///b"),
        ("rename", "memory:///b", None, None, "memory:///c"),
        ("put", "memory:///w", 8, 8, None),
    ]


def test_what_s3torchconnector_writes_copies_and_deletes_is_recorded(s3_env, s3_bucket, trace, ops):
    pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")
    s3torch = pytest.importorskip("s3torchconnector", reason="s3torchconnector is not installed")
    uri = f"s3://{s3_bucket}/checkpoint"
    config = s3torch.S3ClientConfig(force_path_style=True)
    made = s3torch.S3Checkpoint(region="us-east-1", endpoint=s3_env.endpoint, s3client_config=config)
    with capture.start(trace, hooks=["s3torch"]), made.writer(uri) as writer:
        writer.write(bytes(100_000))
    assert facts(ops(trace), "op", "uri", "len", "bytes") == [("put", uri, 100_000, 100_000)]
