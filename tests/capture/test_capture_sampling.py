"""`sample_rate`: whole files and objects by a hash of their names, and what the metrics make of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tracekit import capture
from tracekit.capture.environment import environment, with_bootstrap
from tracekit.capture.filters import PathFilter
from tracekit.errors import UsageError
from tracekit.metrics.snapshot import MetricsSnapshot, snapshot
from tracekit.recorder import Recorder
from tracekit.store.reader import open_reader

READER = """
import sys
for name in sys.argv[1:]:
    with open(name, "rb", buffering=0) as file:
        while file.read(1000):
            pass
"""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "data"
    folder.mkdir()
    made = [folder / f"{i:03d}.bin" for i in range(60)]
    for i, path in enumerate(made):
        path.write_bytes(bytes(100 * (i + 1)))
    return made


def by_file(trace: Path) -> dict[str, tuple[int, int]]:
    found = open_reader(trace).query("SELECT uri, count(*) AS n, sum(bytes) AS b FROM ops GROUP BY uri")
    return {row["uri"]: (row["n"], row["b"]) for row in found.to_pylist()}


def test_a_hash_chooses_the_share_of_names() -> None:
    for rate in (0.01, 0.3, 0.9):
        paths = PathFilter(sample_rate=rate)
        kept = sum(paths.admits(f"s3://bucket/key-{i}") for i in range(20_000))
        assert abs(kept - 20_000 * rate) < 4 * (20_000 * rate * (1 - rate)) ** 0.5
    small, large = (PathFilter(sample_rate=rate) for rate in (0.1, 0.2))
    assert all(large.admits(uri) for i in range(1000) if small.admits(uri := f"file:///data/{i}"))
    assert PathFilter(sample_rate=0.1).admits("app+s3://b/k") == PathFilter(sample_rate=0.1).admits(
        "s3://b/k"
    )


def test_files_are_recorded_whole_or_not_and_every_process_chooses_the_same(
    files: list[Path], trace: Path, tmp_path: Path
) -> None:
    chosen = {
        f"file://{path}": (
            path.stat().st_size // 1000 + 2 - (path.stat().st_size % 1000 == 0),
            path.stat().st_size,
        )
        for path in files
        if PathFilter(sample_rate=0.4).admits(f"file://{path}")
    }
    assert 0 < len(chosen) < len(files)
    with capture.start(trace, hooks="files", sample_rate=0.4):
        for path in files:
            with path.open("rb", buffering=0) as file:
                while file.read(1000):
                    pass
    assert by_file(trace) == chosen
    below = tmp_path / "below.trace"
    result = capture.run([sys.executable, "-c", READER, *map(str, files)], below, sample_rate=0.4)
    assert by_file(below) == chosen
    assert result.completeness is None or result.completeness.share == 1.0
    hooked = tmp_path / "hooked.trace"
    command = [sys.executable, "-c", READER, *map(str, files)]
    capture.run(command, hooked, sample_rate=0.4, method="hooks", hooks="files")
    assert by_file(hooked) == chosen


def recorded(trace: Path, uris: dict[str, int], rate: Any) -> MetricsSnapshot:
    kept = PathFilter(sample_rate=rate)
    with Recorder(trace, source="capture", options={"sample_rate": rate}) as recorder:
        for uri, size in uris.items():
            if kept.admits(uri):
                for part in range(3):
                    recorder.record(
                        uri, part * size, size, 0, 1, bytes=size, op="write" if part == 2 else "read"
                    )
    return snapshot(open_reader(trace))


def test_the_metrics_estimate_the_whole_run_with_its_error(trace: Path) -> None:
    uris = {f"s3://bucket/{i}": 1 + i % 977 for i in range(8000)}
    found = recorded(trace, uris, 0.25)
    assert found.estimates is not None
    truth = {
        "ops": 3 * len(uris), "bytes": 3 * sum(uris.values()), "read_ops": 2 * len(uris), "write_ops": len(uris),
        "read_bytes": 2 * sum(uris.values()), "write_bytes": sum(uris.values()), "files": len(uris),
    }  # fmt: skip
    for name, value in truth.items():
        estimate, error = found.estimates[name], found.estimates[f"{name}_standard_error"]
        assert estimate is not None and error is not None
        assert abs(estimate - value) < 4 * error < value / 5, name
    paths = PathFilter(sample_rate=0.25)
    kept = [size for uri, size in uris.items() if paths.admits(uri)]
    assert found.estimates["write_bytes"] == sum(kept) / 0.25
    assert found.estimates["write_bytes_standard_error"] == pytest.approx(
        (0.75 * sum(size * size for size in kept)) ** 0.5 / 0.25
    )
    assert found.ops == 3 * len(kept)  # the figures of the rows stay those of the rows
    assert MetricsSnapshot.from_dict(found.to_dict()).estimates == found.estimates
    assert "estimates.bytes_standard_error" in found.to_csv()


def test_a_whole_trace_has_no_estimates(trace: Path) -> None:
    assert recorded(trace, {"s3://b/k": 5}, 1.0).estimates is None


def test_parts_with_other_rates_have_no_estimates(trace: Path) -> None:
    for rate in (0.5, 0.25):
        found = recorded(trace, {f"s3://b/{rate}-{i}": 5 for i in range(50)}, rate)
    assert found.estimates is None


@pytest.mark.parametrize("rate", [0, -0.5, 1.5, "half", True])
def test_what_is_no_share_is_refused(rate: Any, trace: Path) -> None:
    with pytest.raises(UsageError, match="sample_rate"):
        capture.start(trace, sample_rate=rate)
    with pytest.raises(UsageError, match="sample_rate"):
        capture.run(["true"], trace, sample_rate=rate)


def test_streams_are_recorded_whole_or_not(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(1000))
    code = f"""
import threading
def read():
    with open({str(path)!r}, "rb", buffering=0) as file:
        while file.read(100):
            pass
threads = [threading.Thread(target=read) for _ in range(20)]
[t.start() for t in threads], [t.join() for t in threads]
"""
    result = capture.run(
        [sys.executable, "-c", code],
        trace,
        sample_rate=0.5,
        sample_by="stream",
        include=[str(path)],
        hooks="",
    )
    found = open_reader(trace).query("SELECT worker, count(*) AS n FROM ops GROUP BY ALL").to_pylist()
    if result.method != "hooks":
        assert 0 < len(found) < 20  # one in a million otherwise
        assert {row["n"] for row in found} == {11}
    assert result.completeness is None or result.completeness.share == 1.0


def test_hooks_choose_streams_by_rank_and_worker(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(1000))
    code = f"open({str(path)!r}, 'rb').read()"
    paths = PathFilter().sampled(0.5, "stream")
    environ = {
        **environment(trace, ("files",), paths),
        "PYTHONPATH": with_bootstrap(os.environ.get("PYTHONPATH")),
    }
    ranks = range(6)
    for rank in ranks:
        run = [sys.executable, "-c", code]
        subprocess.run(run, env={**os.environ, **environ, "RANK": str(rank), "WORLD_SIZE": "6"}, check=True)
    kept = [rank for rank in ranks if paths.admits_stream(rank, 0)]
    found = open_reader(trace).query("SELECT DISTINCT rank FROM ops ORDER BY 1") if kept else None
    assert (found.column(0).to_pylist() if found is not None else []) == kept


def test_the_estimates_of_a_sample_of_streams_are_unbiased(trace: Path, tmp_path: Path) -> None:
    truth = sum(20 + worker % 21 for worker in range(400))
    errors: list[float] = []
    seen: list[float] = []
    for draw in range(12):
        path = tmp_path / f"{draw}.trace"
        kept = PathFilter().sampled(0.25, "stream")
        with Recorder(
            path, source="capture", options={"sample_rate": 0.25, "sample_by": "stream"}
        ) as recorder:
            recorder.count("ops_recorded", 0)
            for worker in range(400):
                if kept.admits_stream(0, worker):
                    for part in range(20 + worker % 21):
                        recorder.record(f"file:///{part}", 0, 1, 0, 1, bytes=1, worker=worker)
        estimated = snapshot(open_reader(path)).estimates
        assert estimated is not None and estimated["sample_by"] == "stream"
        assert estimated["files"] is None
        seen.append(float(estimated["ops"] or 0))
        errors.append(float(estimated["ops_standard_error"] or 0))
    mean, error = sum(seen) / len(seen), sum(errors) / len(errors) / len(seen) ** 0.5
    assert abs(mean - truth) < 5 * error < truth / 5


def test_another_word_for_what_is_sampled_is_refused(trace: Path) -> None:
    with pytest.raises(UsageError, match="sample_by"):
        capture.start(trace, sample_by="process")
