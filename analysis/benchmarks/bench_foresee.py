"""Does closed pacing predict? Loaders recorded on one target, predicted for another, and really run there.

Each loader shape is recorded on a fast target (cached files) and predicted for three slow ones (see
`slow_target`), and recorded on the constant slow one and predicted for the fast one. `replay` is a
closed replay of the recording on the target, `model` the same in virtual time, where each request takes
as long as it took in the real run there. Errors are of the duration, from the first submit to the last
end, against the real run. Figures are medians over rounds (`--rounds N`, default 3). `--only TEXT`
measures the rows alone whose loader or target contains TEXT (repeatable: all of them) and saves nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results import Table

import tracekit

HERE = Path(__file__).resolve().parent
THINK_S = 0.015
FILES = 960
LOADERS: dict[str, list[str]] = {
    "1 worker": ["--num-workers", "1", "--batch-size", "8"],
    "4 workers, prefetch 2": ["--num-workers", "4", "--batch-size", "16"],
    "4 workers, asked only": ["--num-workers", "4", "--batch-size", "16", "--loading-mode", "sequential"],
    "async pool of 4": ["--num-workers", "4", "--batch-size", "16", "--loading-mode", "async_pool"],
    "range, 8 workers": ["--num-workers", "8", "--batch-size", "16", "--reader-mode", "range"],
    "16 workers, prefetch 4": ["--num-workers", "16", "--prefetch", "4", "--batch-size", "32"],
    "8 workers, cap 2 MiB": ["--num-workers", "8", "--batch-size", "16", "--max-bytes-in-flight", "2MiB"],
    "sequential shards": ["--profile", "webdataset", "--batch-size", "32"],
}
TORCH = {"torch, 0 workers": 0, "torch, 2 workers": 2, "torch, 8 workers": 8}
PAIRS = [("fast", "constant"), ("fast", "tail"), ("fast", "serial"), ("constant", "fast")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", default=[], metavar="TEXT")
    given = parser.parse_args()
    rounds = given.rounds
    shapes: dict[str, list[str] | int] = {**LOADERS}
    if importlib.util.find_spec("torch"):
        shapes |= TORCH
    columns = ["loader", "recorded on", "target", "recorded s", "real s", "replay %", "model %", "rule"]
    table = Table("foresee", columns)
    errors: dict[str, list[float]] = {"replay": [], "model": []}
    with tempfile.TemporaryDirectory(prefix="bench-foresee-") as name:
        data = make_data(Path(name))
        for shape, how in shapes.items():
            for source, target in PAIRS:
                if not all(text in f"{shape} {source}->{target}" for text in given.only):
                    continue
                found = [measure(data, shape, how, source, target) for _ in range(rounds)]
                recorded, real, replayed, modelled = (
                    statistics.median(values) for values in zip(*[row[:4] for row in found], strict=True)
                )
                off = {"replay": (replayed / real - 1) * 100, "model": (modelled / real - 1) * 100}
                for kind, error in off.items():
                    errors[kind].append(abs(error))
                table.add(shape, source, target, recorded, real, off["replay"], off["model"], found[0][4])
    for kind, values in errors.items():
        print(f"{kind}: mean error {statistics.mean(values):.1f} %, worst {max(values):.1f} %")
    table.finish(saved=not given.only)


def make_data(folder: Path) -> Path:
    """Files of 70 to 350 kB."""
    (folder / "data").mkdir()
    for i in range(FILES):
        (folder / "data" / f"{i:04}").write_bytes(os.urandom((i * 7 % 5 + 1) * 70_000))
    return folder / "data"


def measure(
    data: Path, shape: str, how: list[str] | int, source: str, target: str
) -> tuple[float, float, float, float, str]:
    """(recorded, real, replayed, modelled: seconds; the rule)."""
    with tempfile.TemporaryDirectory(dir=data.parent) as name:
        recording, real, again = (Path(name, part) for part in ("recorded", "real", "again"))
        run(source, data, recording, how)
        run(target, data, real, how)
        on(target, "tracekit", "replay", str(recording), "--pace", "closed", "-o", str(again), checked=False)
        modelled, rule = model(recording, real)
        return seconds(recording), seconds(real), seconds(again), modelled, rule


def run(target: str, data: Path, out: Path, how: list[str] | int) -> None:
    """Record a loader on a target."""
    if isinstance(how, int):
        on(target, str(HERE / "torch_epochs.py"), str(data), str(out), str(how), str(THINK_S))
    else:
        shuffled = [] if "webdataset" in how else ["--shuffle"]
        paced = ["--step-time", f"{THINK_S * 1000:.0f}ms", *shuffled]
        on(target, "tracekit", "record", str(data), "-o", str(out), *paced, *how)


def on(target: str, *command: str, checked: bool = True) -> None:
    """Run a command on a target; a failed parity check is no failure here."""
    done = subprocess.run(
        [sys.executable, str(HERE / "slow_target.py"), target, *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and (checked or done.returncode != 1):
        sys.exit(f"{' '.join(command)}: {done.stderr or done.stdout}")


def model(recording: Path, real: Path) -> tuple[float, str]:
    """The duration in virtual time, each request taking what it took in the real run; and the rule."""
    from tracekit.replayer.loader_model import model_for
    from tracekit.replayer.mapping import MappingRules
    from tracekit.replayer.options import ReplayOptions
    from tracekit.replayer.pacing import closed_pacer
    from tracekit.replayer.planning import build_plan
    from tracekit.replayer.predict import predict_duration
    from tracekit.store.reader import open_reader

    reader = open_reader(recording)
    plan = build_plan(reader, MappingRules(), ReplayOptions(pace="closed"))
    rule = model_for(plan, "auto", reader.counters, reader.options)
    took = defaultdict(list)
    query = "SELECT uri, \"offset\", latency FROM ops WHERE op IN ('read', 'get') ORDER BY t_submit"
    for row in tracekit.open_trace(real).query(query).to_pylist():
        took[row["uri"], row["offset"]].append(row["latency"])
    offsets, files, times = plan.column("offset"), plan.column("file"), []
    for op in range(plan.ops):
        times.append(took[plan.uris[files[op]], int(offsets[op])].pop(0))
    pacer = closed_pacer(plan, speed=1.0, model=rule)
    duration = predict_duration(pacer, times.__getitem__)
    return duration / 1e9, "stream by stream" if rule is None else rule.describe()


def seconds(trace: Path) -> float:
    """From the first submit to the last end of the reads."""
    query = "SELECT max(t_submit + latency) - min(t_submit) AS ns FROM ops WHERE op IN ('read', 'get')"
    return float(tracekit.open_trace(trace).query(query).column("ns")[0].as_py()) / 1e9


if __name__ == "__main__":
    main()
