"""Compare what the capture engines see of real programs with what strace sees, and what they cost.

Each program runs in a fresh folder with the same input: without a capture, under strace, and under each other engine.
The share of ops and of bytes is that of strace's reads and writes that the engine recorded too: of the same file, in the
same direction, with as many bytes. Offsets are the share of those ops whose offset is the same. Reads of memory maps are
left out here: strace does not see them. The cost is the fastest run of a few, divided by the fastest without a capture.

    python analysis/benchmarks/bench_capture.py [--quick] [PROGRAM ...]

`--quick` runs each once. The table of docs/capture.md is made from the CSV file by `--page docs/capture.md`.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "capture"))
import programs
from results import RESULTS, Table

from tracekit.capture import run
from tracekit.capture.engines import choose_engine
from tracekit.errors import UsageError
from tracekit.store.reader import open_reader

ENGINES = ("native", "dftracer", "strace", "hooks")
COLUMNS = ["program", "engine", "strace_ops", "ops_share", "bytes_share", "offsets_share", "lineage_share", "completeness",
           "time_ratio", "cost_us_per_op", "note"]  # fmt: skip
_TEMPORARY = re.compile(r"tmp_(obj|pack|idx|rev|mtimes)_\w+|(?<=pack-)[0-9a-f]{40}")
_PLACE = re.compile(r"(<!-- capture matrix -->\n).*?(<!-- end of the matrix -->)", re.DOTALL)
Ops = Counter[tuple[str, str, int | None]]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--quick", action="store_true", help="run everything once")
    arguments.add_argument("--page", type=Path, help="only write the table of the CSV file into this page")
    arguments.add_argument("names", nargs="*", help="programs; all by default")
    given = arguments.parse_args()
    if given.page:
        given.page.write_text(
            _PLACE.sub(lambda found: f"{found[1]}\n{as_markdown()}\n\n{found[2]}", given.page.read_text())
        )
        return
    table = Table("capture_matrix", COLUMNS)
    for name in given.names or programs.ALL:
        reason = programs.missing(name)
        if reason is not None:
            print(f"{name}: {reason}")
            continue
        for row in compare(name, 1 if given.quick else 3):
            table.add(*row)
            print(*row)
    table.finish(saved=not given.names)


def compare(name: str, runs: int) -> list[tuple[object, ...]]:
    """The rows of one program."""
    python = name in programs.PYTHON
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        plain = min(timed(work, name) for _ in range(runs))
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


def timed(work: Path, name: str) -> float:
    """The time of a program without a capture."""
    where, out = fresh(work, name), work / "time"
    subprocess.run(timer(out, name), cwd=where, check=True, stderr=subprocess.DEVNULL)
    return float(out.read_text())


def timer(out: Path, name: str) -> list[str]:
    """The command that runs a program and writes the time that it took."""
    return [sys.executable, "-S", "-c", _TIMER, str(out), *programs.ALL[name]]


def recorded(work: Path, name: str, engine: str, runs: int) -> tuple[list[dict[str, Any]], Any, float]:
    """The reads and writes of a program under an engine, the result of the capture, and its fastest time.

    The time is that of the command alone, as it measures itself: the conversion of the logs comes after its end.
    """
    best = float("inf")
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
        best = min(best, float(out.read_text()))
    has_fault = "fault" in open_reader(work / "run.trace").columns
    rows = open_reader(work / "run.trace").query(
        "SELECT uri, op, \"offset\" AS place, bytes, sample_id, step FROM ops WHERE op IN ('read', 'write', 'put', 'get')"
        + (" AND fault IS NULL" if has_fault else "")
    )
    return rows.to_pylist(), result, best


_TIMER = """
import subprocess, sys, time
began = time.perf_counter()
code = subprocess.call(sys.argv[2:], stdout=subprocess.DEVNULL)
open(sys.argv[1], "w").write(str(time.perf_counter() - began))
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
    plain: float,
    took: float,
) -> tuple[object, ...]:
    wanted, seen = ops(truth), ops(rows)
    same = (wanted & seen).total()
    placed = (ops(truth, places=True) & ops(rows, places=True)).total()
    bytes_wanted = sum(n * (size or 0) for (_, _, size), n in wanted.items())
    bytes_same = sum(n * (size or 0) for (_, _, size), n in (wanted & seen).items())
    known = [row for row in rows if row["sample_id"] is not None or row["step"] is not None]
    share = None if result.completeness is None else result.completeness.share
    return (
        name, engine, wanted.total(), ratio(same, wanted.total()), ratio(bytes_same, bytes_wanted), ratio(placed, same),
        ratio(len(known), len(rows)) if name in programs.WITH_LINEAGE else "", "" if share is None else round(share, 4),
        round(took / plain, 3), round((took - plain) * 1e6 / max(wanted.total(), 1), 2), "",
    )  # fmt: skip


def ops(rows: list[dict[str, Any]], *, places: bool = False) -> Counter[tuple[object, ...]]:
    """Reads and writes by file, direction and bytes, with the offset if asked for."""
    found: Counter[tuple[object, ...]] = Counter()
    for row in rows:
        file = _TEMPORARY.sub("", row["uri"].partition("/files/")[2])
        kind = "read" if row["op"] in ("read", "get") else "write"
        found[(file, kind, row["place"], row["bytes"]) if places else (file, kind, row["bytes"])] += 1
    return found


def ratio(part: int, whole: int) -> object:
    return round(part / whole, 4) if whole else ""


def as_markdown() -> str:
    """The CSV file as the table of the page: one line a program, the shares of each engine."""
    with (RESULTS / "capture_matrix.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    engines = [
        engine for engine in ENGINES if engine != "strace" and any(row["engine"] == engine for row in rows)
    ]
    lines = [
        "| program | ops | "
        + " | ".join(f"`{engine}`" for engine in engines)
        + " | samples | time under `native` | `strace` |",
        "| --- | --- | " + " | ".join("---" for _ in engines) + " | --- | --- | --- |",
    ]
    for name in dict.fromkeys(row["program"] for row in rows):
        of = {row["engine"]: row for row in rows if row["program"] == name}
        shares = [_shares(of.get(engine)) for engine in engines]
        times = [
            f"{float(of[engine]['time_ratio']):.2f}x" if engine in of else "-"
            for engine in ("native", "strace")
        ]
        lineage = [
            f"`{engine}` {float(row['lineage_share']):.0%}"
            for engine, row in of.items()
            if row["lineage_share"]
        ]
        ops_ = f"{int(next(iter(of.values()))['strace_ops']):,}"
        lines.append(
            f"| {name} | {ops_} | {' | '.join(shares)} | {', '.join(lineage) or '-'} | {' | '.join(times)} |"
        )
    costs = [float(row["cost_us_per_op"]) for row in rows if row["engine"] == "strace"]
    if costs:
        lines.append("")
        lines.append(f"Median cost an op under strace, of these programs: {statistics.median(costs):.0f} us.")
    return "\n".join(lines)


def _shares(row: dict[str, str] | None) -> str:
    """Ops, bytes and offsets in percent: one figure if they agree."""
    if row is None or not row["ops_share"]:
        return "-"
    ops_, bytes_, places = (row[name] for name in ("ops_share", "bytes_share", "offsets_share"))
    told = [f"{float(value):.0%}" if value else "-" for value in (ops_, bytes_, places)]
    return told[0] if len(set(told)) == 1 else " / ".join(told)


if __name__ == "__main__":
    main()
