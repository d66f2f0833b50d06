"""elbencho's op logs of real runs of elbencho 3.1-10, held against the results that each run wrote itself (`--jsonfile`).

The command of each run is in its results: a tree of directories, files that the threads share (in order, random with
O_DIRECT, by libaio, and reads among writes), and a file that each thread opens itself (`--nofdsharing`).
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tracekit.formats.registry import ImportResult, import_trace
from tracekit.metrics.snapshot import MetricsSnapshot, snapshot
from tracekit.store.reader import open_reader

SAMPLE = Path(__file__).parent / "logs" / "elbencho-3.1-10.tar.xz"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    with tarfile.open(SAMPLE) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path / "elbencho-3.1-10"


def results(runs: Path, name: str) -> dict[str, dict[str, Any]]:
    """What elbencho says that each phase of a run did, when its last thread was done."""
    phases = [json.loads(line) for line in (runs / f"{name}.json").read_text().splitlines()]
    return {phase["phase_type"]: phase["last_done"] for phase in phases}


def imported(runs: Path, name: str) -> tuple[ImportResult, list[dict[str, Any]], MetricsSnapshot]:
    out = runs / f"{name}.trace"
    done = import_trace("elbencho", runs / f"{name}.log", out, base="/data", strict=True)
    rows: list[dict[str, Any]] = open_reader(out).query("FROM ops ORDER BY t_submit").to_pylist()
    return done, rows, snapshot(open_reader(out))


def test_a_tree_of_files_has_the_bytes_and_entries_of_elbenchos_results(runs: Path) -> None:
    done, rows, found = imported(runs, "tree")
    said = results(runs, "tree")
    assert (found.write_bytes, found.read_bytes) == (int(said["WRITE"]["bytes"]), int(said["READ"]["bytes"]))
    files = [f"file:///data/d/r{rank}/d0/r{rank}-f{file}" for rank in (0, 1) for file in (0, 1)]
    moved = Counter((row["uri"], row["op"]) for row in rows if row["op"] in ("read", "write"))
    assert moved == {(file, kind): 2 for file in files for kind in ("read", "write")}
    entries = int(said["RMFILES"]["entries"])
    assert entries == len(files) == sum(row["op"] == "delete" and row["uri"] in files for row in rows)
    opens = 2 * entries
    assert Counter(row["op"] for row in rows)["stat"] == opens
    assert f"left out: close {opens}, mkdirat 4" in done.notes
    assert {row["worker"] for row in rows} == {0, 1}
    assert (found.unfinished_ops, found.failed_ops) == (0, 0)


@pytest.mark.parametrize(("name", "phase", "files"), [("write", "WRITE", 2), ("random", "READ", 2)])
def test_shared_files_keep_their_descriptors_because_the_log_does_not_name_them(
    runs: Path, name: str, phase: str, files: int
) -> None:
    done, rows, found = imported(runs, name)
    assert found.bytes == int(results(runs, name)[phase]["bytes"])
    assert {row["uri"] for row in rows} == {f"elbencho://descriptor/{3 + file}" for file in range(files)}
    assert any(
        f"{len(rows)} operations on {files} files that the log does not name" in note for note in done.notes
    )


def test_reads_among_writes_have_the_bytes_of_each(runs: Path) -> None:
    _, _, found = imported(runs, "mixed")
    said = results(runs, "mixed")["RWMIX3"]
    assert (found.write_bytes, found.read_bytes) == (int(said["bytes"]), int(said["rwmix_read"]["bytes"]))


def test_what_libaio_moved_and_when_it_ended_is_unknown_not_unfinished(runs: Path) -> None:
    done, rows, found = imported(runs, "libaio")
    assert found.requested_bytes == int(results(runs, "libaio")["READ"]["bytes"])
    assert {(row["bytes"], row["latency"]) for row in rows} == {(None, None)}
    assert (found.unfinished_ops, found.max_qd, found.bytes) == (None, None, None)
    assert any(f"{len(rows)} operations of libaio have no latency" in note for note in done.notes)


def test_a_file_that_each_thread_opens_has_its_name(runs: Path) -> None:
    _, rows, found = imported(runs, "own")
    assert found.read_bytes == int(results(runs, "own")["READ"]["bytes"])
    assert {row["uri"] for row in rows} == {"file:///data/f1"}


def line(name: str, finished: bool, entry: str, *, length: int = 0, worker: int = 0, ms: int = 0) -> str:
    said = {"date": f"2026-01-02T04:04:05.{ms:03d}+0100", "worker_rank": worker, "op_name": name, "entry_name": entry,
            "offset": 0, "length": length, "is_finished": finished, "is_error": False}  # fmt: skip
    return json.dumps(said)


def test_a_list_is_one_op_though_it_found_fewer_keys_than_it_asked_for(tmp_path: Path) -> None:
    lines = [
        line("S3ListObjectsV2", False, "bucket/", length=1000), line("S3ListObjectsV2", True, "bucket/", length=7, ms=3),
        line("S3GetObjectAsync", False, "bucket/k", length=9, ms=4), line("S3GetObjectAsync", True, "bucket/k", length=9, ms=9),
        line("HeadBucket", False, "bucket", ms=10), line("HeadBucket", True, "bucket", ms=11),
    ]  # fmt: skip
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    import_trace("elbencho", tmp_path / "log", tmp_path / "t", strict=True)
    rows = open_reader(tmp_path / "t").query("FROM ops ORDER BY t_submit").to_pylist()
    assert [(r["op"], r["uri"], r["offset"], r["len"], r["bytes"], r["latency"]) for r in rows] == [
        ("list", "s3://bucket/", None, None, 0, 3_000_000), ("read", "s3://bucket/k", 0, 9, 9, 5_000_000),
        ("stat", "s3://bucket", None, None, 0, 1_000_000),
    ]  # fmt: skip


def test_a_descriptor_is_a_workers_own_and_may_be_used_again(tmp_path: Path) -> None:
    def reads(worker: int, path: str, number: str) -> list[str]:
        steps = [("openat", path), ("pread", number), ("close", number)]
        return [
            line(name, end, entry, worker=worker, length=4) for name, entry in steps for end in (False, True)
        ]

    lines = [*reads(0, "a", "5"), *reads(1, "b", "5"), *reads(0, "c", "5"), line("openat", False, "d"), line("openat", True, "d"),
             line("openat", False, "e"), line("openat", True, "e"), line("pread", False, "6", length=4)]  # fmt: skip
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    done = import_trace("elbencho", tmp_path / "log", tmp_path / "t", strict=True, base="/x")
    rows = open_reader(tmp_path / "t").query("FROM ops WHERE op = 'read'").to_pylist()
    assert [row["uri"] for row in rows] == [
        "file:///x/a",
        "file:///x/b",
        "file:///x/c",
        "elbencho://descriptor/6",
    ]
    assert "1 operations do not end in the log" in done.notes
    assert snapshot(open_reader(tmp_path / "t")).unfinished_ops == 1
