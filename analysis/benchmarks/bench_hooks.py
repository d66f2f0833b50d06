"""Measure what each capture hook costs, beside the same call without the hook, in one run.

Calls are made in blocks, alternately without and with the hook. For file ops the figure is the
fastest block of each, which other work disturbed least. For requests it is the median of a hooked
client and an unhooked one, called in turn. File ops come in bursts with pauses, as a loader's do
(the pauses are not counted). The `saturated` rows have no pauses, so the recorder's writer thread
competes for the interpreter all the time. nginx on loopback serves the object stores: a real GET
is slower, and the relative cost smaller.

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
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import servers

from tracekit import capture

RESULTS = Path(__file__).parent / "results" / "hooks.csv"
BODY_BYTES = 1 << 20
Row = tuple[str, str, float, float]
"""Hook, call, us per call without the hook, us per call with it."""


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--quick", action="store_true", help="make a tenth of the calls")
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
    """Return us per call in the fastest block, without and with the hook."""
    off, on = [], []
    burst = burst or calls
    calls = max(1, calls // burst) * burst
    call()
    for block in range(blocks):
        off.append(timed(call, calls, burst, pause_s))
        with capture.start(
            work / f"{hook.replace(':', '-')}-{block}.trace", hooks=[hook], children=False
        ) as running:
            call()  # The first op opens the recorder and its files, which is not a cost of a call.
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


def side_by_side(
    work: Path, hook: str, plain: Callable[[], object], hooked: Callable[[], object], calls: int
) -> tuple[float, float]:
    """Return the median us per call of each, called in turn so that both see the same machine."""
    took: dict[Callable[[], object], list[int]] = {plain: [], hooked: []}
    with capture.start(work / f"{hook}-{time.monotonic_ns()}.trace", hooks=[], children=False) as running:
        for call in (plain, hooked):
            call()
        running.recorder.flush()
        for turn in range(calls):
            for call in (plain, hooked) if turn % 2 else (hooked, plain):
                began = time.perf_counter_ns()
                call()
                took[call].append(time.perf_counter_ns() - began)
        assert running.recorder.ops_recorded > calls
    return statistics.median(took[plain]) / 1000, statistics.median(took[hooked]) / 1000


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
    """Time an unmodified program that only calls pread, by its own clock."""
    from tracekit.capture.command import capture_command
    from tracekit.capture.native import NativeEngine
    from tracekit.capture.tools.dftracer import DFTracerEngine
    from tracekit.capture.tools.strace import StraceEngine

    told = work / "told"

    def run(method: str | None, call: str, calls: int) -> float:
        program = (
            f"import os, time; fd = os.open({str(path)!r}, os.O_RDONLY); t = time.perf_counter_ns()\n"
            f"for n in range({calls}): {call}\n"
            f"open({str(told)!r}, 'w').write(str((time.perf_counter_ns() - t) / {calls} / 1000))"
        )
        command = [sys.executable, "-c", program]
        if method is None:
            subprocess.run(command, check=True)
        else:
            capture_command(command, work / f"{method}.trace", method=method, hooks="", overwrite=True)
        return float(told.read_text())

    for engine, call, calls in (
        (NativeEngine(), "os.pread(fd, 4096, n)", 200_000),
        (NativeEngine(), "os.read(fd, 4)", 200_000),
        (DFTracerEngine(), "os.pread(fd, 4096, n)", 200_000),
        (StraceEngine(), "os.pread(fd, 4096, n)", 20_000),
    ):
        if engine.available():
            calls = int(calls * scale)
            pairs = [(run(None, call, calls), run(engine.name, call, calls)) for _ in range(3)]
            yield f"capture --method {engine.name}", call, *(min(side) for side in zip(*pairs, strict=True))


def objects(work: Path, server: servers.S3Server, scale: float) -> Iterator[Row]:
    calls = max(5, int(4000 * scale))
    yield from boto(work, calls)
    yield from aio(work, calls)
    yield from rust(work, server, calls)
    yield from azure(work, server, calls)
    yield from through_s3fs(work, calls)


def boto(work: Path, calls: int) -> Iterator[Row]:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    from tracekit.capture.hooks.botocore import wrap

    config = Config(signature_version=UNSIGNED, s3={"addressing_style": "path"})
    clients = boto3.client("s3", config=config), wrap(boto3.client("s3", config=config))

    def getting(client: Any, header: str) -> Callable[[], object]:
        return lambda: client.get_object(Bucket="bucket", Key="set/a.bin", Range=header)["Body"].read()

    for name, header in (("64 KiB", "bytes=0-65535"), ("1 MiB", "bytes=0-1048575")):
        plain, hooked = (getting(client, header) for client in clients)
        yield "botocore", f"boto3 get_object, {name}", *side_by_side(work, "botocore", plain, hooked, calls)


def aio(work: Path, calls: int) -> Iterator[Row]:
    import aiobotocore.session
    from botocore import UNSIGNED
    from botocore.config import Config

    from tracekit.capture.hooks.botocore import wrap

    loop = asyncio.new_event_loop()
    config = Config(signature_version=UNSIGNED, s3={"addressing_style": "path"})
    making = [aiobotocore.session.get_session().create_client("s3", config=config) for _ in range(2)]
    first, second = (loop.run_until_complete(one.__aenter__()) for one in making)

    async def get(client: Any) -> None:
        answer = await client.get_object(Bucket="bucket", Key="set/a.bin", Range="bytes=0-65535")
        await answer["Body"].read()

    def getting(client: Any) -> Callable[[], object]:
        return lambda: loop.run_until_complete(get(client))

    plain, hooked = getting(first), getting(wrap(second))
    took = side_by_side(work, "aiobotocore", plain, hooked, calls)
    yield "botocore", "aiobotocore get_object, 64 KiB", *took
    for one in making:
        loop.run_until_complete(one.__aexit__(None, None, None))


def rust(work: Path, server: servers.S3Server, calls: int) -> Iterator[Row]:
    import obstore
    from obstore.store import S3Store

    from tracekit.capture.hooks.obstore import wrap

    store = S3Store(
        "bucket", endpoint=server.endpoint, skip_signature=True, client_options={"allow_http": True}
    )
    seen = wrap(store)
    took = side_by_side(
        work,
        "obstore",
        lambda: obstore.get_range(store, "set/a.bin", start=0, length=65_536),
        lambda: seen.get_range("set/a.bin", start=0, length=65_536),
        4 * calls,
    )
    yield "obstore", "S3Store.get_range, 64 KiB", *took


def azure(work: Path, server: servers.S3Server, calls: int) -> Iterator[Row]:
    from azure.storage.blob import BlobClient

    from tracekit.capture.hooks.azure import policy

    url = f"{server.endpoint}/bucket/set/a.bin"
    first, second = (
        BlobClient.from_blob_url(url),
        BlobClient.from_blob_url(url, _additional_pipeline_policies=[policy()]),
    )

    def getting(blob: Any) -> Callable[[], object]:
        return lambda: blob.download_blob(offset=0, length=65_536).readall()

    took = side_by_side(work, "azure", getting(first), getting(second), calls)
    yield "azure", "download_blob, 64 KiB", *took


def through_s3fs(work: Path, calls: int) -> Iterator[Row]:
    import s3fs

    from tracekit.capture.hooks.fsspec import wrap

    class Seen(s3fs.S3FileSystem):
        """Make a class of its own, so that only it is hooked."""

    def getting(filesystem: Any) -> Callable[[], object]:
        return lambda: filesystem.cat_file("bucket/set/a.bin", start=0, end=65_536)

    plain, hooked = getting(s3fs.S3FileSystem(anon=True)), getting(wrap(Seen(anon=True)))
    yield "fsspec", "s3fs cat_file, 64 KiB", *side_by_side(work, "s3fs", plain, hooked, calls)


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
