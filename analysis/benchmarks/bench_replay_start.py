"""Measure how soon a very long trace starts to replay, and in how much memory.

Writes a trace of `--ops` ops (default 100 million, about a minute), starts `tracekit replay` on it
in its own process, waits until the first op is recorded, lets it run, and stops it with Ctrl-C. It
reports when the first op was issued and the peak memory of the replayer with its children: medians of
`--repeat` runs. Shared pages count once per process, so the memory is an upper bound.

A run before the first compiles the engine, and has Python keep the bytecode of the modules, which
PYTHONDONTWRITEBYTECODE would forbid.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results import Table

from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

BATCH = 1 << 20


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--ops", type=int, default=100_000_000)
    arguments.add_argument("--seconds", type=float, default=5.0)
    arguments.add_argument("--repeat", type=int, default=5)
    chosen = arguments.parse_args()
    table = Table(
        "replay_start", ["pace", "ops in trace", "first op after s", "peak MiB", "ops/s", "ops replayed"]
    )
    with tempfile.TemporaryDirectory(prefix="bench-start-") as folder:
        make(Path(folder), chosen.ops)
        measure(Path(folder), "recorded", 40.0)
        for pace in ("recorded", "asap"):
            runs = [measure(Path(folder), pace, chosen.seconds) for _ in range(chosen.repeat)]
            table.add(pace, chosen.ops, *(median(values) for values in zip(*runs, strict=True)))
    table.finish()


def make(folder: Path, ops: int) -> None:
    """Write a trace of sequential 4 KiB reads of 64 cached files, 20,000 per second, with samples and steps."""
    for i in range(64):
        (folder / f"f{i}").write_bytes(bytes(4 << 20))
    names = pa.array([f"file://{folder}/f{i}" for i in range(64)])
    with TraceWriter(folder / "t", source="import:bench", epoch_unix_ns=0) as writer:
        for first in range(0, ops, BATCH):
            i = np.arange(first, min(first + BATCH, ops))
            uris = pa.DictionaryArray.from_arrays(pa.array((i // 1024 % 64).astype(np.int32)), names)
            writer.write(
                pa.RecordBatch.from_pydict(
                    {
                        "t_submit": i * 50_000, "uri": uris, "offset": i % 1024 * 4096, "len": np.full(len(i), 4096),
                        "bytes": np.full(len(i), 4096), "latency": np.full(len(i), 5_000), "sample_id": i // 32,
                        "step": i // 1024,
                    }
                )
            )  # fmt: skip


def measure(folder: Path, pace: str, seconds: float) -> tuple[float, float, float, int]:
    out = folder / "r"
    shutil.rmtree(out, ignore_errors=True)
    began_mono, began_unix = time.monotonic_ns(), time.time_ns()
    command = [
        sys.executable,
        "-m",
        "tracekit",
        "replay",
        str(folder / "t"),
        "--pace",
        pace,
        "-o",
        str(out),
        "--json",
    ]
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    peak = 0
    while time.monotonic_ns() - began_mono < seconds * 1e9 and running.poll() is None:
        peak = max(peak, resident_bytes(running.pid))
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    told, complaint = running.communicate(timeout=600)
    reader = open_reader(out)
    first, last, rows = next(
        iter(
            reader.query("SELECT min(t_submit) AS a, max(t_submit) AS b, count(*) AS n FROM ops").to_pylist()
        )
    ).values()
    if running.returncode != 130 or not json.loads(told)["partial"]:
        raise SystemExit(f"exit {running.returncode}: {complaint.decode()}")
    return (
        ((reader.epoch_unix_ns or 0) + first - began_unix) / 1e9,
        peak / 2**20,
        rows * 1e9 / (last - first),
        rows,
    )


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and its children."""
    total = 0
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        total += int(status.split("VmRSS:")[1].split()[0]) * 1024
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            total += resident_bytes(int(child))
    except (OSError, IndexError):
        pass  # The process ended meanwhile.
    return total


if __name__ == "__main__":
    main()
