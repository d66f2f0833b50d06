"""Worker processes of every start method keep all their ops."""

import multiprocessing
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from tracekit.capture.command import capture_command
from tracekit.capture.oplog import OpLog, read_oplog
from tracekit.errors import ErrorClass
from tracekit.store.reader import open_reader

METHODS = [
    name for name in ("fork", "spawn", "forkserver") if name in multiprocessing.get_all_start_methods()
]


def capture_script(folder: Path, program: str, *arguments: str) -> int:
    """Capture a script that reads 100 bytes of x.bin at a time; return how many such reads were recorded."""
    (folder / "x.bin").write_bytes(bytes(10_000))
    (folder / "job.py").write_text(textwrap.dedent(program))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tracekit", "capture", "-o", "run.trace", "--method", "hooks"),
            *("--hooks", "files", "--include", f"{folder}/x.bin", "--", sys.executable, "job.py", *arguments),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return len(open_reader(folder / "run.trace").query("SELECT 1 FROM ops WHERE len = 100").to_pylist())


@pytest.mark.parametrize("method", METHODS)
def test_executor_workers_keep_all_ops_when_their_module_reads_on_import(method: str, tmp_path: Path) -> None:
    program = """
        import multiprocessing, sys
        from concurrent.futures import ProcessPoolExecutor

        with open("x.bin", "rb", buffering=0) as file:
            settings = file.read(7)

        def work(k):
            with open("x.bin", "rb", buffering=0) as file:
                for _ in range(10):
                    file.read(100)
            return k

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            with ProcessPoolExecutor(2, mp_context=context) as pool:
                list(pool.map(work, range(6)))
    """
    assert capture_script(tmp_path, program, method) == 60


KEPT = """
    import multiprocessing, os, sys
    from concurrent.futures import ProcessPoolExecutor

    def work(k):
        with open({path!r}, "rb", buffering=0) as file:
            for _ in range(10):
                file.read(100)
        return os.getpid()

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        {use}
"""
USES = {
    "pool": "pool = context.Pool(2); pool.map(work, range(8), 1); pool.terminate()",
    "executor": "pool = ProcessPoolExecutor(2, context); list(pool.map(work, range(8))); [os.kill(p, 9) for p in pool._processes]; os._exit(0)",
}


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("use", USES)
def test_what_a_worker_acknowledged_is_kept_when_it_is_killed(use, start, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(10_000))
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(KEPT).format(path=str(path), use=USES[use]))
    trace = tmp_path / "run.trace"
    command = [sys.executable, str(script), start]
    capture_command(command, trace, method="hooks", hooks=["files"], include=[str(path)])
    found = open_reader(trace).query('SELECT "offset", len FROM ops').to_pylist()
    assert Counter(row["offset"] for row in found) == dict.fromkeys(range(0, 1000, 100), 8)


def test_a_log_of_ops_is_read_back_across_its_parts_and_up_to_a_torn_end(tmp_path):
    log = OpLog(tmp_path, rank=3)
    for n in range(30_000):
        log.record(
            f"s3://bucket/{'k' * 40}", n, 10, 1000 + n, 5, error=ErrorClass.TIMEOUT if n == 7 else None
        )
    log.count("retries", 2)
    log.count("retries")
    parts = list(read_oplog(log.path, ops_at_once=10_000))
    values = [value for part in parts for value in part.values]
    assert len(log.path.read_bytes()) > 2 << 20  # several parts
    assert values[3::17] == list(range(30_000))
    assert values[16 + 7 * 17] == "timeout"
    assert (parts[-1].rank, sum(part.counters.get("retries", 0) for part in parts)) == (3, 3)
    torn = tmp_path / "torn.ops"
    torn.write_bytes(log.path.read_bytes()[: 1 << 19])
    assert len([value for part in read_oplog(torn) for value in part.values]) % 17 == 0


def test_a_large_op_goes_to_a_part_that_has_room_and_what_is_no_op_is_refused(tmp_path):
    log = OpLog(tmp_path)
    for name in ("a" * 10, "b" * 300_000, "c" * 10):
        log.record(f"s3://bucket/{name}", 0, 10, 1000, 5)
    with pytest.raises(ValueError, match="an op of"):
        log.record("s3://bucket/" + "d" * (1 << 20), 0, 10, 1000, 5)
    log.count("retries")
    (part,) = read_oplog(log.path)
    assert [len(uri) - len("s3://bucket/") for uri in part.values[1::17]] == [10, 300_000, 10]
    assert part.counters == {"retries": 1}


KILLED = """
    import os, sys
    from torch.utils.data import DataLoader, Dataset

    class Numbers(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            if index == 9:
                os.kill(os.getpid(), 9)
            return index

    if __name__ == "__main__":
        try:
            loader = DataLoader(
                Numbers(), batch_size=3, num_workers=1, multiprocessing_context="fork", collate_fn=list
            )
            list(loader)
        except RuntimeError:
            sys.exit(0)
        sys.exit("the worker was not killed")
"""


@pytest.mark.parametrize("method, keep", [("hooks", None), ("native", None), ("native", "1GiB")])
def test_a_killed_worker_of_a_loader_keeps_the_counts_of_the_batches_that_it_fetched(method, keep, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(KILLED))
    trace = tmp_path / "run.trace"
    result = capture_command([sys.executable, str(script)], trace, method=method, hooks=["torch"], keep=keep)
    assert result.exit_code == 0
    counters = open_reader(trace).counters
    assert (counters["loader_fetches"], counters["loader_pickups"]) == (3, 2)
