"""A replay within the limits of its process: open files, memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracekit.errors import UsageError
from tracekit.replayer.run import replay
from tracekit.store.check import verify
from tracekit.store.reader import open_reader

FEW_FILES = """
import resource, sys
import tracekit
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
trace, out, mode, threads = sys.argv[1:]
result = tracekit.replay(trace, out=out, page_cache_mode=mode, pace="asap", threads=int(threads))
print(result.failed_ops)
"""


def recording(path: Path, uris: list[str], lengths: list[int], op: str = "read") -> Path:
    """A recording with one op for each URI."""
    count = len(uris)
    table = pa.table(
        {"uri": uris, "op": [op] * count, "offset": [None if op == "get" else 0] * count, "len": lengths,
         "t_submit": [n * 1000 for n in range(count)], "sample_id": list(range(count)), "latency": [1000] * count}
    )  # fmt: skip
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("mode", "threads"), [("default", 1), ("dontneed", 4), ("default", 200), ("direct_io", 3)]
)
def test_more_files_than_the_process_may_open_are_replayed(tmp_path: Path, mode: str, threads: int) -> None:
    for index in range(300):
        (tmp_path / f"{index}").write_bytes(bytes(4096))
    uris = [f"file://{tmp_path}/{index * 7 % 300}" for index in range(600)]
    trace = recording(tmp_path / "a.parquet", uris, [4096] * 600)
    run = subprocess.run(
        [sys.executable, "-c", FEW_FILES, trace, tmp_path / "out", mode, str(threads)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "O_DIRECT" in run.stderr:
        pytest.skip("the file system has no O_DIRECT")
    assert (run.stdout.strip(), run.returncode) == ("0", 0), run.stderr
    assert (
        open_reader(tmp_path / "out").query("SELECT count(*) AS n FROM ops WHERE op = 'read'")["n"][0].as_py()
        == 600
    )


@pytest.mark.parametrize(
    "options", [{}, {"max_bytes_in_flight": 1 << 20}, {"page_cache_mode": "dontneed"}, {"pace": "asap"}]
)
@pytest.mark.parametrize("length", [1 << 61, (1 << 62) + 1])
def test_a_length_larger_than_memory_is_an_error_of_its_op(
    tmp_path: Path, length: int, options: dict[str, object]
) -> None:
    (tmp_path / "f").write_bytes(bytes(4096))
    uri = f"file://{tmp_path}/f"
    trace = recording(tmp_path / "a.parquet", [uri, uri], [length, 4096])
    replay(trace, out=tmp_path / "out", **options)  # type: ignore[arg-type]
    rows = open_reader(tmp_path / "out").query(
        "SELECT len, bytes, error FROM ops WHERE op = 'read' ORDER BY len"
    )
    assert rows.to_pylist() == [
        {"len": 4096, "bytes": 4096, "error": None},
        {"len": length, "bytes": 0, "error": "out_of_memory"},
    ]
    assert not verify(tmp_path / "out")


def test_a_plan_that_does_not_fit_into_memory_is_refused_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(bytes(4096))
    trace = recording(tmp_path / "a.parquet", [f"file://{tmp_path}/f"] * 600_000, [1] * 600_000)
    monkeypatch.setenv("TRACEKIT_MEMORY", "50MB")
    with pytest.raises(
        UsageError, match=r"the plan of more than \d+ ops does not fit into 47.7 MiB of memory"
    ):
        replay(trace, out=tmp_path / "r", pace="closed")
    assert not (tmp_path / "r").exists()
    result = replay(trace, out=tmp_path / "r", pace="asap", end="1ms")  # what is filtered out takes no room
    assert result.ops == 1000
