"""Does a closed replay foretell? A loader recorded on direct://, replayed closed on cached file://, and really run there.

The consumer thinks for 5 ms a batch. Once with the loader's reads in the consumer's own
time (`sequential`), once with prefetching workers. The error is of the replay's duration
against the real run's; rounds are interleaved and the median is shown.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results import Table

from tracekit.loader.loader import create_async_loader
from tracekit.loader.options import LoaderOptions
from tracekit.recorder import Recorder
from tracekit.replayer.run import replay
from tracekit.store.reader import open_reader

FILES, FILE_BYTES, THINK_S, ROUNDS = 64, 8 << 20, 0.005, 5


def main() -> None:
    table = Table(
        "foresee",
        ["loader", "direct:// s", "foretold s", "really s", "error %", "step foretold ms", "step really ms"],
    )
    with tempfile.TemporaryDirectory(prefix="bench-foresee-") as name:
        folder = Path(name)
        (folder / "data").mkdir()
        for i in range(FILES):
            (folder / "data" / f"{i:03}").write_bytes(os.urandom(FILE_BYTES))
        for mode in ("sequential", "prefetch"):
            found = [one(folder, mode) for _ in range(ROUNDS)]
            direct, foretold, really, steps = (
                statistics.median(values) for values in zip(*found, strict=True)
            )
            error = abs(foretold / really - 1) * 100
            table.add(mode, direct, foretold, really, error, foretold * 1e3 / steps, really * 1e3 / steps)
    table.finish()


def one(folder: Path, mode: str) -> tuple[float, float, float, float]:
    """(recorded on direct, foretold for file, run on file: seconds; steps)."""
    options = LoaderOptions(
        batch_size=1, loading_mode=mode, num_workers=2, prefetch=2, target_request_bytes=1 << 20, shuffle=True
    )
    recorded, steps = run(folder, f"direct://{folder}/data", options)
    warm = f"direct://{folder}=file://{folder}"
    result = replay(recorded, mapping=warm, pace="closed", warm=True, tolerance=1e9)
    real, _ = run(folder, f"file://{folder}/data", options)
    return span(recorded), (result.parity.row("duration_ns").b or 0) / 1e9, span(real), float(steps)


def run(folder: Path, uri: str, options: LoaderOptions) -> tuple[Path, int]:
    out = folder / f"{time.monotonic_ns()}.trace"
    steps = 0
    with Recorder(out) as recorder:
        for _ in create_async_loader(uri, options, recorder=recorder):
            time.sleep(THINK_S)
            steps += 1
    return out, steps


def span(trace: Path) -> float:
    """First submit to last end, seconds: what parity calls duration."""
    query = "SELECT max(t_submit + latency) - min(t_submit) AS ns FROM ops WHERE op IN ('read', 'get')"
    return float(open_reader(trace).query(query).column("ns")[0].as_py()) / 1e9


if __name__ == "__main__":
    main()
