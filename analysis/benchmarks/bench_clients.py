"""Compare object-store client libraries: ops/s and CPU per op, side by side against one nginx.

Each case runs in its own process. All cases run in turn for several rounds, and the medians are
reported. The reads are random aligned ranges of one 256 MiB object, with signed requests from 16
threads or 32 coroutines. The `tracekit` cases are complete calls of the backend (bytes in the
caller's buffer, counters, time to first byte). The other libraries are called directly and keep
their bytes wherever they put them, which favours them.

    python analysis/benchmarks/bench_clients.py [--seconds 0.7] [--rounds 3] [--only PATTERN]

A run of all cases writes the CSV file and the table in docs/backends.md; with `--only` it just prints.

Needs nginx. s3dlio, uvloop, opendal, boto3 and s3torchconnectorclient are left out if they are
not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import importlib.util
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests"))

OBJECT_BYTES = 256 << 20
THREADS, COROUTINES = 16, 32
SIZES = {"4 KiB": 4096, "128 KiB": 131_072}
RESULTS = Path(__file__).parent / "results" / "clients.csv"
PAGE = REPO / "docs" / "backends.md"
Read = Callable[[int, memoryview], Any]
AsyncRead = Callable[[int, memoryview], Awaitable[Any]]


def tracekit_sync(scheme: str, **options: Any) -> Read:
    from tracekit.backends.registry import backend_for

    uri = f"{scheme}://bucket/object"
    return backend_for(uri, **options).open(uri).read_into


def tracekit_async(scheme: str, **options: Any) -> AsyncRead:
    from tracekit.backends.registry import backend_for

    uri = f"{scheme}://bucket/object"
    backend: Any = backend_for(uri, **options)
    return lambda offset, buffer: backend.open(uri).aread_into(offset, buffer)


def obstore_store() -> Any:
    from obstore.store import S3Store

    # The endpoint and the keys come from the environment, as for every case.
    return S3Store("bucket", client_options={"allow_http": True})


def obstore_sync() -> Read:
    import obstore

    store = obstore_store()
    return lambda offset, buffer: obstore.get_range(store, "object", start=offset, length=len(buffer))


def obstore_async() -> AsyncRead:
    import obstore

    store = obstore_store()
    return lambda offset, buffer: obstore.get_range_async(store, "object", start=offset, length=len(buffer))


def s3dlio_sync() -> Read:
    import s3dlio

    return lambda offset, buffer: s3dlio.get_range("s3://bucket/object", offset, len(buffer))


def s3dlio_async() -> AsyncRead:
    import s3dlio

    return lambda offset, buffer: s3dlio.get_range_async("s3://bucket/object", offset, len(buffer))


def opendal_any(kind: str) -> Any:
    import opendal

    operator = getattr(opendal, kind)(
        "s3",
        bucket="bucket",
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        region="us-east-1",
        access_key_id="k",
        secret_access_key="s",
    )
    return lambda offset, buffer: operator.read("object", offset=offset, size=len(buffer))


def pyarrow_sync() -> Read:
    from pyarrow import fs

    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    store = fs.S3FileSystem(
        access_key="k", secret_key="s", endpoint_override=endpoint, scheme="http", region="us-east-1"
    )
    file = store.open_input_file("bucket/object")
    return lambda offset, buffer: file.read_at(len(buffer), offset)


def boto3_sync() -> Read:
    import boto3
    from botocore.config import Config

    client = boto3.client("s3", config=Config(max_pool_connections=THREADS))

    def read(offset: int, buffer: memoryview) -> bytes:
        asked = f"bytes={offset}-{offset + len(buffer) - 1}"
        return client.get_object(Bucket="bucket", Key="object", Range=asked)["Body"].read()

    return read


def s3torch_sync() -> Read:
    from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client

    client = MountpointS3Client(
        region="us-east-1", endpoint=os.environ["AWS_ENDPOINT_URL"], force_path_style=True
    )

    def read(offset: int, buffer: memoryview) -> bytes:
        return b"".join(client.get_object("bucket", "object", start=offset, end=offset + len(buffer)))

    return read


# name: (mode, needs, maker). Peers of the same mode and scheme are compared with s3dlio's row of that mode.
CASES: dict[str, tuple[str, str, Callable[[], Any]]] = {
    "tracekit s3 (native)": ("threads", "", lambda: tracekit_sync("s3")),
    "tracekit s3 (obstore)": ("threads", "", lambda: tracekit_sync("s3", client="obstore")),
    "obstore": ("threads", "", obstore_sync),
    "s3dlio": ("threads", "s3dlio", s3dlio_sync),
    "opendal": ("threads", "opendal", lambda: opendal_any("Operator")),
    "pyarrow S3FileSystem": ("threads", "", pyarrow_sync),
    "s3torchconnectorclient": ("threads", "s3torchconnectorclient", s3torch_sync),
    "tracekit s3 (aiobotocore)": ("threads", "", lambda: tracekit_sync("s3", client="aiobotocore")),
    "boto3": ("threads", "boto3", boto3_sync),
    "tracekit az (native)": ("threads", "", lambda: tracekit_sync("az")),
    "tracekit az (obstore)": ("threads", "", lambda: tracekit_sync("az", client="obstore")),
    "tracekit az (azure-sdk)": ("threads", "", lambda: tracekit_sync("az", client="azure-sdk")),
}
ASYNC_CASES: dict[str, tuple[str, Callable[[], Any]]] = {
    "tracekit s3 (native)": ("", lambda: tracekit_async("s3")),
    "tracekit s3 (obstore)": ("", lambda: tracekit_async("s3", client="obstore")),
    "obstore": ("", obstore_async),
    "s3dlio": ("s3dlio", s3dlio_async),
    "opendal": ("opendal", lambda: opendal_any("AsyncOperator")),
    "tracekit s3 (aiobotocore)": ("", lambda: tracekit_async("s3", client="aiobotocore")),
    "tracekit az (native)": ("", lambda: tracekit_async("az")),
    "tracekit az (obstore)": ("", lambda: tracekit_async("az", client="obstore")),
    "tracekit az (azure-sdk)": ("", lambda: tracekit_async("az", client="azure-sdk")),
}
for _mode in ("asyncio", "uvloop"):
    for _name, (_needs, _make) in ASYNC_CASES.items():
        CASES[f"{_name} @{_mode}"] = (_mode, _needs or ("uvloop" if _mode == "uvloop" else ""), _make)


def measure(case: str, size: int, seconds: float) -> dict[str, float]:
    """Return ops/s and CPU us/op of one case in this process, after a short warm-up."""
    mode, _, make = CASES[case]
    rng = random.Random(7)
    offsets = [rng.randrange(OBJECT_BYTES // size) * size for _ in range(4096)]
    if mode == "threads":
        read = make()
        run_threads(read, offsets, size, 0.3)
        return timed(lambda: run_threads(read, offsets, size, seconds))
    if mode == "uvloop":
        import uvloop

        return uvloop.run(run_loop(make, offsets, size, seconds))
    return asyncio.run(run_loop(make, offsets, size, seconds))


def run_threads(read: Read, offsets: list[int], size: int, seconds: float) -> int:
    done = [0] * THREADS
    end = time.monotonic() + seconds

    def work(index: int) -> None:
        buffer = memoryview(bytearray(size))
        for offset in itertools.cycle(offsets[index::THREADS]):
            if time.monotonic() >= end:
                return
            read(offset, buffer)
            done[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done)


async def run_loop(
    make: Callable[[], AsyncRead], offsets: list[int], size: int, seconds: float
) -> dict[str, float]:
    read = make()

    async def burst(seconds: float) -> int:
        end = time.monotonic() + seconds

        async def work(index: int) -> int:
            buffer = memoryview(bytearray(size))
            done = 0
            for offset in itertools.cycle(offsets[index::COROUTINES]):
                if time.monotonic() >= end:
                    break
                await read(offset, buffer)
                done += 1
            return done

        return sum(await asyncio.gather(*(work(index) for index in range(COROUTINES))))

    await burst(0.3)
    start, cpu = time.monotonic(), cpu_seconds()
    ops = await burst(seconds)
    return figures(ops, time.monotonic() - start, cpu_seconds() - cpu)


def timed(run: Callable[[], int]) -> dict[str, float]:
    start, cpu = time.monotonic(), cpu_seconds()
    ops = run()
    return figures(ops, time.monotonic() - start, cpu_seconds() - cpu)


def figures(ops: int, elapsed_s: float, cpu_s: float) -> dict[str, float]:
    return {"ops_per_s": ops / elapsed_s, "cpu_us_per_op": cpu_s / max(1, ops) * 1e6}


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def in_child(case: str, size: int, seconds: float, env: dict[str, str]) -> dict[str, float] | None:
    command = [sys.executable, __file__, "--case", case, "--size", str(size), "--seconds", str(seconds)]
    child = subprocess.run(
        command, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False
    )
    if child.returncode:
        print(f"{case}: left out: {(child.stderr.strip().splitlines() or ['?'])[-1][:150]}", file=sys.stderr)
        return None
    return dict(json.loads(child.stdout.splitlines()[-1]))


def run_all(seconds: float, rounds: int, only: str) -> list[dict[str, Any]]:
    import servers

    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp) / "data"
        folder.mkdir()
        (folder / "object").write_bytes(random.Random(1).randbytes(1 << 20) * (OBJECT_BYTES >> 20))
        with (
            servers.nginx_bucket(folder, Path(temp) / "s3") as s3,
            servers.nginx_bucket(folder, Path(temp) / "az", bucket="account/bucket") as blob,
        ):
            env = {
                **s3.env,
                "AZURE_STORAGE_CONNECTION_STRING": "AccountName=account;AccountKey="
                f"{servers.AZURITE_KEY};BlobEndpoint={blob.endpoint}/account",
            }
            return sampled(seconds, rounds, only, env)


def sampled(seconds: float, rounds: int, only: str, env: dict[str, str]) -> list[dict[str, Any]]:
    wanted = {
        name: case
        for name, case in CASES.items()
        if only in name and (not case[1] or importlib.util.find_spec(case[1])) and runnable(case[0])
    }
    taken: dict[tuple[str, str], list[dict[str, float] | None]] = {}
    for _ in range(rounds):
        for (label, size), name in itertools.product(SIZES.items(), wanted):
            samples = taken.setdefault((name, label), [])
            samples.append(None if None in samples else in_child(name, size, seconds, env))
    rows = [
        row_of(name, wanted[name][0], label, samples, taken)
        for (name, label), samples in taken.items()
        if None not in samples
    ]
    order = list(SIZES)
    return sorted(rows, key=lambda row: (order.index(row["range"]), row["mode"], -row["ops_per_s"]))


def row_of(
    name: str, mode: str, label: str, samples: list[Any], taken: dict[tuple[str, str], list[Any]]
) -> dict[str, Any]:
    """Compute medians, and ratios to s3dlio in the same mode and round, because a machine's speed drifts."""
    peer = taken.get((f"s3dlio @{mode}" if mode != "threads" else "s3dlio", label), [])
    row: dict[str, Any] = {"mode": mode, "client": name.partition(" @")[0], "range": label}
    for figure in ("ops_per_s", "cpu_us_per_op"):
        row[figure] = round(statistics.median(sample[figure] for sample in samples))
    pairs = [(mine, theirs) for mine, theirs in zip(samples, peer, strict=False) if theirs]
    row["times_s3dlio_ops"] = ratio(pairs, "ops_per_s")
    row["times_s3dlio_cpu"] = ratio(pairs, "cpu_us_per_op")
    return row


def ratio(pairs: list[tuple[dict[str, float], dict[str, float]]], figure: str) -> float | None:
    return (
        round(statistics.median(mine[figure] / theirs[figure] for mine, theirs in pairs), 2)
        if pairs
        else None
    )


def runnable(mode: str) -> bool:
    return mode != "uvloop" or importlib.util.find_spec("uvloop") is not None


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Range GETs from one local nginx, medians")
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("mode", "client", "range") else "right")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(width=130).print(table)


def write(rows: list[dict[str, Any]]) -> None:
    """Write the CSV file, and the table of the page between its markers."""
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as sink:
        writer = csv.DictWriter(sink, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    before, marker, rest = PAGE.read_text(encoding="utf-8").partition("<!-- table -->\n")
    after = rest.partition("<!-- end -->")[2]
    tables = "\n".join(table_of(rows, label) for label in SIZES)
    PAGE.write_text(f"{before}{marker}{tables}<!-- end -->{after}", encoding="utf-8")


def table_of(rows: list[dict[str, Any]], label: str) -> str:
    """Return the table of one size: a row for each client, the fastest from threads first."""
    modes = ("threads", "asyncio", "uvloop")
    cells = {
        (row["client"], row["mode"]): f"{row['ops_per_s']:,} · {row['cpu_us_per_op']:,} us"
        + ("" if row["times_s3dlio_ops"] is None else f" · {row['times_s3dlio_ops']:.1f}x")
        for row in rows
        if row["range"] == label
    }
    clients = dict.fromkeys(client for mode in modes for client, each in cells if each == mode)
    lines = [
        f"**{label}**: ops/s, CPU us an op, ops/s against s3dlio's in the same mode",
        "",
        f"| client | {' | '.join(modes)} |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {client} | {' | '.join(cells.get((client, mode), '') for mode in modes)} |"
            for client in clients
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare object-store clients against one nginx.")
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(given.case, given.size, given.seconds)), flush=True)
        os._exit(0)  # The runtimes of some libraries do not end by themselves.
    rows = run_all(given.seconds, given.rounds, given.only)
    if not rows:
        parser.error(f"no case name contains {given.only!r}")
    show(rows)
    if not given.only:
        write(rows)


if __name__ == "__main__":
    main()
