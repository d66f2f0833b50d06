"""Compare what the capture engines see of real programs with what strace sees, and what they cost.

Each program runs in a fresh folder with the same input: without a capture, under strace, and under each other engine.
The share of ops and of bytes is that of strace's reads and writes that the engine recorded too: of the same file, in the
same direction, with as many bytes; the share of bytes compares sums by file and direction. Offsets are the share of those ops that
have the same offset, where strace knows it (not of appends). Reads of memory maps are left out here: strace does not see
them. The cost is the CPU time of the command, its children included, over that without a capture: the least of a few runs.

    python analysis/benchmarks/bench_capture.py [--quick] [PROGRAM ...]

`--faults` measures instead what following page faults costs: the first touches of fresh memory by a program that has mapped a
file. `--epoch` measures what an epoch of a torch DataLoader costs: without a capture, twice, and under the native engine with and
without page faults; of JPEG images that are decoded, in a short epoch of small batches too, and of arrays that are only read. Programs
that do the same differ for as long as they live, by where their memory happens to lie. So the C library keeps what is freed, and each
of several rounds starts a new program of each kind, which then take turns. `more_ms` is the median difference to the epoch without
a capture of the same turn, `error_ms` its standard error, by drawing rounds anew. `--quick` runs each once or twice. The table of
docs/capture.md is made from the CSV file by `--page docs/capture.md`.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "capture"))
import numpy as np
import programs
from PIL import Image
from results import RESULTS, Table

from tracekit.capture import run
from tracekit.capture.engines import choose_engine
from tracekit.errors import UsageError
from tracekit.store.reader import open_reader

ENGINES = ("native", "dftracer", "strace", "hooks")
COLUMNS = ["program", "engine", "strace_ops", "ops_share", "bytes_share", "offsets_share", "lineage_share", "completeness",
           "cpu_ratio", "wall_ratio"]  # fmt: skip
_TEMPORARY = re.compile(r"tmp_(obj|pack|idx|rev|mtimes)_\w+|(?<=pack-)[0-9a-f]{40}")
_PLACE = re.compile(r"(<!-- capture matrix -->\n).*?(<!-- end of the matrix -->)", re.DOTALL)
Times = tuple[float, float]
"""CPU time of a program and its children, and wall time; seconds."""


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--quick", action="store_true", help="run everything once")
    arguments.add_argument("--page", type=Path, help="only write the table of the CSV file into this page")
    arguments.add_argument("--faults", action="store_true", help="measure the cost of page faults instead")
    arguments.add_argument(
        "--epoch", action="store_true", help="measure an epoch of a torch DataLoader instead"
    )
    arguments.add_argument("names", nargs="*", help="programs; all by default")
    given = arguments.parse_args()
    if given.page:
        given.page.write_text(
            _PLACE.sub(lambda found: f"{found[1]}\n{as_markdown()}\n\n{found[2]}", given.page.read_text())
        )
        return
    if given.faults or given.epoch:
        faults() if given.faults else epochs(*(2, 2) if given.quick else (_ROUNDS, None))
        return
    table = Table("capture_matrix", COLUMNS)
    for name in given.names or programs.ALL:
        reason = programs.missing(name)
        if reason is not None:
            print(f"{name}: {reason}")
            continue
        for row in compare(name, 1 if given.quick else 2):
            table.add(*row)
            print(*row)
    table.finish(saved=not given.names)


_TOUCH = """
import mmap, sys, time
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
def touched(pages=16384):
    fresh = mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    fresh.madvise(15)  # MADV_NOHUGEPAGE
    began = time.perf_counter_ns()
    for at in range(0, len(fresh), mmap.PAGESIZE):
        fresh[at] = 1
    return (time.perf_counter_ns() - began) / pages
with open(sys.argv[2], "w") as out:
    out.write(str(min(touched() for _ in range(10))))
"""


def faults() -> None:
    """Measure a first touch of a page under the native engine, with and without page faults followed."""
    table = Table("capture_faults", ["faults", "ns_per_touch"])
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "mapped").write_bytes(bytes(4096))
        command = [sys.executable, "-c", _TOUCH, str(work / "mapped"), str(work / "out")]
        for followed in (False, True, False, True):
            run(command, work / "run.trace", method="native", faults=followed, overwrite=True)
            table.add("followed" if followed else "not followed", float((work / "out").read_text()))
    table.finish()


_EPOCHS = """
import gc, resource, sys
import numpy as np, torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
folder, content, samples, batch = sys.argv[1:]
class Files(Dataset):
    def __len__(self): return int(samples)
    def __getitem__(self, i):
        if content == "arrays": return torch.from_numpy(np.load(f"{folder}/{i % 100}.npy"))
        return torch.from_numpy(np.array(Image.open(f"{folder}/{i % 100}.jpeg").convert("RGB").resize((224, 224))))
def cpu():
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
def epoch():
    gc.collect()  # or chance decides which programs have workers that soon collect all objects of torch, for 0.1 s
    began = cpu()
    for _ in DataLoader(Files(), batch_size=int(batch), num_workers=2, multiprocessing_context="fork"): pass
    return (cpu() - began) * 1000
if __name__ == "__main__":
    epoch()
    print("ready", flush=True)
    for line in sys.stdin: print(epoch(), flush=True)
"""
_ROUNDS = 8


@dataclass(frozen=True)
class Epoch:
    """What is read in an epoch, and in how many turns of a round."""

    content: str
    samples: int
    batch: int
    turns: int


EPOCHS = (Epoch("images", 500, 32, 15), Epoch("images", 200, 8, 10), Epoch("arrays", 600, 8, 10))
KINDS: dict[str, list[str] | None] = {
    "none": None,
    "none, again": None,
    "native": [],
    "native, --no-faults": ["--no-faults"],
}
"""The options of each capture; None for a program without one."""
_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
"""The C library keeps freed memory. Otherwise its layout decides how much goes back to the kernel, and an epoch has between 67,000 and
100,000 page faults, with and without a capture: several times what a capture costs."""


def epochs(rounds: int, turns: int | None) -> None:
    """Measure the CPU time of epochs of a torch DataLoader, by programs that take turns within a round.

    The two workers of an epoch start and end with it. Epochs of `arrays` do nothing but read, those of `images` decode what they read.
    """
    columns = ["epoch", "samples", "batch", "capture", "median_ms", "more_ms", "error_ms", "more_%"]
    table = Table("capture_epoch", columns)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        chance = np.random.default_rng(1)
        for number in range(100):
            np.save(work / f"{number}.npy", np.full(50_000, number))
            coarse = Image.fromarray(chance.integers(0, 256, (48, 64, 3), np.uint8))
            coarse.resize((500, 375)).save(work / f"{number}.jpeg", quality=95)
        for epoch in EPOCHS:
            found = [in_turns(work, epoch, turns or epoch.turns, number) for number in range(rounds)]
            taken = {kind: np.array([each[kind] for each in found]) for kind in found[0]}
            plain = taken["none"]
            for kind, times in taken.items():
                more_ms = times - plain
                drawn = more_ms[chance.integers(0, rounds, (1000, rounds))]
                more, error = np.median(more_ms), np.median(drawn, axis=(1, 2)).std()
                figures = np.median(times), more, error, 100 * more / np.median(plain)
                shown = (round(float(figure), 2) for figure in figures)
                table.add(epoch.content, epoch.samples, epoch.batch, kind, *shown)
    table.finish()


def in_turns(work: Path, epoch: Epoch, turns: int, number: int) -> dict[str, list[float]]:
    """The CPU times of the epochs of each kind of capture in one round, ms, in the order of the turns."""
    chance = random.Random(number)
    kinds = list(KINDS)
    with ExitStack() as stack:
        running = {}
        for kind in chance.sample(kinds, len(kinds)):
            more = KINDS[kind]
            what = [epoch.content, str(epoch.samples), str(epoch.batch)]
            command = [sys.executable, "-c", _EPOCHS, str(work), *what]
            if more is not None:
                trace = str(work / f"{'-'.join(what)}-{number}-{kinds.index(kind)}.trace")
                command = [sys.executable, "-m", "tracekit", "capture", "-o", trace, *more, "--", *command]
            running[kind] = stack.enter_context(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, **_MEMORY},
                )
            )
        for process in running.values():
            answer_of(process)
        taken: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(turns):
            for kind in chance.sample(kinds, len(kinds)):
                process = running[kind]
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
                taken[kind].append(float(answer_of(process)))
        return taken


def answer_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    if not (line := process.stdout.readline()):
        raise SystemExit("a program under measurement has ended")
    return line


def compare(name: str, runs: int) -> list[tuple[object, ...]]:
    """The rows of one program."""
    python = name in programs.PYTHON
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        plain = least([timed(work, name) for _ in range(runs)])
        truth, _, _slow = recorded(work, name, "strace", 1)
        found = []
        for engine in ENGINES:
            if engine == "hooks" and not python:
                continue
            try:
                choose_engine(engine)
            except UsageError as error:
                print(f"{engine}: {error}")
                continue
            rows, result, took = recorded(work, name, engine, runs)
            found.append(row_of(name, engine, truth, rows, result, plain, took))
        return found


def timed(work: Path, name: str) -> Times:
    """The times of a program without a capture."""
    where, out = fresh(work, name), work / "time"
    subprocess.run(timer(out, name), cwd=where, check=True, stderr=subprocess.DEVNULL)
    return times_in(out)


def times_in(out: Path) -> Times:
    cpu, wall = map(float, out.read_text().split())
    return cpu, wall


def least(times: list[Times]) -> Times:
    return min(cpu for cpu, _ in times), min(wall for _, wall in times)


def timer(out: Path, name: str) -> list[str]:
    """The command that runs a program and writes how long it took."""
    return [sys.executable, "-S", "-c", _TIMER, str(out), *programs.ALL[name]]


def recorded(work: Path, name: str, engine: str, runs: int) -> tuple[list[dict[str, Any]], Any, Times]:
    """The reads and writes of a program under an engine, the result of the capture, and its least times.

    The time is that of the command alone, as it measures itself: the conversion of the logs comes after its end.
    """
    times = []
    here = Path.cwd()
    for _ in range(runs):
        where = fresh(work, name)
        out = work / "time"
        os.chdir(where)
        try:
            result = run(
                timer(out, name),
                work / "run.trace",
                method=engine,
                hooks="auto,files",
                include=[f"{where}/*"],
                overwrite=True,
            )
        finally:
            os.chdir(here)
        if result.exit_code:
            raise SystemExit(f"{name} under {engine}: exit code {result.exit_code}")
        times.append(times_in(out))
    has_fault = "fault" in open_reader(work / "run.trace").columns
    rows = open_reader(work / "run.trace").query(
        "SELECT uri, op, \"offset\" AS place, bytes, sample_id, step FROM ops WHERE op IN ('read', 'write', 'put', 'get')"
        + (" AND fault IS NULL" if has_fault else "")
    )
    return rows.to_pylist(), result, least(times)


_TIMER = """
import resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.call(sys.argv[2:], stdout=subprocess.DEVNULL)
wall = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as out:
    out.write(f"{used.ru_utime + used.ru_stime} {wall}")
sys.exit(code)
"""


def fresh(work: Path, name: str) -> Path:
    where = work / "files"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    programs.prepare(where, name)
    return where


def row_of(
    name: str,
    engine: str,
    truth: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    result: Any,
    plain: Times,
    took: Times,
) -> tuple[object, ...]:
    wanted, seen = ops(truth), ops(rows)
    same = (wanted & seen).total()
    moved_wanted, moved_seen = moved(truth), moved(rows)
    reads = [row for row in rows if row["op"] in ("read", "get")]
    known = [row for row in reads if row["sample_id"] is not None or row["step"] is not None]
    share = None if result.completeness is None else result.completeness.share
    return (
        name, engine, wanted.total(), ratio(same, wanted.total()),
        ratio((moved_wanted & moved_seen).total(), moved_wanted.total()), ratio(*same_places(truth, rows)),
        ratio(len(known), len(reads)) if name in programs.WITH_LINEAGE else "", "" if share is None else round(share, 4),
        round(took[0] / plain[0], 3), round(took[1] / plain[1], 3),
    )  # fmt: skip


def file_and_direction(row: dict[str, Any]) -> tuple[str, str]:
    file = _TEMPORARY.sub("", row["uri"].partition("/files/")[2])
    return file, "read" if row["op"] in ("read", "get") else "write"


def ops(rows: list[dict[str, Any]]) -> Counter[tuple[object, ...]]:
    """Reads and writes by file, direction and bytes."""
    return Counter((*file_and_direction(row), row["bytes"]) for row in rows)


def moved(rows: list[dict[str, Any]]) -> Counter[tuple[object, ...]]:
    """Bytes by file and direction."""
    found: Counter[tuple[object, ...]] = Counter()
    for row in rows:
        found[file_and_direction(row)] += row["bytes"] or 0
    return found


def same_places(truth: list[dict[str, Any]], rows: list[dict[str, Any]]) -> tuple[int, int]:
    """How many of strace's ops that have an offset were recorded at it, and at any."""
    placed = [row for row in truth if row["place"] is not None]
    wanted, seen = (
        Counter((*file_and_direction(row), row["bytes"], row["place"]) for row in part)
        for part in (placed, rows)
    )
    return (wanted & seen).total(), (ops(placed) & ops(rows)).total()


def ratio(part: int, whole: int) -> object:
    return round(part / whole, 4) if whole else ""


def as_markdown() -> str:
    """The CSV file as the table of the page: one line a program, the shares of each engine."""
    with (RESULTS / "capture_matrix.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    engines = [engine for engine in ENGINES if engine != "strace"]
    heads = [
        "program",
        "ops",
        *(f"`{engine}`" for engine in engines),
        "samples known",
        "cost",
    ]
    lines = [heads, ["---"] * len(heads)]
    for name in dict.fromkeys(row["program"] for row in rows):
        of = {row["engine"]: row for row in rows if row["program"] == name}
        known = [
            f"`{engine}` {float(row['lineage_share']):.0%}"
            for engine, row in of.items()
            if row["lineage_share"]
        ]
        lines.append([
            name, f"{int(next(iter(of.values()))['strace_ops']):,}", *(_shares(of.get(engine)) for engine in engines),
            ", ".join(known) or "-", _cost(of),
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cost(of: dict[str, dict[str, str]]) -> str:
    told = [f"`{name}` {float(row['cpu_ratio']):.2f}x" for name, row in of.items() if name != "strace"]
    return ", ".join(told)


def _shares(row: dict[str, str] | None) -> str:
    """Ops, bytes and offsets in percent: one figure if they agree."""
    if row is None or not row["ops_share"]:
        return "-"
    ops_, bytes_, places = (row[name] for name in ("ops_share", "bytes_share", "offsets_share"))
    told = [f"{float(value):.0%}" if value else "-" for value in (ops_, bytes_, places)]
    return told[0] if len(set(told)) == 1 else " / ".join(told)


if __name__ == "__main__":
    main()
