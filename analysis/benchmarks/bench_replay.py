"""Measure how closely a replay keeps its times, and how fast `asap` is: tracekit beside fio on the same ops.

4 KiB random reads of one cached file. At 10,000 and 50,000 ops/s: the lateness of each op and the
drift of the whole, for tracekit (with its defaults, and under SCHED_FIFO where that is allowed) and
for fio's `read_iolog` v3 with psync and io_uring. fio logs the end of an op in whole ms, so its
lateness is known to a millisecond. Then as fast as possible: tracekit compiled and interpreted,
fio psync and io_uring with `--replay_no_stall=1`, one job and two. Rounds are interleaved; each
figure is the median of the rounds, and `best` that of the least disturbed round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results import Table

from tracekit.errors import TracekitError
from tracekit.replayer.run import replay
from tracekit.store.writer import TraceWriter

FILE_BYTES = 64 << 20
LENGTH = 4096
ASAP_OPS = 1_000_000
Figures = dict[str, float]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=4.0)
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-replay-") as folder:
        paced(Path(folder), chosen.seconds, chosen.rounds)
        asap(Path(folder), chosen.rounds)


def paced(folder: Path, seconds: float, rounds: int) -> None:
    table = Table(
        "replay_paced",
        [
            "client",
            "ops/s",
            "lateness p50 us",
            "lateness p99 us",
            "best p99 us",
            "drift %",
            "best drift %",
            "CPU us/op",
        ],
    )
    for rate in (10_000, 50_000):
        ops = Ops(folder, int(rate * seconds), rate)
        clients: dict[str, Callable[[], Figures]] = {
            "tracekit": lambda ops=ops: ops.tracekit(),
            "tracekit --realtime": lambda ops=ops: ops.tracekit(realtime=True),
        }
        if shutil.which("fio"):
            clients["fio psync"] = lambda ops=ops: ops.fio("psync")
            clients["fio io_uring"] = lambda ops=ops: ops.fio("io_uring")
        for name, runs in interleaved(clients, rounds).items():
            table.add(
                name, rate, median(runs, "p50") / 1e3, median(runs, "p99") / 1e3, least(runs, "p99") / 1e3,
                median(runs, "drift") * 100, least(runs, "drift") * 100, median(runs, "cpu_ns") / 1e3,
            )  # fmt: skip
    table.finish()


def asap(folder: Path, rounds: int) -> None:
    ops = Ops(folder, ASAP_OPS, 1_000_000)
    clients: dict[str, Callable[[], Figures]] = {
        "tracekit": lambda: ops.tracekit(pace="asap", threads=2),
        "tracekit, interpreter": lambda: ops.tracekit(pace="asap", threads=1, engine="interpreter"),
    }
    if shutil.which("fio"):
        for engine in ("psync", "io_uring"):
            for jobs in (1, 2):
                clients[f"fio {engine}, {jobs} job(s)"] = lambda e=engine, j=jobs: ops.fio(
                    e, asap=True, jobs=j
                )
    found = interleaved(clients, rounds)
    table = Table(
        "replay_asap", ["client", "ops/s", "best ops/s", "of fio psync, 1 job", "request ns/op", "CPU ns/op"]
    )
    base = median(found["fio psync, 1 job(s)"], "rate") if "fio psync, 1 job(s)" in found else float("nan")
    for name, runs in found.items():
        rate = median(runs, "rate")
        best = max(run["rate"] for run in runs)
        table.add(name, rate, best, rate / base, median(runs, "service_ns"), median(runs, "cpu_ns"))
    table.finish()


class Ops:
    """Write the same reads as a trace and as an iolog."""

    def __init__(self, folder: Path, count: int, rate: int) -> None:
        self.folder, self.count = folder, count
        self.data, self.trace, self.log = folder / "data", folder / f"t{rate}", folder / f"fio{rate}.log"
        if not self.data.exists():
            self.data.write_bytes(os.urandom(FILE_BYTES))
        self.data.read_bytes()
        offsets = np.random.default_rng(1).integers(0, FILE_BYTES // LENGTH, count) * LENGTH
        self.due_us = (np.arange(count) * (1_000_000 / rate)).astype(np.int64)
        with TraceWriter(self.trace, source="import:bench", epoch_unix_ns=0) as writer:
            writer.write(
                pa.RecordBatch.from_pydict(
                    {
                        "t_submit": self.due_us * 1000, "uri": pa.array([f"file://{self.data}"] * count),
                        "offset": offsets, "len": np.full(count, LENGTH), "bytes": np.full(count, LENGTH),
                        "latency": np.full(count, 5000), "sample_id": np.arange(count),
                    }
                )
            )  # fmt: skip
        with self.log.open("w", encoding="ascii") as out:
            out.write(f"fio version 3 iolog\n0 {self.data} add\n0 {self.data} open\n")
            for due, offset in zip(self.due_us.tolist(), offsets.tolist(), strict=True):
                out.write(f"{due} {self.data} read {offset} {LENGTH}\n")
            out.write(f"{self.due_us[-1]} {self.data} close\n")

    def tracekit(self, **options: object) -> Figures:
        result = replay(self.trace, tolerance=1e9, **options)
        timing = result.timing
        assert result.ops == self.count and not result.failed_ops
        span_ns = result.parity.row("duration_ns").b or 0.0
        return {
            "p50": timing["lateness_p50_ns"] or 0.0, "p99": timing["lateness_p99_ns"] or 0.0,
            "drift": abs(timing["drift"] or 0.0), "rate": self.count * 1e9 / span_ns,
            "service_ns": timing["service_sum_ns"] / self.count, "cpu_ns": result.client.cpu_ns / self.count,
        }  # fmt: skip

    def fio(self, engine: str, *, asap: bool = False, jobs: int = 1) -> Figures:
        latencies = self.folder / "fio"
        command = [
            "fio", "--name=replay", f"--ioengine={engine}", f"--read_iolog={self.log}", "--output-format=json",
            f"--numjobs={jobs}", "--group_reporting",
        ]  # fmt: skip
        command += ["--replay_no_stall=1"] if asap else [f"--write_lat_log={latencies}"]
        told = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=self.folder, timeout=300
        )
        job = json.loads(told.stdout[told.stdout.index("{") :])["jobs"][0]
        took_s = job["read"]["runtime"] / 1000
        done = job["read"]["total_ios"]
        cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * took_s * 1e9 / max(done, 1)
        figures = {"rate": done / took_s, "service_ns": job["read"]["clat_ns"]["mean"], "cpu_ns": cpu}
        if asap:
            return figures
        log = np.loadtxt(f"{latencies}_lat.1.log", delimiter=",", usecols=(0, 1), dtype=np.int64)
        late_ns = log[:, 0] * 1_000_000 - log[:, 1] - self.due_us[: len(log)] * 1000
        planned_s = self.due_us[-1] / 1e6
        return {
            **figures, "p50": float(np.quantile(late_ns, 0.5)), "p99": float(np.quantile(late_ns, 0.99)),
            "drift": abs(took_s / planned_s - 1),
        }  # fmt: skip


def interleaved(clients: dict[str, Callable[[], Figures]], rounds: int) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {}
    for _ in range(rounds):
        for name, run in clients.items():
            try:
                found.setdefault(name, []).append(run())
            except TracekitError as error:
                print(f"{name}: {error}")
    return {name: runs for name, runs in found.items() if runs}


def median(runs: list[Figures], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def least(runs: list[Figures], name: str) -> float:
    return min(run[name] for run in runs)


if __name__ == "__main__":
    main()
