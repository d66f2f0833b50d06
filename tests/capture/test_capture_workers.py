"""Worker processes of every start method keep all their ops."""

import multiprocessing
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

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
