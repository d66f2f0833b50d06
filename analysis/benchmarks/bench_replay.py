"""Measure the replay of local files against its bars, side by side with fio: times kept, speed, cap, O_DIRECT, many files.

Every bar is a row of `replay_bars.csv`: what was measured, the bar, and whether it holds. Rounds of
the clients of one bar are interleaved; a figure is the median of the rounds, and a ratio that of the ratios of each round.
A round as fast as possible takes a second, so that there are three times as many.
fio gets `--invalidate=0` where the file is cached, so that it does not start cold. fio's lateness is computed
from the submit times of its log, which are whole ms. `waits alone` is one thread that waits for the same times and does
nothing else: the machine's part of the lateness. Run it on a quiet machine. `--only NAME` runs one part:
cached, gate, direct, rates, loader, files. The first op of a very long trace is in `bench_replay_start.py`.
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
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results import Table

from tracekit.loader.record import record
from tracekit.replayer.engines.interpreter import keep_times
from tracekit.replayer.run import replay
from tracekit.store.writer import TraceWriter

FILE_BYTES = 64 << 20
LENGTH = 4096
SHORT = 3
"""How many times as many rounds the parts have whose rounds take a second."""
RATES = {10_000: 150.0, 50_000: 100.0, 200_000: 100.0}
"""Ops a second, and the bar of the lateness p99 in us."""
DRIFT = 0.0001
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to work, and how much."""

    folder: Path
    rounds: int
    scale: float

    def count(self, ops: int) -> int:
        return max(int(ops * self.scale), 1000)

    def longer(self) -> Settings:
        """The same for a part with short rounds."""
        return replace(self, rounds=SHORT * self.rounds)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--scale", type=float, default=1.0, help="share of the ops, for a quick look")
    arguments.add_argument("--only", choices=PARTS, action="append")
    arguments.add_argument(
        "--folder", type=Path, help="on the disk to measure; default: the temporary directory"
    )
    chosen = arguments.parse_args()
    bars = Table("replay_bars", ["bar", "measured", "at least", "at most", "holds"])
    clients = Table("replay_clients", ["part", "client", "ops/s", "CPU ns/op", "lateness p99 us", "drift %"])
    with tempfile.TemporaryDirectory(prefix="bench-replay-", dir=chosen.folder) as folder:
        for name in chosen.only or PARTS:
            PARTS[name](Settings(Path(folder), chosen.rounds, chosen.scale), bars, clients)
    clients.finish()
    bars.finish()


def bar(
    table: Table, name: str, measured: float, *, least: float | None = None, most: float | None = None
) -> None:
    """Add a row; without a limit it is shown and not judged."""
    holds = (least is None or measured >= least) and (most is None or measured <= most)
    judged = least is not None or most is not None
    shown = ["" if limit is None else limit for limit in (least, most)]
    table.add(name, measured, *shown, ("yes" if holds else "no") if judged else "")


def cached(settings: Settings, bars: Table, clients: Table) -> None:
    """As fast as possible from the page cache, on both cores."""
    ops = Ops(settings.folder / "cached", settings.count(1_000_000))
    found = interleaved(
        settings.longer(), clients, "cached",
        {"tracekit": lambda: ops.tracekit(pace="asap", threads=2), "fio psync, 2 jobs": lambda: ops.fio("psync", jobs=2)},
    )  # fmt: skip
    if "fio psync, 2 jobs" in found:
        ours, fio = found["tracekit"], found["fio psync, 2 jobs"]
        bar(bars, "cached, asap: ops/s of fio psync", ratio(ours, fio, "rate"), least=1.1)
        bar(bars, "cached, asap: CPU an op of fio psync", ratio(ours, fio, "cpu_ns"), most=1.0)


def gate(settings: Settings, bars: Table, clients: Table) -> None:
    """As fast as possible with 64 ops and 1 MiB in flight at most, and without."""
    ops = Ops(settings.folder / "gate", settings.count(1_000_000))
    cap = {"max_ops_in_flight": 64, "max_bytes_in_flight": 1 << 20}
    found = interleaved(
        settings.longer(), clients, "gate",
        {"without": lambda: ops.tracekit(pace="asap"), "with": lambda: ops.tracekit(pace="asap", **cap)},
    )  # fmt: skip
    bar(bars, "gate: ops/s of ungated", ratio(found["with"], found["without"], "rate"), least=0.8)


def direct(settings: Settings, bars: Table, clients: Table) -> None:
    """As fast as possible past the page cache, 16 requests at once."""
    ops = Ops(settings.folder / "direct", settings.count(100_000))
    found = interleaved(
        settings.longer(), clients, "direct",
        {
            "tracekit": lambda: ops.tracekit(pace="asap", threads=16, page_cache_mode="direct_io"),
            "fio io_uring": lambda: ops.fio("io_uring", direct=True, depth=16),
        },
    )  # fmt: skip
    if "fio io_uring" in found:
        share = ratio(found["tracekit"], found["fio io_uring"], "rate")
        bar(bars, "O_DIRECT: ops/s of fio io_uring", share, least=0.95)


def rates(settings: Settings, bars: Table, clients: Table) -> None:
    """At three rates: lateness of each op, and drift of the whole."""
    for rate, most_us in RATES.items():
        ops = Ops(settings.folder / f"rate{rate}", settings.count(4 * rate), rate)
        found = interleaved(
            settings, clients, f"{rate} ops/s",
            {"tracekit": ops.tracekit, "waits alone": ops.waits, "fio psync": lambda ops=ops: ops.fio_log()},
        )  # fmt: skip
        ours = found["tracekit"]
        bar(bars, f"{rate} ops/s: lateness p99 us", median(ours, "p99") / 1e3, most=most_us)
        bar(bars, f"{rate} ops/s: lateness p99 us, waits alone", median(found["waits alone"], "p99") / 1e3)
        bar(bars, f"{rate} ops/s: drift", median(ours, "drift"), most=DRIFT)


def loader(settings: Settings, bars: Table, clients: Table) -> None:
    """A loader that reads as fast as it can from the page cache, replayed ten times."""
    data = settings.folder / "samples"
    data.mkdir()
    for number in range(96):
        (data / f"{number:02}").write_bytes(os.urandom(1 << 20))
    trace = settings.folder / "loader.trace"
    record(
        f"file://{data}",
        trace,
        num_workers=4,
        batch_size=8,
        reader_mode="range",
        target_request_bytes="128KiB",
    )
    results = [replay(trace, tolerance=0.05) for _ in range(10)]
    lateness = [result.timing["lateness_p99_ns"] / 1e6 for result in results]
    for result in results:
        rate = result.ops * 1e9 / (result.parity.row("duration_ns").b or 1)
        clients.add(
            "loader",
            "tracekit",
            rate,
            result.client.cpu_ns / result.ops,
            result.timing["lateness_p99_ns"] / 1e3,
            "",
        )
    bar(bars, "loader: replays of 10 with parity at 5 %", sum(result.ok for result in results), least=10)
    bar(bars, "loader: lateness p99 ms, median of 10", statistics.median(lateness), most=1.0)
    bar(bars, "loader: lateness p99 ms, worst of 10", max(lateness))


def files(settings: Settings, bars: Table, clients: Table) -> None:
    """A million distinct files under RLIMIT_NOFILE 1,024: no error, and time in proportion to their number."""
    count = settings.count(1_000_000)
    folder = settings.folder / "files"
    for start in range(0, count, 10_000):
        part = folder / f"{start:08}"
        part.mkdir(parents=True)
        for number in range(start, min(start + 10_000, count)):
            descriptor = os.open(part / str(number), os.O_CREAT | os.O_WRONLY)
            os.ftruncate(descriptor, LENGTH)
            os.close(descriptor)
    traces = {}
    for ops in (count // 10, count):
        uris = pa.array([f"file://{folder}/{n // 10_000 * 10_000:08}/{n}" for n in range(ops)])
        traces[ops] = settings.folder / f"files{ops}"
        write_trace(traces[ops], np.arange(ops) * 1000, uris, np.zeros(ops, np.int64))
    clients_of = {f"{ops} files": lambda trace=trace: few_descriptors(trace) for ops, trace in traces.items()}
    found = interleaved(settings, clients, "files", clients_of)
    fewer, all_of_them = found.values()
    for name, runs in found.items():
        bar(bars, f"{name}: failed ops", max(run["failed"] for run in runs), most=0)
    bar(bars, "files: time an op of a tenth as many", ratio(fewer, all_of_them, "rate"), most=1.5)


def few_descriptors(trace: Path) -> Figures:
    """Replay a trace in a process of its own that may have 1,024 files open."""
    code = (
        "import json, resource, sys, tracekit; resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024));"
        "r = tracekit.replay(sys.argv[1], pace='asap', tolerance=1e9);"
        "print(json.dumps([r.ops, r.failed_ops, r.parity.row('duration_ns').b, r.client.cpu_ns]))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(trace)], capture_output=True, text=True, check=True
    )
    done, failed, span_ns, cpu_ns = json.loads(told.stdout)
    return {"rate": done * 1e9 / span_ns, "cpu_ns": cpu_ns / done, "failed": failed}


class Ops:
    """The same random 4 KiB reads of one file as a trace, as fio's options, and as an iolog."""

    def __init__(self, folder: Path, count: int, rate: int = 1_000_000) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.count = folder, count
        self.data, self.trace, self.log = folder / "data", folder / "t", folder / "fio.log"
        if not self.data.exists():
            self.data.write_bytes(os.urandom(FILE_BYTES))
        self.data.read_bytes()
        offsets = np.random.default_rng(1).integers(0, FILE_BYTES // LENGTH, count) * LENGTH
        self.due_us = (np.arange(count) * (1_000_000 / rate)).astype(np.int64)
        self.offsets = offsets
        write_trace(self.trace, self.due_us * 1000, pa.array([f"file://{self.data}"] * count), offsets)

    def tracekit(self, **options: object) -> Figures:
        result = replay(self.trace, tolerance=1e9, **options)
        timing = result.timing
        assert result.ops == self.count and not result.failed_ops
        span_ns = result.parity.row("duration_ns").b or 0.0
        return {
            "p99": timing["lateness_p99_ns"] or 0.0, "drift": abs(timing["drift"] or 0.0),
            "rate": self.count * 1e9 / span_ns, "cpu_ns": result.client.cpu_ns / self.count,
        }  # fmt: skip

    def waits(self) -> Figures:
        """Wait for the times of the ops in one thread, by the means of the engine, and make no request."""
        waited = compiled_waits()
        late, clock, cpu_ns = np.zeros(self.count, np.int64), np.zeros(4, np.int64), [0]

        def run() -> None:
            keep_times(realtime=False)
            waited(self.due_us * 1000, late, clock)
            cpu_ns[0] = time.thread_time_ns()

        thread = threading.Thread(target=run)
        began = time.monotonic_ns()
        thread.start()
        thread.join()
        return {
            "p99": float(np.quantile(late, 0.99)), "drift": float(late[-1]) / (int(self.due_us[-1]) * 1000),
            "rate": self.count * 1e9 / (time.monotonic_ns() - began), "cpu_ns": cpu_ns[0] / self.count,
        }  # fmt: skip

    def fio(self, engine: str, *, jobs: int = 1, direct: bool = False, depth: int = 1) -> Figures:
        """As many reads of the same size and file, at random offsets of fio's own."""
        return self._fio(
            f"--ioengine={engine}", f"--filename={self.data}", "--rw=randread", "--norandommap", f"--bs={LENGTH}",
            f"--numjobs={jobs}", f"--number_ios={self.count // jobs}", f"--io_size={self.count // jobs * LENGTH}",
            f"--iodepth={depth}", f"--direct={int(direct)}",
        )  # fmt: skip

    def fio_log(self) -> Figures:
        """The same reads at the same times, from an iolog of version 3."""
        with self.log.open("w", encoding="ascii") as out:
            out.write(f"fio version 3 iolog\n0 {self.data} add\n0 {self.data} open\n")
            for due, offset in zip(self.due_us.tolist(), self.offsets.tolist(), strict=True):
                out.write(f"{due} {self.data} read {offset} {LENGTH}\n")
            out.write(f"{self.due_us[-1]} {self.data} close\n")
        latencies = self.folder / "fio"
        figures = self._fio("--ioengine=psync", f"--read_iolog={self.log}", f"--write_lat_log={latencies}")
        log = np.loadtxt(f"{latencies}_lat.1.log", delimiter=",", usecols=(0, 1), dtype=np.int64)
        late_ns = log[:, 0] * 1_000_000 - log[:, 1] - self.due_us[: len(log)] * 1000
        drift = abs(self.count / figures["rate"] / (self.due_us[-1] / 1e6) - 1)
        return {**figures, "p99": float(np.quantile(late_ns, 0.99)), "drift": drift}

    def _fio(self, *options: str) -> Figures:
        command = [
            "fio",
            "--name=replay",
            "--invalidate=0",
            "--group_reporting",
            "--output-format=json",
            *options,
        ]
        told = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=self.folder, timeout=300
        )
        job = json.loads(told.stdout[told.stdout.index("{") :])["jobs"][0]
        took_s, done = job["read"]["runtime"] / 1000, job["read"]["total_ios"]
        cpu_share = (job["usr_cpu"] + job["sys_cpu"]) / 100  # of the run time of all jobs together
        return {"rate": done / took_s, "cpu_ns": cpu_share * job["job_runtime"] * 1e6 / max(done, 1)}


@cache
def compiled_waits() -> Callable[[np.ndarray, np.ndarray, np.ndarray], None]:
    """A loop that waits for times that begin now, and fills in by how many ns each wait ended late."""
    from tracekit.replayer.engines.native import now, sleep_until

    def waited(due: np.ndarray, late: np.ndarray, clock: np.ndarray) -> None:
        start = now(clock)
        for op in range(len(due)):
            at = start + due[op]
            while now(clock) < at:
                if at - now(clock) > 5_000:
                    sleep_until(clock, at)
            late[op] = now(clock) - at

    words = numba.int64[:]
    return numba.njit(numba.void(words, words, words), nogil=True)(waited)


def write_trace(path: Path, submit_ns: np.ndarray, uris: pa.Array, offsets: np.ndarray) -> None:
    count = len(submit_ns)
    with TraceWriter(path, source="import:bench", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": submit_ns, "uri": uris, "offset": offsets, "len": np.full(count, LENGTH),
                    "bytes": np.full(count, LENGTH), "latency": np.full(count, 5000), "sample_id": np.arange(count),
                }
            )
        )  # fmt: skip


def interleaved(
    settings: Settings, table: Table, part: str, clients: dict[str, Callable[[], Figures]]
) -> dict[str, list[Figures]]:
    """Run the clients in turn, and add their medians to `table`; fio is left out where it is not installed."""
    if not shutil.which("fio"):
        clients = {name: run for name, run in clients.items() if not name.startswith("fio")}
    found: dict[str, list[Figures]] = {}
    for _ in range(settings.rounds):
        for name, run in clients.items():
            found.setdefault(name, []).append(run())
    for name, runs in found.items():
        late, drift = (median(runs, key) if key in runs[0] else 0.0 for key in ("p99", "drift"))
        table.add(part, name, median(runs, "rate"), median(runs, "cpu_ns"), late / 1e3, drift * 100)
    return found


def ratio(ours: list[Figures], theirs: list[Figures], name: str) -> float:
    """The median of the ratios of each round, so that what slows down a whole round leaves it as it is."""
    return statistics.median(a[name] / b[name] for a, b in zip(ours, theirs, strict=True))


def median(runs: list[Figures], name: str) -> float:
    return statistics.median(run[name] for run in runs)


PARTS = {
    "cached": cached, "gate": gate, "direct": direct, "rates": rates, "loader": loader, "files": files,
}  # fmt: skip

if __name__ == "__main__":
    main()
