"""Locks, and what a new trace may replace."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tracekit
from tracekit.errors import UsageError
from tracekit.recorder import Recorder
from tracekit.store.check import repair, verify
from tracekit.store.reader import open_reader
from tracekit.store.target import check_target, replacing
from tracekit.store.writer import TraceWriter

CORE = {"uri": ["s3://b/k"] * 2, "offset": [0, 1], "len": [1, 1], "t_submit": [5, 7], "sample_id": [1, 2],
        "latency": [10, 20]}  # fmt: skip


def imported(path: Path, ops: int = 2, *, overwrite: bool = False) -> Path:
    with TraceWriter(path, source="import:test", overwrite=overwrite) as writer:
        for _ in range(ops // 2):
            writer.write(pa.RecordBatch.from_pydict(CORE))
    return path


def test_a_live_recording_is_not_repaired_or_replaced_and_loses_nothing(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t") as recorder:
        for i in range(10):
            recorder.record("file:///d/f", i, 1, time.monotonic_ns(), 1, sample_id=i)
        recorder.flush()
        with pytest.raises(UsageError, match=f"is being recorded by process {os.getpid()}"):
            repair(tmp_path / "t")
        with pytest.raises(UsageError, match="is being recorded"):
            check_target(tmp_path / "t", overwrite=True)
        with pytest.raises(UsageError, match="is being recorded"):
            imported(tmp_path / "t", overwrite=True)
        recorder.record("file:///d/f", 10, 1, time.monotonic_ns(), 1, sample_id=10)
    assert open_reader(tmp_path / "t").rows == 11
    repair(tmp_path / "t")
    assert verify(tmp_path / "t") == []


def test_a_killed_recorder_holds_no_lock(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\nfrom tracekit.recorder import Recorder\nr = Recorder(sys.argv[1])\n"
        "r.record('file:///x', 0, 1, time.monotonic_ns(), 1)\nr.flush()\nos.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "t")], check=False, timeout=120)
    assert repair(tmp_path / "t").ops_salvaged == 1


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_that_records_nothing_holds_no_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    with Recorder(tmp_path / "t") as recorder:
        recorder.record("file:///x", 0, 1, time.monotonic_ns(), 1)
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    repair(tmp_path / "t")
    os.close(write)
    os.waitpid(child, 0)
    os.close(read)


def test_only_a_trace_is_replaced_and_foreign_files_are_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    pq.write_table(pa.table({"price": [1]}), data / "part-0.parquet")
    (data / "notes.txt").write_text("keep me")
    with pytest.raises(UsageError, match="is not a trace"):
        check_target(data, overwrite=True)
    trace = imported(tmp_path / "t")
    for name in ("notes.txt", ".hidden", "seg-mine.parquet", "part-1.parquet"):
        pq.write_table(pa.table({"price": [1]}), trace / name)
        with pytest.raises(UsageError, match=f"did not write: {name}"):
            imported(trace, overwrite=True)
        assert pq.read_table(trace / name).to_pydict() == {"price": [1]}
        (trace / name).unlink()
    (trace / "sub").mkdir()
    with pytest.raises(UsageError, match="did not write: sub"):
        imported(trace, overwrite=True)
    (trace / "sub").rmdir()
    assert open_reader(imported(trace, 4, overwrite=True)).rows == 4
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_a_recording_that_fails_to_begin_leaves_the_old_trace(tmp_path: Path) -> None:
    imported(tmp_path / "t")
    before = sorted((entry.name, entry.stat().st_ino) for entry in (tmp_path / "t").iterdir())
    with pytest.raises(RuntimeError), replacing(tmp_path / "t", overwrite=True):
        with Recorder(tmp_path / "t") as recorder:
            recorder.record("file:///x", 0, 1, time.monotonic_ns(), 1)
        raise RuntimeError
    assert sorted((entry.name, entry.stat().st_ino) for entry in (tmp_path / "t").iterdir()) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_at_every_step_of_a_replacement_the_old_or_the_new_trace_is_there(tmp_path: Path) -> None:
    """Stops before each system call that changes a name, as a kill would."""
    imported(tmp_path / "t")
    script = (
        "import os, sys\nimport pyarrow as pa\nfrom tracekit.store import target\n"
        "steps = int(sys.argv[2])\n"
        "def audit(event, args):\n"
        "    global steps\n"
        "    if event in ('os.rename', 'os.remove', 'os.rmdir', 'os.mkdir', 'os.link', 'ctypes.dlsym'):\n"
        "        steps -= 1\n"
        "        if steps < 0: os._exit(9)\n"
        "from tracekit.store.writer import TraceWriter\n"
        f"core = {CORE!r}\n"
        "w = TraceWriter(sys.argv[1], source='import:test', overwrite=True)\n"
        "for _ in range(2): w.write(pa.RecordBatch.from_pydict(core))\n"
        "sys.addaudithook(audit)\n"
        "w.close()\n"
    )
    ended, seen = 9, set()
    step = 0
    while ended == 9:
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "t"), str(step)], capture_output=True, timeout=120
        )
        ended, step = done.returncode, step + 1
        seen.add(open_reader(tmp_path / "t").rows)
        imported(tmp_path / "t", overwrite=True)
    assert ended == 0, done.stderr
    assert seen == {2, 4}


def test_symbolic_links_are_followed_and_stay(tmp_path: Path) -> None:
    imported(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("elsewhere")
    imported(tmp_path / "link", 4, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert open_reader(tmp_path / "real").rows == 4
    imported(tmp_path / "dangling")
    assert open_reader(tmp_path / "elsewhere").rows == 2
    with replacing(tmp_path / "link", overwrite=True), Recorder(tmp_path / "link") as recorder:
        recorder.record("file:///x", 0, 1, time.monotonic_ns(), 1)
    assert open_reader(tmp_path / "real").rows == 1
    (tmp_path / "new").symlink_to("made")
    with Recorder(tmp_path / "new") as recorder:
        recorder.record("file:///x", 0, 1, time.monotonic_ns(), 1)
    assert open_reader(tmp_path / "made").rows == 1
    (tmp_path / "file").write_text("x")
    (tmp_path / "to_file").symlink_to("file")
    with pytest.raises(UsageError, match="is not a trace"):
        imported(tmp_path / "to_file", overwrite=True)


def test_repair_completes_a_trace_whose_start_was_interrupted(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / ".trace.json.4711.0a1b2c3d").write_text("{")
    (tmp_path / "t" / "._trace.json.0a1b2c3d.partial").write_text("")
    repair(tmp_path / "t")
    assert open_reader(tmp_path / "t").rows == 0
    assert [entry.name for entry in (tmp_path / "t").iterdir()] == ["_trace.parquet"]
    with Recorder(tmp_path / "t") as recorder:
        recorder.record("file:///x", 0, 1, time.monotonic_ns(), 1)
    assert open_reader(tmp_path / "t").rows == 1


@pytest.mark.parametrize("flags", [(), ("--overwrite",)], ids=["new", "overwrite"])
@pytest.mark.parametrize("verb", ["replay", "import"])
def test_of_several_commands_that_write_one_path_at_once_one_trace_is_left(
    tmp_path: Path, verb: str, flags: tuple[str, ...]
) -> None:
    (tmp_path / "f").write_bytes(bytes(100))
    recording = tmp_path / "from.parquet"
    pq.write_table(pa.table({**CORE, "uri": [f"file://{tmp_path}/f"] * 2}), recording)
    (tmp_path / "log.csv").write_text("uri,offset,len,t_submit,sample_id,latency\nfile:///f,0,1,5,1,10\n")
    words = {"replay": ["replay", str(recording)], "import": ["import", "csv", str(tmp_path / "log.csv")]}
    (tmp_path / "out").mkdir()
    out = imported(tmp_path / "out" / "t") if flags else tmp_path / "out" / "t"
    command = [sys.executable, "-m", "tracekit", *words[verb], "-o", str(out), *flags]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    ended = [(*run.communicate(timeout=100), run.returncode) for run in runs]
    codes = sorted(
        code if code != 1 else 0 for _, _, code in ended
    )  # 1 is a verdict on the times of the replay
    assert codes == [0, 2, 2] or (flags and codes[0] == 0), ended
    assert all(errors.count("\n") == 1 for _, errors, code in ended if code == 2), ended
    assert open_reader(out).rows == (2 if verb == "replay" else 1)
    assert verify(out) == []
    assert [entry.name for entry in out.parent.iterdir()] == ["t"]


@pytest.mark.parametrize("verb", ["record", "import", "merge", "replay"])
def test_a_link_to_itself_as_the_target_is_refused_in_one_line(tmp_path: Path, verb: str) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    (tmp_path / "data").write_bytes(b"x")
    (tmp_path / "log.csv").write_text(
        f"uri,offset,len,t_submit,sample_id,latency\nfile://{tmp_path}/data,0,1,5,1,10\n"
    )
    tracekit.import_trace("csv", tmp_path / "log.csv", tmp_path / "t")
    calls: dict[str, Callable[[], object]] = {
        "record": lambda: tracekit.record(tmp_path / "data", out=loop),
        "import": lambda: tracekit.import_trace("csv", tmp_path / "log.csv", loop),
        "merge": lambda: tracekit.merge([tmp_path / "t"], out=loop),
        "replay": lambda: tracekit.replay(tmp_path / "t", out=loop, pace="asap"),
    }
    with pytest.raises(tracekit.TracekitError) as raised:
        calls[verb]()
    assert "\n" not in str(raised.value)
    assert loop.is_symlink()


_MOUNTED = """
mkdir point other && mount -t tmpfs none point && mount --bind other other || exit 99
"$1" - <<'END'
import tracekit
log = "uri,offset,len,t_submit,sample_id,latency\\nfile:///f,0,1,5,1,10\\n"
open("log.csv", "w").write(log)
for point in ("point", "other"):
    try:
        tracekit.import_trace("csv", "log.csv", point)
    except tracekit.UsageError as error:
        print(error)
    tracekit.record("log.csv", out=point)
    for out in (point, f"{point}/in"):
        try:
            tracekit.import_trace("csv", "log.csv", out, overwrite=True)
        except tracekit.UsageError as error:
            print(error)
    tracekit.repair(f"{point}/in")
END
"""


def test_a_mount_point_is_refused_where_another_directory_would_have_to_replace_it(tmp_path: Path) -> None:
    alone = ["unshare", "--mount", "--map-root-user", "sh", "-c", _MOUNTED, "sh", sys.executable]
    try:
        done = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("this machine does not allow mounts")
    assert done.returncode == 0, done.stderr
    told = [line.partition(" is a mount point")[0].rpartition("/")[2] for line in done.stdout.splitlines()]
    assert told == ["point", "point", "other", "other"], done.stdout


@pytest.mark.parametrize("name", ["gs:/bucket", "file:x", "~no-such-user", "a%41[1]", "a\\*[b]", "a\\b"])
def test_a_relative_name_that_libraries_take_for_something_else_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").write_bytes(bytes(100))
    out = Path(name)
    tracekit.record("data", out=out)
    reader = open_reader(out)
    assert reader.query("SELECT count(*) AS n FROM ops WHERE op = 'read'").to_pylist() == [{"n": 1}]
    assert sum(batch.num_rows for batch in reader.batches()) == reader.rows
    assert verify(out) == []
    merged = tracekit.merge([out], out=Path(f"{name}-2"))
    assert merged.ops == reader.rows
    tracekit.export_trace("csv", out, Path(f"{name}.csv"))
    assert (tmp_path / name / "_trace.parquet").is_file()


def test_a_target_below_what_is_no_place_for_files_is_named_as_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no trace can be written at /proc/run"):
        imported(Path("/proc/run.trace"))
