"""Recording a loader run, as a function and as the verb `tracekit record`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tracekit.cli.app import run
from tracekit.errors import BackendError, UsageError
from tracekit.loader.dataset import create_dataset
from tracekit.loader.loader import create_async_loader
from tracekit.loader.record import record
from tracekit.options import LOADER
from tracekit.recorder import Recorder
from tracekit.store.reader import open_reader
from tracekit.store.target import claiming
from tracekit.store_options import STORE


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index in range(20):
        (folder / f"{index:03}").write_bytes(os.urandom(10_000))
    return folder


def tracekit(*arguments: str | Path) -> subprocess.Popen[str]:
    code = "import sys; from tracekit.cli.app import run; sys.exit(run())"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


Finished = Callable[..., tuple[int, str, str]]


@pytest.fixture
def finished(capsys: pytest.CaptureFixture[str]) -> Finished:
    """Run a command line in this process: exit code, stdout, stderr."""

    def run_line(*arguments: str | Path) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        out, errors = capsys.readouterr()
        return code, out, errors

    return run_line


def test_a_run_is_recorded_and_summed_up(data: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None, str]] = []
    result = record(
        str(data), tmp_path / "t", {"batch_size": 8}, epochs=2, watch=lambda done, total=None, note="": seen.append((done, total, note))
    )  # fmt: skip
    trace = open_reader(tmp_path / "t")
    assert result.ops == trace.rows == 1 + 2 * 2 * 20
    assert (result.steps, result.samples, result.sample_bytes, result.interrupted) == (6, 40, 400_000, False)
    assert [(done, total) for done, total, _ in seen] == [(step, 6) for step in range(1, 7)]
    assert trace.query("SELECT max(step) AS x FROM ops")["x"][0].as_py() == 5


def test_steps_end_a_run_early_and_step_time_spaces_it_out(data: Path, tmp_path: Path) -> None:
    result = record(
        str(data), tmp_path / "t", {"batch_size": 2, "loading_mode": "sequential"}, steps=3, step_time=50_000_000
    )  # fmt: skip
    assert (result.steps, result.samples) == (3, 6)
    starts = open_reader(tmp_path / "t").query(
        "SELECT min(t_submit) AS x FROM ops WHERE step IS NOT NULL GROUP BY step ORDER BY step"
    )["x"].to_pylist()  # fmt: skip
    assert len(starts) == 3
    assert all(after - before >= 50_000_000 for before, after in pairwise(starts))


def test_ranks_join_one_trace(data: Path, tmp_path: Path) -> None:
    for rank in range(2):
        record(str(data), tmp_path / "t", {"shard_rank": rank, "shard_world_size": 2}, join=True)
    rows = open_reader(tmp_path / "t").query(
        "SELECT rank, count(*) AS n FROM ops WHERE op = 'read' GROUP BY rank ORDER BY rank"
    )
    assert rows.to_pylist() == [{"rank": 0, "n": 10}, {"rank": 1, "n": 10}]


def test_an_existing_trace_is_replaced_only_with_overwrite_and_only_by_a_run(
    data: Path, tmp_path: Path
) -> None:
    target = tmp_path / "t"
    record(str(data), target)
    first = open_reader(target).trace_id
    with pytest.raises(UsageError, match="exists"):
        record(str(data), target)
    with pytest.raises(BackendError):
        record(str(data / "missing"), target, overwrite=True)
    assert open_reader(target).trace_id == first
    record(str(data), target, overwrite=True)
    assert open_reader(target).trace_id != first
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_run_that_fails_to_start_leaves_no_trace(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError):
        record(str(data / "missing"), tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_of_several_runs_that_begin_at_one_path_one_gets_it(
    data: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    runs = [
        tracekit("record", str(data), "-o", tmp_path / "t", *flags, "--epochs", "2", "--json")
        for _ in range(3)
    ]
    ended = [(*run.communicate(timeout=200), run.returncode) for run in runs]
    for out, errors, code in ended:
        assert code == 0 or (code, errors.count("\n"), json.loads(out)["error"]["exit_code"]) == (2, 1, 2), (
            errors
        )
    kept = [json.loads(out)["ops"] for out, _, code in ended if code == 0]
    assert len(kept) == 1 or flags  # with --overwrite, a later run may replace one that has ended
    assert open_reader(tmp_path / "t").rows in kept
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_a_path_that_another_process_has_claimed_is_refused_and_a_failed_claim_leaves_nothing(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError), claiming(tmp_path / "t", overwrite=False):
        with pytest.raises(UsageError, match="exists"):
            record(str(data), tmp_path / "t")
        with pytest.raises(UsageError, match="is being recorded"):
            record(str(data), tmp_path / "t", overwrite=True)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_verb_records_with_every_option_as_a_flag(finished: Finished, data: Path, tmp_path: Path) -> None:
    code, _, errors = finished("record", "--help")
    assert code == 0, errors
    plain = {"shuffle": True, "drop_last": True, "reader_mode": "range", "batch_size": 4, "num_workers": 2}
    plain |= {"prefetch": 3, "seed": 9, "loading_mode": "async_pool", "target_request_bytes": "4KiB"}
    plain |= {"max_bytes_in_flight": "64KiB", "page_cache_mode": "fadvise_random", "sample_bytes": "5000"}
    plain |= {"random_index_mode": "zipfian", "zipf_theta": 1.1, "shard_rank": 1, "shard_world_size": 2}
    plain |= {"shard_mode": "pad", "on_error": "skip", "reshuffle_hot_set": True}
    flags: list[str] = []
    for name, value in plain.items():
        flags += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    code, out, errors = finished("record", data, "-o", tmp_path / "t", "--json", *flags)
    assert code == 0, errors
    result = json.loads(out)
    trace = open_reader(tmp_path / "t")
    assert result["ops"] == trace.rows
    sizes = {"target_request_bytes": 4096, "max_bytes_in_flight": 65_536, "sample_bytes": 5000}
    assert trace.options | plain | sizes == trace.options
    assert set(plain) | set(STORE) == set(LOADER)


def test_the_verb_takes_a_profile_and_options_over_it(finished: Finished, data: Path, tmp_path: Path) -> None:
    code, out, errors = finished(
        "record",
        data,
        "-o",
        tmp_path / "t",
        "--profile",
        "webdataset",
        "--shuffle=5",
        "--target-request-bytes",
        "none",
    )
    assert code == 0, errors
    assert "20 samples" in out
    options = open_reader(tmp_path / "t").options
    assert (options["shuffle"], options["sample_bytes"], options["target_request_bytes"]) == (
        5,
        131_072,
        None,
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--reader-mode", "rnage"], "did you mean range?"),
        (["--profile", "pytorch"], "did you mean torch?"),
        (["--batch-siz", "3"], "--batch-size"),
        (["--max-bytes-in-flight", "much"], "--max-bytes-in-flight 'much' is not valid"),
        (["--shuffle=1"], "--shuffle '1' is not valid"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(
    finished: Finished, data: Path, tmp_path: Path, flags: list[str], said: str
) -> None:
    code, out, errors = finished("record", data, "-o", tmp_path / "t", *flags)
    assert (code, out) == (2, "")
    assert said in errors
    assert len(errors.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_a_readable_trace_says_so_and_exits_130(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "t"
    child = tracekit(
        "record", data, "-o", target, "--epochs", "100000", "--batch-size", "2", "--step-time", "5ms"
    )
    while child.poll() is None and not any(target.glob(".*.journal")):
        time.sleep(0.05)
    # The listing is the first row: only the reads after it tell that the run has begun.
    while child.poll() is None and open_reader(target).rows < 2:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert "interrupted" in out
    assert str(target) in out.replace("\n", "")
    trace = open_reader(target)
    assert trace.rows > 0
    assert not any(segment.journal for segment in trace.segments)
    done = trace.query("SELECT count(*) AS n FROM ops WHERE error IS NOT NULL")["n"][0].as_py()
    assert done == 0


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_trace_that_would_be_read_as_a_sample_is_refused(data: Path, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.bin").write_bytes(b"x")
    with pytest.raises(UsageError, match="would be among the samples"):
        record(f"{scheme}{tmp_path / 'train'}", tmp_path / "train" / "run.trace")
    assert [entry.name for entry in (tmp_path / "train").iterdir()] == ["0.bin"]
    record(f"{scheme}{tmp_path / 'train' / '*.bin'}", tmp_path / "train" / "run.trace")
    assert open_reader(tmp_path / "train" / "run.trace").rows == 3


def test_counters_of_several_loaders_and_epochs_add_up_in_one_recorder(data: Path, tmp_path: Path) -> None:
    with Recorder(tmp_path / "t") as recorder:
        for mode in ("dontneed", "fadvise_random"):
            with create_async_loader(data.as_posix(), page_cache_mode=mode, recorder=recorder) as loader:
                for _ in range(2):
                    for _ in loader:
                        pass
    trace = open_reader(tmp_path / "t")
    (hints,) = trace.query("SELECT count(*) FROM ops WHERE op = 'hint'").column(0).to_pylist()
    assert trace.counters["hints_applied"] == hints == 2 * 2 * 20 + 2 * 20


def test_a_sample_size_beyond_any_object_is_one_sample_an_object(data: Path) -> None:
    with create_dataset(data.as_posix(), sample_bytes=10**30) as dataset:
        assert len(dataset) == 20


def test_more_workers_than_the_system_allows_is_reported_in_one_line(data: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", MANY_WORKERS, str(data), str(tmp_path / "t")], capture_output=True, text=True,
        timeout=100,
    )  # fmt: skip
    assert run.returncode == 2, run.stderr
    assert run.stderr.count("\n") == 1
    assert "--num-workers 2000" in run.stderr


MANY_WORKERS = """
import resource, sys, threading
from tracekit.cli.app import run
threading.stack_size(64 << 20)
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 30), used + (16 << 30)))
sys.exit(run(["record", sys.argv[1], "-o", sys.argv[2], "--num-workers", "2000"]))
"""


def test_an_empty_uri_is_not_the_current_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="empty URI"):
        record("", tmp_path / "t")
    assert not (tmp_path / "t").exists()
