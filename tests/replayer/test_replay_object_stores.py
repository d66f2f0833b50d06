"""Replaying on object stores: the event-loop engine keeps cadence, cap, order and errors as threads do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import servers

from tracekit.backends.objects.uri import split
from tracekit.backends.registry import backend_for
from tracekit.errors import BackendError, UsageError
from tracekit.replayer.materialize import materialize
from tracekit.replayer.run import replay
from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.writer import TraceWriter

LENGTH = 8192
OBJECT = 65536


@pytest.fixture
def recording(tmp_path: Path) -> TraceReader:
    """Range reads and whole gets of local files, 10 ms apart, on two streams."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "abcd":
        (folder / name).write_bytes(os.urandom(OBJECT))
    count = 60
    gets = [i % 4 == 3 for i in range(count)]
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": [i * 10_000_000 for i in range(count)],
                    "uri": [f"file://{folder}/{'abcd'[i % 4]}" for i in range(count)],
                    "op": ["get" if whole else "read" for whole in gets],
                    "offset": [None if whole else (i % 8) * LENGTH for i, whole in enumerate(gets)],
                    "len": [OBJECT if whole else LENGTH for whole in gets],
                    "bytes": [OBJECT if whole else LENGTH for whole in gets],
                    "latency": [2_000_000] * count, "sample_id": list(range(count)),
                    "step": [i // 4 for i in range(count)], "worker": [i % 2 for i in range(count)],
                }
            )
        )  # fmt: skip
    return open_reader(tmp_path / "t")


def check(recording: TraceReader, root: str, tmp_path: Path) -> None:
    """Every op again on the store, in each pace and by each engine, with the cap held."""
    rule = f"file://{tmp_path}/data={root}"
    assert materialize(recording, [rule]).made == 4
    for how in (
        {"pace": "recorded"}, {"pace": "closed"}, {"pace": "asap"}, {"pace": "asap", "engine": "interpreter", "threads": 4},
        {"pace": "asap", "max_bytes_in_flight": OBJECT},
    ):  # fmt: skip
        result = replay(
            recording, map=rule, out=tmp_path / "r", overwrite=True, tolerance=1e9, max_lateness="1h", **how
        )
        assert (result.ops, result.failed_ops) == (60, 0), (how, result.failures)
        assert result.client.engine == how.get("engine", "loop")
        assert result.parity.row("bytes").difference == 0
        assert result.parity.row("req_bytes_hist").difference == 0
        assert result.counters["range_gets"] == 45
        assert result.counters["whole_gets"] == 15
        facts = 'SELECT op, "offset", len, bytes, step, worker FROM ops ORDER BY sample_id'
        wanted = recording.query(facts.replace('"offset"', 'coalesce("offset", 0) AS "offset"'))
        assert open_reader(tmp_path / "r").query(facts).to_pylist() == wanted.to_pylist()
        if how == {"pace": "recorded"}:
            early = open_reader(tmp_path / "r").query("SELECT min(t_submit - t_due) AS ns FROM ops")
            assert early.column("ns")[0].as_py() >= 0


def test_a_recording_replays_on_s3(recording: TraceReader, s3_bucket: str, tmp_path: Path) -> None:
    check(recording, f"s3://{s3_bucket}/made", tmp_path)


def test_a_recording_replays_on_azure(recording: TraceReader, az_container: str, tmp_path: Path) -> None:
    check(recording, f"az://{az_container}/made", tmp_path)


AWKWARD = ("a b", "p%20q", "q?x", "h#y", "\u00fc/\u00e9", "plus+&=1", "x/y/z")


@pytest.mark.parametrize("there", ["s3", "az"])
def test_names_survive_the_round_trip_to_a_store(
    request: pytest.FixtureRequest, tmp_path: Path, there: str
) -> None:
    """A file's name is raw and an object's key escaped in its URI: the same name is meant."""
    container = request.getfixturevalue("s3_bucket" if there == "s3" else "az_container")
    uris = [f"file://{tmp_path}/data/{name}" for name in AWKWARD]
    local = open_reader(reads(tmp_path / "t", uris, [LENGTH] * len(uris)))
    rule = f"file://{tmp_path}/data={there}://{container}/d"
    assert materialize(local, [rule]).made == len(uris)
    objects = [info.uri for info in backend_for(f"{there}://").list(f"{there}://{container}/d")]
    assert sorted(split(uri).key for uri in objects) == sorted(f"d/{name}" for name in AWKWARD)
    result = replay(local, map=rule, pace="asap", out=tmp_path / "r", tolerance=1e9, max_lateness="1h")
    assert (result.ops, result.failed_ops) == (len(uris), 0)
    back = f"{there}://{container}/d=file://{tmp_path}/back"
    assert materialize(open_reader(tmp_path / "r"), [back]).made == len(uris)
    for name in AWKWARD:
        assert (tmp_path / "back" / name).stat().st_size == LENGTH
    result = replay(tmp_path / "r", map=back, pace="asap", tolerance=1e9, max_lateness="1h")
    assert (result.ops, result.failed_ops) == (len(uris), 0)


@pytest.mark.parametrize("key", ["../../outside", "a/%2E%2E/%2E%2E/outside", "nul%00byte"])
def test_a_key_that_can_be_no_file_below_the_target_is_refused(tmp_path: Path, key: str) -> None:
    trace = open_reader(reads(tmp_path / "t", [f"s3://b/{key}"], [LENGTH]))
    with pytest.raises(UsageError, match="cannot be a file under"):
        materialize(trace, [f"s3://b=file://{tmp_path}/deep/down"])
    assert not (tmp_path / "deep").exists() and not (tmp_path / "outside").exists()


def test_no_secret_of_a_rule_or_a_filter_is_in_the_replays_trace(tmp_path: Path, s3_bucket: str) -> None:
    trace = open_reader(reads(tmp_path / "t", [f"s3://{s3_bucket}/k"], [LENGTH]))
    materialize(trace, [f"s3://{s3_bucket}=s3://{s3_bucket}"])
    for rule in (
        f"s3://{s3_bucket}=s3://AKIA:sEnTiNeL@{s3_bucket}",
        f"~s3://{s3_bucket}=s3://AKIA:sEnTiNeL@{s3_bucket}",
        f"s3://{s3_bucket}=s3://{s3_bucket}?sig=sEnTiNeL",
    ):
        with pytest.raises(UsageError) as raised:
            replay(trace, map=rule, out=tmp_path / "r")
        assert "sEnTiNeL" not in str(raised.value)
    replay(trace, uri_glob="s3://AKIA:sEnTiNeL@*", out=tmp_path / "r")
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sEnTiNeL" not in path.read_bytes()


def test_a_lost_object_is_a_row_with_its_error(
    recording: TraceReader, s3_bucket: str, tmp_path: Path
) -> None:
    backend = backend_for(f"s3://{s3_bucket}")
    for name in "abc":
        backend.put(f"s3://{s3_bucket}/made/{name}", os.urandom(OBJECT))
    result = replay(recording, pace="asap", map=f"file://{tmp_path}/data=s3://{s3_bucket}/made")
    assert (result.ops, result.failed_ops) == (60, 15)
    assert not result.ok
    assert {failure["error"] for failure in result.failures} == {"not_found"}


def test_what_a_store_does_not_support_is_reported_before_anything_runs(
    recording: TraceReader, s3_bucket: str, tmp_path: Path
) -> None:
    rule = f"file://{tmp_path}/data=s3://{s3_bucket}/nothing"
    with pytest.raises(BackendError, match="nothing"):
        replay(recording, map=rule, out=tmp_path / "r")
    materialize(recording, [rule])
    with pytest.raises(UsageError, match="no page cache"):
        replay(recording, map=rule, cold=True, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_puts_go_to_the_store_only_when_allowed(tmp_path: Path, s3_bucket: str) -> None:
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": [0, 50_000_000], "uri": ["s3://recorded/new", "s3://recorded/new"], "op": ["put", "get"],
                    "offset": [None, None], "len": [LENGTH, LENGTH], "bytes": [LENGTH, LENGTH],
                    "latency": [1_000_000] * 2, "sample_id": [None, None],
                }
            )
        )  # fmt: skip
    rule = f"s3://recorded=s3://{s3_bucket}"
    result = replay(tmp_path / "t", map=rule, allow_writes=True, speed=0.2, tolerance=1e9, max_lateness="1h")
    assert (result.ops, result.failed_ops) == (2, 0)
    assert backend_for(f"s3://{s3_bucket}").stat(f"s3://{s3_bucket}/new").size == LENGTH
    with pytest.raises(UsageError, match="overwritten"):
        replay(tmp_path / "t", map=rule, allow_writes=True)


def reads(path: Path, uris: list[str], lengths: list[int]) -> Path:
    """A trace of reads, a millisecond apart."""
    count = len(uris)
    with TraceWriter(path, source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": [i * 1_000_000 for i in range(count)], "uri": uris, "op": ["read"] * count,
                    "offset": [0] * count, "len": lengths, "bytes": lengths, "latency": [500_000] * count,
                    "sample_id": list(range(count)),
                }
            )
        )  # fmt: skip
    return path


def interrupted(
    trace: Path, proxy: servers.FaultProxy, out: Path, *more: str, times: int = 1
) -> subprocess.CompletedProcess[str]:
    """`tracekit replay` through the proxy, with Ctrl-C when some GETs have come."""
    command = [sys.executable, "-m", "tracekit", "replay", str(trace), "-o", str(out), "--pace", "asap"]
    running = subprocess.Popen(
        [*command, "--endpoint", proxy.endpoint, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while sum(asked.startswith("GET") for asked in proxy.seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(times):
        running.send_signal(signal.SIGINT)
        time.sleep(0.5)
    try:
        stdout, errors = running.communicate(timeout=60)
    finally:
        running.kill()
    return subprocess.CompletedProcess(command, running.returncode, stdout, errors)


@pytest.mark.parametrize("client", ["obstore", "aiobotocore"])
def test_ctrl_c_does_not_start_ops_that_wait_at_the_gate(
    tmp_path: Path, s3_bucket: str, fault_proxy: Callable[[str], servers.FaultProxy], s3_env: servers.S3Server, client: str
) -> None:  # fmt: skip
    s3_env.put(s3_bucket, "k", os.urandom(LENGTH))
    proxy = fault_proxy(s3_env.endpoint)
    proxy.always["GET "] = servers.Fault(late=True, stall_s=0.1)
    trace = reads(tmp_path / "t", [f"s3://{s3_bucket}/k"] * 500, [LENGTH] * 500)
    run = interrupted(trace, proxy, tmp_path / "r", "--max-ops-in-flight", "1", "--client", client)
    assert run.returncode == 130 and "Traceback" not in run.stderr
    assert "interrupted" in run.stdout
    replayed = open_reader(tmp_path / "r")
    assert 3 <= replayed.rows < 200
    assert replayed.counters["replay_interrupted"] == 1
    assert replayed.query("SELECT count(*) AS n FROM ops WHERE error IS NOT NULL")["n"][0].as_py() == 0


def test_a_second_ctrl_c_does_not_wait_for_responses(
    tmp_path: Path, s3_bucket: str, fault_proxy: Callable[[str], servers.FaultProxy], s3_env: servers.S3Server
) -> None:
    s3_env.put(s3_bucket, "k", os.urandom(LENGTH))
    proxy = fault_proxy(s3_env.endpoint)
    proxy.always["GET "] = servers.Fault(stall_s=300)
    trace = reads(tmp_path / "t", [f"s3://{s3_bucket}/k"] * 20, [LENGTH] * 20)
    run = interrupted(trace, proxy, tmp_path / "r", "--timeout-s", "300", times=2)
    assert run.returncode == 130 and "Traceback" not in run.stderr
    replayed = open_reader(tmp_path / "r")
    assert replayed.counters["replay_interrupted"] == 1
    errors = replayed.query("SELECT DISTINCT error FROM ops")["error"].to_pylist()
    assert errors == ["cancelled"]


def test_an_impossible_op_ends_the_replay_with_one_line(
    tmp_path: Path, s3_bucket: str, s3_env: servers.S3Server
) -> None:
    s3_env.put(s3_bucket, "k", os.urandom(LENGTH))
    uris = [f"s3://{s3_bucket}/k", "s3://two words/k"] * 10
    trace = reads(tmp_path / "t", uris, [LENGTH] * 20)
    run = subprocess.run(
        [sys.executable, "-m", "tracekit", "replay", str(trace), "--max-ops-in-flight", "1", "-o", str(tmp_path / "r")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 2
    assert "invalid bucket or container name" in run.stderr and run.stderr.count("\n") == 1


def test_throttled_ops_are_rows_and_every_retry_is_counted(
    tmp_path: Path, s3_bucket: str, fault_proxy: Callable[[str], servers.FaultProxy], s3_env: servers.S3Server
) -> None:
    s3_env.put(s3_bucket, "k", os.urandom(LENGTH))
    s3_env.put(s3_bucket, "hot", os.urandom(LENGTH))
    proxy = fault_proxy(s3_env.endpoint)
    proxy.always["GET /" + s3_bucket + "/hot"] = servers.SLOW_DOWN
    trace = reads(tmp_path / "t", [f"s3://{s3_bucket}/{key}" for key in ("k", "hot") * 10], [LENGTH] * 20)
    result = replay(trace, pace="asap", endpoint=proxy.endpoint, retries=2, out=tmp_path / "r")
    assert (result.ops, result.failed_ops) == (20, 10)
    assert {failure["error"] for failure in result.failures} == {"throttled"}
    assert (result.counters["retries"], result.counters["throttles"]) == (20, 30)
    assert result.counters["range_gets"] == 20


_REPLAY = """
import sys
from tracekit.replayer.run import replay
result = replay(sys.argv[1], pace="asap", max_ops_in_flight=8, tolerance=1e9, max_lateness="1h")
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(result.ops, result.failed_ops, peak * 1024)
"""


def test_ops_of_many_lengths_share_their_buffers(
    tmp_path: Path, s3_bucket: str, s3_env: servers.S3Server
) -> None:
    """A buffer kept for each length that occurs would hold as much as was ever read."""
    s3_env.put(s3_bucket, "k", os.urandom(2 << 20))
    trace = reads(tmp_path / "t", [f"s3://{s3_bucket}/k"] * 600, [1_000_000 + i for i in range(600)])
    run = subprocess.run(
        [sys.executable, "-c", _REPLAY, str(trace)], capture_output=True, text=True, timeout=100
    )
    ops, failed, peak = map(int, run.stdout.split())
    assert (ops, failed) == (600, 0)
    assert peak < 500 << 20
