"""What each capture hook costs, beside the same call without it, in one run.

Calls are made in blocks, hook off and hook on by turns. Of file ops the figure is the fastest
block of each, the one that nobody else's work disturbed; of requests, which are slow enough
to be timed one by one, the median of all. File ops come in bursts with pauses, as a
loader's do (the pauses are not counted); `saturated` rows have no pause, so that the
recorder's writer thread competes for the interpreter all the time. Object stores are served by nginx on
loopback, the fastest there is here: a real GET is slower, and the percentage smaller.

    python analysis/benchmarks/bench_hooks.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import servers

from tracekit import capture

RESULTS = Path(__file__).parent / "results" / "hooks.csv"
BODY_BYTES = 1 << 20
Row = tuple[str, str, float, float]
"""hook, call, us a call without it, us a call with it"""


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--quick", action="store_true", help="a tenth of the calls")
    scale = 0.1 if arguments.parse_args().quick else 1.0
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = work / "data"
        (data / "set").mkdir(parents=True)
        (data / "set" / "a.bin").write_bytes(os.urandom(BODY_BYTES))
        rows += files(work, data / "set" / "a.bin", scale)
        rows += processes(work, data / "set" / "a.bin", scale)
        with contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(servers.nginx_bucket(data, work / "nginx"))
            except servers.Unavailable as missing:
                print(f"object clients skipped: {missing}")
            else:
                os.environ.update(server.env)
                rows += objects(work, server, scale)
    show(rows)


def by_turns(
    work: Path,
    hook: str,
    call: Callable[[], object],
    calls: int,
    *,
    burst: int | None = None,
    pause_s: float = 0.0,
    blocks: int = 15,
) -> tuple[float, float]:
    """us a call in the fastest block, without and with the hook."""
    off, on = [], []
    burst = burst or calls
    calls = max(1, calls // burst) * burst
    call()
    for block in range(blocks):
        off.append(timed(call, calls, burst, pause_s))
        with capture.start(
            work / f"{hook.replace(':', '-')}-{block}.trace", hooks=[hook], children=False
        ) as running:
            call()  # the first op makes the recorder and its files: not a cost of a call
            running.recorder.flush()
            on.append(timed(call, calls, burst, pause_s))
    return min(off), min(on)


def timed(call: Callable[[], object], calls: int, burst: int, pause_s: float) -> float:
    took = 0
    for _ in range(0, calls, burst):
        began = time.perf_counter_ns()
        for _ in range(burst):
            call()
        took += time.perf_counter_ns() - began
        if pause_s:
            time.sleep(pause_s)
    return took / calls / 1000


def one_by_one(
    work: Path, hook: str, call: Callable[[], object], calls: int, *, blocks: int = 30
) -> tuple[float, float]:
    """us a call, the median of all calls of all blocks, without and with the hook."""
    off: list[int] = []
    on: list[int] = []
    call()
    for block in range(blocks):
        times(call, calls, off)
        with capture.start(
            work / f"{hook.replace(':', '-')}-{block}.trace", hooks=[hook], children=False
        ) as running:
            call()
            running.recorder.flush()
            times(call, calls, on)
    return statistics.median(off) / 1000, statistics.median(on) / 1000


def times(call: Callable[[], object], calls: int, into: list[int]) -> None:
    for _ in range(calls):
        began = time.perf_counter_ns()
        call()
        into.append(time.perf_counter_ns() - began)


def files(work: Path, path: Path, scale: float) -> Iterator[Row]:
    fd = os.open(path, os.O_RDONLY)
    calls = int(8_000 * scale)

    def pread() -> None:
        os.pread(fd, 4096, 8192)

    def opened() -> None:
        own = os.open(path, os.O_RDONLY)
        for offset in range(0, 409_600, 4096):
            os.pread(own, 4096, offset)
        os.close(own)

    def buffered() -> None:
        with open(path, "rb", buffering=4096) as file:  # noqa: PTH123 - the call that is measured
            for _ in range(100):
                file.read(4096)

    hundreds = max(1, calls // 100)
    plain, hooked = by_turns(work, "files", opened, hundreds, burst=1, pause_s=0.004)
    yield "files", "os.pread 4 KiB, and 1/100 of os.open and close", plain / 100, hooked / 100
    early = by_turns(work, "files", pread, calls, burst=100, pause_s=0.004)
    yield "files", "os.pread 4 KiB, descriptor from before the capture", *early
    plain, hooked = by_turns(work, "files", buffered, hundreds, burst=1, pause_s=0.004)
    yield "files", "read(4096) of open(...), and 1/100 of the open", plain / 100, hooked / 100
    plain, hooked = by_turns(work, "files", opened, 3 * hundreds)
    yield "files", "os.pread 4 KiB, saturated", plain / 100, hooked / 100
    os.close(fd)
    import fsspec

    local = fsspec.filesystem("file")

    def through_fsspec() -> None:
        with local.open(str(path), "rb") as file:
            for _ in range(100):
                file.read(4096)

    plain, hooked = by_turns(work, "fsspec", through_fsspec, hundreds, burst=1, pause_s=0.004)
    yield "fsspec", "read(4096) of a local file, and 1/100 of the open", plain / 100, hooked / 100


def processes(work: Path, path: Path, scale: float) -> Iterator[Row]:
    """An unmodified program that only preads, as its own clock has it."""
    from tracekit.capture import preload, strace
    from tracekit.capture.process import capture_command

    told = work / "told"

    def run(method: str | None, calls: int) -> float:
        program = (
            f"import os, time; fd = os.open({str(path)!r}, os.O_RDONLY); t = time.perf_counter_ns()\n"
            f"for n in range({calls}): os.pread(fd, 4096, n)\n"
            f"open({str(told)!r}, 'w').write(str((time.perf_counter_ns() - t) / {calls} / 1000))"
        )
        command = [sys.executable, "-c", program]
        if method is None:
            subprocess.run(command, check=True)
        else:
            capture_command(command, work / f"{method}.trace", method=method, hooks="", overwrite=True)
        return float(told.read_text())

    for method, there, calls in (
        ("dftracer", preload.library() is not None, int(200_000 * scale)),
        ("strace", strace.available() is not None, int(20_000 * scale)),
    ):
        if there:
            pairs = [(run(None, calls), run(method, calls)) for _ in range(3)]
            yield (
                f"capture --with {method}",
                "os.pread 4 KiB",
                *(min(side) for side in zip(*pairs, strict=True)),
            )


def objects(work: Path, server: servers.S3Server, scale: float) -> Iterator[Row]:
    calls = max(5, int(60 * scale))
    yield from boto(work, calls)
    yield from aio(work, calls)
    yield from rust(work, server, calls)
    yield from azure(work, server, calls)
    yield from through_s3fs(work, calls)


def boto(work: Path, calls: int) -> Iterator[Row]:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    client = boto3.client("s3", config=Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}))
    for name, header in (("64 KiB", "bytes=0-65535"), ("1 MiB", "bytes=0-1048575")):

        def get(header: str = header) -> None:
            client.get_object(Bucket="bucket", Key="set/a.bin", Range=header)["Body"].read()

        yield "botocore", f"boto3 get_object, {name}", *one_by_one(work, "botocore", get, calls)


def aio(work: Path, calls: int) -> Iterator[Row]:
    import aiobotocore.session
    from botocore import UNSIGNED
    from botocore.config import Config

    from tracekit.capture.botocore import wrap

    loop = asyncio.new_event_loop()
    config = Config(signature_version=UNSIGNED, s3={"addressing_style": "path"})
    making = aiobotocore.session.get_session().create_client("s3", config=config)
    capture.start(work / "making.trace", hooks=["botocore"])
    client = loop.run_until_complete(making.__aenter__())
    wrap(client)
    capture.stop()

    async def get() -> None:
        answer = await client.get_object(Bucket="bucket", Key="set/a.bin", Range="bytes=0-65535")
        await answer["Body"].read()

    yield (
        "botocore",
        "aiobotocore get_object, 64 KiB",
        *one_by_one(work, "botocore", lambda: loop.run_until_complete(get()), calls),
    )
    loop.run_until_complete(making.__aexit__(None, None, None))


def rust(work: Path, server: servers.S3Server, calls: int) -> Iterator[Row]:
    from obstore.store import S3Store

    store = S3Store(
        "bucket", endpoint=server.endpoint, skip_signature=True, client_options={"allow_http": True}
    )
    yield (
        "obstore",
        "S3Store.get_range, 64 KiB",
        *one_by_one(work, "obstore", lambda: store.get_range("set/a.bin", start=0, length=65_536), calls),
    )


def azure(work: Path, server: servers.S3Server, calls: int) -> Iterator[Row]:
    from azure.storage.blob import BlobClient

    url = f"{server.endpoint}/bucket/set/a.bin"
    capture.start(work / "making-azure.trace", hooks=["azure"])
    blob = BlobClient.from_blob_url(url)
    capture.stop()
    yield (
        "azure",
        "download_blob, 64 KiB",
        *one_by_one(work, "azure", lambda: blob.download_blob(offset=0, length=65_536).readall(), calls),
    )


def through_s3fs(work: Path, calls: int) -> Iterator[Row]:
    import s3fs

    filesystem = s3fs.S3FileSystem(anon=True)
    yield (
        "fsspec",
        "s3fs cat_file, 64 KiB",
        *one_by_one(
            work, "fsspec", lambda: filesystem.cat_file("bucket/set/a.bin", start=0, end=65_536), calls
        ),
    )


def show(rows: list[Row]) -> None:
    table = Table(title="capture hooks: cost of a call")
    for column in ("hook", "call", "without", "with", "difference", "ratio"):
        table.add_column(column, justify="left" if column in ("hook", "call") else "right")
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["hook", "call", "without_us", "with_us", "difference_us", "ratio"])
        for hook, call, off, on in rows:
            table.add_row(
                hook, call, f"{off:.2f} us", f"{on:.2f} us", f"{on - off:+.2f} us", f"{on / off:.3f}"
            )
            writer.writerow([hook, call, f"{off:.3f}", f"{on:.3f}", f"{on - off:.3f}", f"{on / off:.4f}"])
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
