"""Replays from several hosts, each a process of this machine: the same rows as from one, and an end whatever happens."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from ranked import record_ranks

import tracekit
from tracekit.scale import distribute, launch
from tracekit.store.writer import TraceWriter

EXACT = ("completeness", "identity", "ops", "due_times", "early_ops", "bytes", "failures")


def rows(trace: Path) -> list[dict[str, Any]]:
    """What does not depend on when and where ops ran."""
    columns = "plan_op, uri, op, ops.offset, len, bytes, sample_id, step, rank, worker, error"
    return tracekit.open_trace(trace).query(f"SELECT {columns} FROM ops ORDER BY plan_op").to_pylist()


def agents() -> list[int]:
    """The process ids of the agents that this process has started, by the number of their host."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has just ended
                continue
            if b"tracekit.scale.agent" in words and parent == os.getpid():
                found[int(words[-2])] = int(entry.name)
    return [found[index] for index in sorted(found)]


@pytest.mark.parametrize("split", ["rank", "file"])
def test_the_rows_are_those_of_one_host_but_for_times(tmp_path: Path, split: str) -> None:
    trace = record_ranks(tmp_path)
    alone = tracekit.replay(trace, out=tmp_path / "alone", engine="interpreter")
    result = tracekit.replay(
        trace, out=tmp_path / "three", on="local", hosts=3, split=split, engine="interpreter"
    )
    for metric in EXACT:
        assert result.parity.row(metric).ok, metric
    assert (result.ops, result.planned_ops, result.partial) == (alone.ops, alone.planned_ops, False)
    assert rows(tmp_path / "three") == rows(tmp_path / "alone")
    assert [host["streams"] for host in result.hosts] == [2, 2, 2]
    assert result.parity.row("clock_error_ns").b == max(host["clock_error_ns"] for host in result.hosts)
    assert result.parity.row("start_skew_ns").b is not None
    assert not list(tracekit.verify(tmp_path / "three"))
    assert tracekit.compare(trace, tmp_path / "three").row("identity").ok


def test_caps_are_for_all_hosts_together_and_clients_are_spread(tmp_path: Path) -> None:
    trace = record_ranks(tmp_path, ranks=2)
    result = tracekit.replay(
        trace,
        on="local",
        hosts=2,
        clients=2,
        stagger="3ms",
        pace="asap",
        max_ops_in_flight=3,
        engine="interpreter",
    )
    assert result.ok, result.parity.verdict
    assert result.ops == 80
    assert result.parity.row("max_ops_in_flight").ok


def test_a_cap_that_leaves_a_host_without_an_op_is_refused(tmp_path: Path) -> None:
    trace = record_ranks(tmp_path, ranks=3)
    with pytest.raises(
        tracekit.UsageError, match="max_ops_in_flight=2 is less than one op for each of 3 hosts"
    ):
        tracekit.replay(trace, on="local", hosts=3, max_ops_in_flight=2)


def test_writes_go_from_the_host_of_their_stream(tmp_path: Path) -> None:
    n = 8
    columns = {"t_submit": [i * 1000 for i in range(n)], "uri": [f"file:///in/{i % 4}" for i in range(n)], "op": ["put"] * n,
               "len": [100] * n, "bytes": [100] * n, "latency": [50] * n, "offset": [None] * n, "sample_id": [None] * n,
               "rank": [i % 4 for i in range(n)]}  # fmt: skip
    kinds = {"uri": pa.string(), "op": pa.string()}
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict({k: pa.array(v, kinds.get(k, pa.int64())) for k, v in columns.items()})
        )
    options: dict[str, Any] = {
        "on": "local",
        "hosts": 2,
        "allow_writes": True,
        "pace": "asap",
        "map": f"/in={tmp_path}/out",
    }
    result = tracekit.replay(tmp_path / "t", **options)
    assert result.ok, result.parity.verdict
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0", "1", "2", "3"]


def test_a_host_that_cannot_open_the_trace_gets_it_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = record_ranks(tmp_path)
    monkeypatch.setattr(distribute, "where_it_is", lambda reader: str(tmp_path / "mounted elsewhere"))
    result = tracekit.replay(trace, on="local", hosts=2, pace="asap")
    assert result.ok, result.parity.verdict


AHEAD_S = (0, 1000, 5000)


def test_hosts_whose_clocks_are_hours_apart_share_one_time_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted = ["unshare", "--time", "--fork", "--kill-child", "--monotonic"]
    if subprocess.run([*shifted, "1", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make time namespaces")
    plain = launch.command

    def command(address: str, port: int, index: int) -> list[str]:
        return [*shifted, str(AHEAD_S[index]), *plain(address, port, index)]

    monkeypatch.setattr(launch, "command", command)
    trace = record_ranks(tmp_path)
    result = tracekit.replay(trace, out=tmp_path / "r", on="local", hosts=3, engine="interpreter")
    for host, ahead in zip(result.hosts, AHEAD_S, strict=True):
        assert abs(host["clock_offset_ns"] + ahead * 10**9) <= host["clock_error_ns"]
    for metric in EXACT:
        assert result.parity.row(metric).ok, metric


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def fill_disk(pid: int) -> None:
    """Let no file of the process grow any more."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))


@pytest.mark.parametrize("fault", [kill, freeze, fill_disk])
def test_a_host_that_fails_ends_the_replay_with_what_the_others_did(
    tmp_path: Path, fault: Callable[[int], None]
) -> None:
    trace = record_ranks(tmp_path, ops=1000, gap_ns=10_000_000)  # a minute
    struck: list[int] = []

    def strike(done: int, planned: int, note: str) -> None:
        if done > 5 and not struck:
            struck.append(agents()[1])
            fault(struck[0])

    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT}
    )  # as in an actor of Ray: agents inherit it
    try:
        result = tracekit.replay(trace, out=tmp_path / "r", on="local", hosts=3, watch=strike)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert struck
    assert (result.partial, result.ok, result.failed_hosts) == (True, False, True)
    assert [bool(host["failed"]) for host in result.hosts] == [False, True, False]
    (warning,) = [line for line in result.warnings if "failed" in line]
    assert "host 1" in warning and "ranks 1, 4" in warning
    assert result.parity.row("completeness").ok is False
    kept = rows(tmp_path / "r")
    assert {row["rank"] for row in kept} == {0, 2, 3, 5}
    assert all(row["error"] is None for row in kept)
    assert not agents()


def test_ctrl_c_reaches_all_hosts_and_keeps_a_whole_trace(tmp_path: Path) -> None:
    trace = record_ranks(tmp_path, ops=1000, gap_ns=10_000_000)
    command = [sys.executable, "-c", INTERRUPTED, str(trace), str(tmp_path / "r")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 130, run.stderr
    said = json.loads(run.stdout)
    assert said["partial"] and not any(host["failed"] for host in said["hosts"])
    assert 0 < said["ops"] < 6000
    assert not list(tracekit.verify(tmp_path / "r"))
    partial = tracekit.compare(trace, tmp_path / "r", partial=True)
    assert partial.row("completeness").ok and partial.row("identity").ok


INTERRUPTED = """if True:
    import os, signal, sys, threading
    from tracekit.cli import replay as verb, screen
    from tracekit.cli.app import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = verb.replay

    def replay(trace, watch, **options):
        sent = []
        def seen(done, planned, note):
            if done > 5 and not sent:
                sent.append(True)
                os.kill(os.getpid(), signal.SIGINT)
        return before(trace, watch=seen, **options)

    verb.replay = replay
    sys.argv = ["tracekit", "replay", sys.argv[1], "-o", sys.argv[2], "--on", "local", "--hosts", "2", "--json"]
    main()
"""


def test_a_fault_before_the_start_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    trace = record_ranks(tmp_path)
    (tmp_path / "data" / "0.bin").unlink()
    (tmp_path / "data" / "3.bin").unlink()
    with pytest.raises(tracekit.TracekitError, match=r"host 0 .*0\.bin"):
        tracekit.replay(trace, out=tmp_path / "r", on="local", hosts=3)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on": "mars"}, "no place to work"),
        ({"hosts": 2}, "give on="),
        ({"on": "local", "split": "half"}, "one of rank, file, stream, time-hash"),
        ({"on": "local", "cold": True}, "from this host"),
    ],
)
def test_a_wrong_option_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(tracekit.UsageError, match=message) as caught:
        tracekit.replay(record_ranks(tmp_path), **options)
    assert caught.value.hint
