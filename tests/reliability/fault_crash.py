"""Crashes: kill -9, stopped processes, directories that vanish, clocks that step."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import pytest
from fault_forks import Forks
from fault_rows import Row, core_file, journal_left, recorded, rows_of, run, soon

from tracekit.errors import TracekitError, UsageError
from tracekit.recorder import Recorder
from tracekit.store.check import repair, verify
from tracekit.store.reader import open_reader

_WRITER = """
import sys, time
from tracekit.recorder import Recorder
recorder = Recorder(sys.argv[1], segment_ops=4000, flush_interval_s=1)
sample = int(sys.argv[2])
print("begun", flush=True)
while True:
    for _ in range(50):
        recorder.record("file:///d/f", sample * 4096, 4096, time.monotonic_ns(), 1000, bytes=4096, sample_id=sample)
        sample += 1
    recorder.flush()
    print(sample, flush=True)
"""
_APART = 10_000_000


def _writers(trace: Path, count: int) -> list[subprocess.Popen[str]]:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(trace), str(number * _APART)], stdout=subprocess.PIPE, text=True
        )
        for number in range(count)
    ]  # fmt: skip
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "begun\n"
    return children


def _flushed(child: subprocess.Popen[str], number: int) -> set[int]:
    """Return the samples that a killed writer has flushed, by what it printed."""
    assert child.stdout is not None
    said = [line for line in child.stdout if line.endswith("\n")]
    return set(range(number * _APART, int(said[-1]))) if said else set()


def kill_recorders(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    """Kill one to four processes that record into one trace, at any moment from their start on."""
    kills = ops = 0
    with Forks() as forks:
        while kills < times:
            trace = folder / f"{kills}.trace"
            firsts = [number * _APART for number in range(draw.randint(1, 4))]
            ends = forks.recorders(trace, firsts, soon(draw, 0.5))
            wanted = set(chain.from_iterable(map(range, firsts, ends)))
            kills += len(firsts)
            if not trace.exists():
                assert not wanted
                continue
            if wanted:
                assert wanted <= samples_once(trace)
            repair(trace)
            assert verify(trace) == []
            assert wanted <= samples_once(trace)
            ops += len(wanted)
            shutil.rmtree(trace)
    return kills, f"0 of {ops} flushed ops"


def samples_once(trace: Path) -> set[int]:
    """Return the samples of a trace, none of which is there twice."""
    found = [sample for batch in open_reader(trace).batches(["sample_id"]) for sample in batch[0].to_pylist()]
    assert len(found) == len(set(found))
    return set(found)


def kill_repair(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    trace = folder / "a.trace"
    journal_left(trace, 5, 400)
    copy = folder / "copy.trace"

    def again() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(trace, copy)

    def check() -> None:
        repair(copy)
        assert verify(copy) == []
        assert samples_once(copy) == set(range(2000))

    return _kill(["repair", copy], times, draw, again, check), "0 ops"


def kill_import(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    log = folder / "log.csv"
    lines = (f"file:///d/{i},{i},10,{i},{i},7" for i in range(60_000))
    log.write_text("uri,offset,len,t_submit,sample_id,latency\n" + "\n".join(lines) + "\n")
    trace = folder / "new" / "a.trace"

    def check() -> None:
        if trace.exists():
            assert (verify(trace), open_reader(trace).rows) == ([], 60_000)

    words = ["import", "csv", log, "-o", trace]
    done = _kill(words, times, draw, lambda: _emptied(folder / "new"), check)
    return done, "an unfinished import leaves no trace"


def kill_overwrite(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    new = folder / "new"
    log = folder / "log.csv"
    log.write_text("uri,offset,len,t_submit,sample_id,latency\n" + "file:///f,0,1,5,1,10\n" * 5000)
    old = recorded(folder / "old.trace", 100)

    def again() -> None:
        _emptied(new)
        shutil.copytree(old, new / "a.trace")

    def check() -> None:
        assert verify(new / "a.trace") == []
        assert open_reader(new / "a.trace").rows in (100, 5000)

    words = ["import", "csv", log, "-o", new / "a.trace", "--overwrite"]
    return _kill(words, times, draw, again, check), "the old or the new trace is there"


def kill_merge(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    parts = [recorded(folder / f"{name}.trace", 3000, segments=2) for name in "ab"]
    before = [file.read_bytes() for part in parts for file in sorted(part.iterdir())]
    trace = folder / "new" / "a.trace"

    def check() -> None:
        assert [file.read_bytes() for part in parts for file in sorted(part.iterdir())] == before
        if trace.exists():
            assert (verify(trace), open_reader(trace).rows) == ([], 12_000)

    words = ["merge", *parts, "-o", trace]
    done = _kill(words, times, draw, lambda: _emptied(folder / "new"), check)
    return done, "an unfinished merge leaves no trace"


def kill_replay(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    (folder / "f").write_bytes(bytes(4096))
    uris = [f"file://{folder}/f"] * 200
    recording = core_file(folder / "from.parquet", uris, t_submit=[i * 2_000_000 for i in range(200)])
    before = recording.read_bytes()
    trace = folder / "new" / "a.trace"

    def check() -> None:
        assert recording.read_bytes() == before
        if trace.exists():
            repair(trace)
            assert verify(trace) == []
            assert open_reader(trace).rows <= 200

    words = ["replay", recording, "-o", trace, "--engine", "interpreter"]
    done = _kill(words, times, draw, lambda: _emptied(folder / "new"), check)
    return done, "ops since the last flush (at most 0.25 s)"


def _kill(
    words: Sequence[object],
    times: int,
    draw: random.Random,
    again: Callable[[], None],
    check: Callable[[], None],
) -> int:
    """Kill a command `times` times, at any moment of its work. `again` makes what it works on, `check` looks at the rest."""
    with Forks() as forks:
        again()
        took = forks.time(words)
        kills = 0
        while kills < times:
            again()
            kills += forks.killed(words, soon(draw, took))
            check()
    return kills


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def stop_and_go(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    for number in range(times):
        trace = folder / f"{number}.trace"
        (child,) = _writers(trace, 1)
        for _ in range(3):
            time.sleep(soon(draw, 0.05))
            child.send_signal(signal.SIGSTOP)
            time.sleep(soon(draw, 0.05))
            rows_of(trace)  # a reader does not wait for a stopped writer
            with pytest.raises(UsageError, match="is being recorded"):
                repair(trace)
            child.send_signal(signal.SIGCONT)
        child.kill()
        wanted = _flushed(child, 0)
        child.wait()
        assert wanted <= {row["sample_id"] for row in rows_of(trace)}
        shutil.rmtree(trace)
    return times * 3, "0 flushed ops"


def vanished(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    for number in range(times):
        trace = folder / f"{number}.trace"
        recorder = Recorder(trace)
        recorder.record("file:///d/f", 0, 1, time.monotonic_ns(), 1)
        if draw.random() < 0.5:
            recorder.flush()
        moved = draw.random() < 0.5
        trace.rename(folder / f"{number}.moved")
        if not moved:  # the recorder may be making a file in it just now
            while (folder / f"{number}.moved").exists():
                shutil.rmtree(folder / f"{number}.moved", ignore_errors=True)
        with pytest.raises(TracekitError, match="recording failed"):
            recorder.record("file:///d/f", 1, 1, time.monotonic_ns(), 1)
            recorder.flush()
        with pytest.raises(TracekitError):
            recorder.close()
    return times, "what was in the directory; flush and close raise"


def two_writers(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    (folder / "data").mkdir()
    for i in range(4):
        (folder / "data" / str(i)).write_bytes(bytes(1000))
    for number in range(times):
        trace = folder / f"{number}.trace"
        words = [sys.executable, "-m", "tracekit", "record", str(folder / "data"), "-o", str(trace)]
        both = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]  # fmt: skip
        said = [child.communicate(timeout=200)[1] for child in both]
        assert sorted(child.returncode for child in both) == [0, 2], said
        assert verify(trace) == []
        reads = [row for row in rows_of(trace) if row["op"] in ("read", "get")]
        assert len(reads) == 4
        shared = folder / f"{number}.shared"
        children = _writers(shared, 2)
        time.sleep(0.1)
        for child in children:
            child.kill()
        wanted = _flushed(children[0], 0) | _flushed(children[1], 1)
        for child in children:
            child.wait()
        assert wanted <= {row["sample_id"] for row in rows_of(shared)}
    return times * 2, "of two runs one is refused; two recorders that join lose nothing"


_FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


def clock_steps(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    """Step the wall clock of a recording process forwards and backwards."""
    if _FAKETIME is None:
        pytest.skip("libfaketime is not installed")
    script = (
        "import select, sys, time\nfrom pathlib import Path\nfrom tracekit.recorder import Recorder\n"
        "wall = time.time()\n"
        "with Recorder(sys.argv[1], flush_interval_s=0.05) as recorder:\n"
        "    for i, step in enumerate(sys.argv[3].split(',')):\n"
        "        Path(sys.argv[2]).write_text(step + 's')\n"
        "        begin = time.monotonic_ns()\n"
        "        select.select([], [], [], 0.06)\n"
        "        recorder.record('file:///d/f', i, 1, begin, time.monotonic_ns() - begin, sample_id=i)\n"
        "    recorder.flush()\n"
        "print(abs(time.time() - wall) > 30)"
    )
    stepped = 0
    for number in range(times):
        trace, clock = folder / f"{number}.trace", folder / "clock"
        clock.write_text("+0s")
        steps = [f"{draw.choice('+-')}{draw.randint(60, 40_000_000)}" for _ in range(5)]
        env = {
            **os.environ,
            "LD_PRELOAD": str(_FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", script, str(trace), str(clock), ",".join(steps)],
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0 and done.stdout == "True\n", (done.stdout, done.stderr)
        found = rows_of(trace)
        submits = [row["t_submit"] for row in found]
        assert submits == sorted(submits) and len(found) == 5
        assert all(row["latency"] < 10_000_000_000 for row in found) and submits[-1] < 60_000_000_000
        assert verify(trace) == []
        stepped += len(steps)
    return stepped, "nothing: times count on the monotonic clock"


def read_only(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    """Write where even root may not: below /proc."""
    data = core_file(folder / "t.parquet", ["file:///d/f"] * 3)
    (folder / "log.csv").write_text("uri,t_submit\nfile:///f,5\n")
    (folder / "data").mkdir()
    (folder / "data" / "f").write_bytes(bytes(1000))
    verbs = [
        ["record", folder / "data", "-o", "/proc/tracekit.trace"],
        ["import", "csv", folder / "log.csv", "-o", "/proc/tracekit.trace"],
        ["export", data, "csv", "-o", "/proc/tracekit.csv"],
        ["query", data, "FROM ops", "--csv", "-o", "/proc/tracekit.csv"],
        ["stats", data, "--json", "-o", "/proc/tracekit.json"],
        ["capture", "-o", "/proc/tracekit.trace", "--", "true"],
        ["materialize", data, "--map", "file:///d=file:///proc/tracekit"],
        ["report", data, "-o", "/proc/tracekit.html"],
    ]
    for verb in verbs[: times or None]:
        done = run(*verb)
        assert done.returncode == 2 and "Traceback" not in done.stderr and "internal" not in done.stderr, (
            done.stderr
        )
        assert done.stderr.count("\n") == 1, done.stderr
    return min(times, len(verbs)), "nothing is written; one line"


ROWS = [
    Row("kill-recorder", "`kill -9` of 1 to 4 processes that record into one trace", "every flushed op is read at once, and after `repair` the trace is whole", 6, 500, kill_recorders),
    Row("kill-repair", "`kill -9` of `repair`", "the next `repair` finds every op", 3, 500, kill_repair),
    Row("kill-import", "`kill -9` of `import`", "the trace is there whole, or not at all", 3, 300, kill_import),
    Row("kill-overwrite", "`kill -9` of `import --overwrite`", "the old trace or the new one is there, whole", 3, 300, kill_overwrite),
    Row("kill-merge", "`kill -9` of `merge`", "the trace is there whole, or not at all; what is merged is untouched", 3, 300, kill_merge),
    Row("kill-replay", "`kill -9` of `replay`", "the recording is untouched; `repair` makes the part that was replayed a whole trace", 3, 300, kill_replay),
    Row("stop-continue", "SIGSTOP and SIGCONT of a recorder", "nothing is lost; readers do not wait; `repair` refuses", 1, 20, stop_and_go),
    Row("vanished-directory", "the trace's directory is deleted or renamed while it is recorded", "`flush` and `close` raise", 4, 100, vanished),
    Row("read-only-directory", "a target that cannot be written, for every verb that writes", "one line, exit code 2", 8, 8, read_only),
    Row("two-writers", "two recordings into one path at once", "of two `record`, one is refused; recorders that join share the trace", 1, 20, two_writers),
    Row("clock-steps", "the wall clock steps while a trace is recorded (libfaketime)", "order and latencies are right", 1, 20, clock_steps),
]  # fmt: skip
