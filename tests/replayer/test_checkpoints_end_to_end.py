"""A checkpoint of a real library is captured, replayed on every kind of target, and ends as the original did.

Everything goes through the command line, in processes of its own.
"""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tracekit.backends.registry import backend_for

MIB = 1 << 20
TARGETS = ("file", "direct", "s3", "az")
FAR = ("--tolerance", "1e9", "--max-lateness", "1h")
"""Time is not judged here: the machine may be busy."""

SAVE = """
    import os, sys, torch
    root = sys.argv[1]
    os.makedirs(root)
    state = {f"layer{i}": torch.randn(64, 1024) for i in range(4)}
    torch.save(state, f"{root}/model.tmp")
    os.replace(f"{root}/model.tmp", f"{root}/model.pt")
    with open(f"{root}/optimizer.pt", "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    torch.load(f"{root}/model.pt")
"""

DISTRIBUTED = """
    import sys, torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    import torch.multiprocessing as mp

    def run(rank, root):
        dist.init_process_group("gloo", init_method=f"file://{root}.rendezvous", rank=rank, world_size=2)
        state = {f"rank{rank}.{i}": torch.randn(64, 512) for i in range(3)}
        dcp.save(state, checkpoint_id=root)
        dcp.load(state, checkpoint_id=root)
        dist.destroy_process_group()

    if __name__ == "__main__":
        mp.spawn(run, (sys.argv[1],), nprocs=2)
"""

BOTO3 = """
    import io, os, sys, boto3
    from boto3.s3.transfer import TransferConfig
    client, bucket = boto3.session.Session().client("s3"), sys.argv[1]
    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=3)
    client.upload_fileobj(io.BytesIO(os.urandom(12 << 20)), bucket, "step-1/model", Config=config)
    client.put_object(Bucket=bucket, Key="step-1/state", Body=os.urandom(70_000))
    client.put_object(Bucket=bucket, Key="step-0/state", Body=os.urandom(70_000))
    client.copy_object(Bucket=bucket, Key="latest", CopySource={"Bucket": bucket, "Key": "step-1/state"})
    client.delete_object(Bucket=bucket, Key="step-0/state")
    client.download_fileobj(bucket, "step-1/model", io.BytesIO(), Config=config)
"""

ADLFS = """
    import os, sys, adlfs
    container = sys.argv[1]
    files = adlfs.AzureBlobFileSystem(connection_string=os.environ["AZURE_STORAGE_CONNECTION_STRING"])
    with files.open(f"{container}/step-1/model", "wb", block_size=4 << 20) as file:
        for _ in range(10):
            file.write(os.urandom(1 << 20))
    with files.open(f"{container}/step-1/state", "wb") as file:
        file.write(os.urandom(70_000))
    with files.open(f"{container}/step-1/model", "rb") as file:
        file.read()
"""


def tracekit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tracekit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def captured(folder: Path, program: str, argument: str, *options: str) -> Path:
    """Run the program under `tracekit capture`, and return its trace."""
    script, trace = folder / "program.py", folder / "original.trace"
    script.write_text(textwrap.dedent(program))
    done = tracekit(
        "capture", "-o", str(trace), "--json", *options, "--", sys.executable, str(script), argument
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(next(line for line in done.stderr.splitlines() if line.startswith("{")))
    if facts["method"] == "hooks" and argument.startswith("/"):
        pytest.skip("torch writes from C++, which needs a compiler or strace to be captured")
    return trace


def stored(uri: str) -> dict[str, int]:
    """The names and sizes of what is below `uri`."""
    backend = backend_for(uri)
    try:
        return {info.uri.removeprefix(f"{uri}/"): info.size for info in backend.list(uri)}
    finally:
        backend.close()


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Return a function that makes an empty place of a scheme."""

    def made(scheme: str) -> str:
        if scheme in ("file", "direct"):
            return f"{scheme}://{tmp_path}/replayed-{scheme}"
        container = request.getfixturevalue("s3_bucket" if scheme == "s3" else "az_container")
        return f"{scheme}://{container}/replayed"

    return made


def replayed(trace: Path, source: str, target: str, *options: str) -> dict[str, Any]:
    """Replay the trace on the target, and return what `--json` says of it, parity in it."""
    skip = () if target.startswith(("file:", "direct:")) else ("--skip", "sync")
    out = trace.with_name(f"{target.partition(':')[0]}.trace")
    arguments = ("--map", f"{source}={target}", "--allow-writes", "--json", "-o", str(out), *skip, *FAR)
    done = tracekit("replay", str(trace), *arguments, *options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["failed_ops"] == 0
    again = tracekit("compare", str(trace), str(out), "--json", *FAR)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr
    return found


def parity(found: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {row["metric"]: (row["a"], row["b"]) for row in found["parity"]["metrics"]}


@pytest.fixture(scope="module")
def file_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Return a function that captures a program which writes files, once; it returns trace and folder."""
    known: dict[str, tuple[Path, Path]] = {}

    def made(program: str) -> tuple[Path, Path]:
        if find_spec("torch") is None:
            pytest.skip("torch is not installed")
        if program not in known:
            folder = tmp_path_factory.mktemp("checkpoint")
            root = folder / "run"
            known[program] = captured(folder, program, str(root), "--include", f"{root}/*"), root
        return known[program]

    return made


@pytest.mark.parametrize("scheme", TARGETS)
@pytest.mark.parametrize("program", [SAVE, DISTRIBUTED], ids=["torch.save", "distributed"])
def test_a_checkpoint_of_torch_ends_with_the_names_and_sizes_of_the_original(
    file_checkpoint: Callable[[str], tuple[Path, Path]],
    place: Callable[[str], str],
    program: str,
    scheme: str,
) -> None:
    trace, root = file_checkpoint(program)
    target = place(scheme)
    found = parity(replayed(trace, f"file://{root}", target))
    original = stored(f"file://{root}")
    assert stored(target) == original
    assert len(original) == (2 if program == SAVE else 3)
    assert found["bytes_written"] == (sum(original.values()),) * 2
    assert found["renames"] == (1, 1)
    assert found["objects"][0] == found["objects"][1]


@pytest.mark.parametrize("scheme", TARGETS)
def test_a_multipart_upload_of_boto3_ends_with_the_names_and_sizes_of_the_original(
    tmp_path: Path, s3_bucket: str, place: Callable[[str], str], scheme: str
) -> None:
    pytest.importorskip("boto3", reason="boto3 is not installed")
    trace = captured(tmp_path, BOTO3, s3_bucket)
    original = stored(f"s3://{s3_bucket}")
    assert original == {"latest": 70_000, "step-1/model": 12 * MIB, "step-1/state": 70_000}
    target = place(scheme)
    found = parity(replayed(trace, f"s3://{s3_bucket}", target))
    assert stored(target) == original
    assert (found["parts"], found["completes"], found["copies"]) == ((3, 3), (1, 1), (1, 1))
    assert found["bytes_written"] == (12 * MIB + 140_000,) * 2


@pytest.mark.parametrize("scheme", TARGETS)
def test_blocks_of_adlfs_end_with_the_names_and_sizes_of_the_original(
    tmp_path: Path, az_container: str, place: Callable[[str], str], scheme: str
) -> None:
    pytest.importorskip("adlfs", reason="adlfs is not installed")
    trace = captured(tmp_path, ADLFS, az_container)
    original = stored(f"az://{az_container}")
    assert original == {"step-1/model": 10 * MIB, "step-1/state": 70_000}
    target = place(scheme)
    found = parity(replayed(trace, f"az://{az_container}", target))
    assert stored(target) == original
    assert found["parts"][0] >= 3 and found["parts"][0] == found["parts"][1]
    assert found["bytes_written"] == (10 * MIB + 70_000,) * 2


def kv_trace(folder: Path, ops: int) -> Path:
    """A log of a KV cache in the form of MLPerf Storage, imported: keys are written, read, and written again.

    Some keys were in the cache before. The log is 10 s long, and many ops of a key follow each other at once.
    """
    drawn = random.Random(7)
    log = folder / "kv.csv"
    with log.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Timestamp", "Operation", "Object_Size_Bytes", "Tier", "Key", "Phase"])
        known: list[str] = []
        for number in range(ops):
            at = f"{1700000000 + 10 * (number // 5) / (ops // 5):.6f}"
            if not known or drawn.random() < 0.3:
                known.append(f"user{number % 50}/{number}")
                writer.writerow([at, "Write", 2048, "Tier-2", known[-1], "Prefill"])
            elif drawn.random() < 0.05:
                writer.writerow([at, "Read", 2048, "Tier-2", f"before/{drawn.randrange(20)}", "Decode"])
            else:
                key = drawn.choice(known[-30:])
                word = "Write" if drawn.random() < 0.1 else "Read"
                writer.writerow([at, word, 2048, "Tier-2", key, "Decode"])
    trace = folder / "kv.trace"
    done = tracekit("import", "csv", str(log), "--map-columns", "mlperf-kv", "-o", str(trace))
    assert done.returncode == 0, done.stderr
    return trace


@pytest.mark.parametrize(
    ("scheme", "ops"),
    [
        ("file", 2_000), ("direct", 2_000), ("s3", 500), ("az", 500),
        *(pytest.param(scheme, 10_000, marks=pytest.mark.soak) for scheme in ("file", "direct", "s3", "az")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pace", ["recorded", "closed"])
def test_no_read_of_a_kv_cache_comes_before_the_write_that_it_follows(
    tmp_path: Path, place: Callable[[str], str], pace: str, scheme: str, ops: int
) -> None:
    trace = kv_trace(tmp_path, ops)
    target = place(scheme)
    source = "kv://mlperf"
    made = tracekit("materialize", str(trace), "--map", f"{source}={target}", "--json")
    assert made.returncode == 0, made.stderr
    before = {
        line.split(",")[4] for line in (tmp_path / "kv.csv").read_text().splitlines() if "before/" in line
    }
    assert json.loads(made.stdout)["made"] == len(before) > 0
    found = parity(replayed(trace, source, target, "--pace", pace, "--speed", "50"))
    assert found["ops"] == (ops, ops)
    assert found["failures"][1] == 0
