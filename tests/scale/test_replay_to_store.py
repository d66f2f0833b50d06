"""Replays from several hosts to an object store: each host puts its own rows there."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ranked import record_ranks
from test_replay_on_hosts import agents, rows

import tracekit
from tracekit.scale import coordinator, launch
from tracekit.store.layout import SEALED_NAME


def objects(out: str) -> set[str]:
    backend = tracekit.backend_for(out)
    try:
        return {each.uri.rpartition("/")[2] for each in backend.list(f"{out}/")}
    finally:
        backend.close()


def test_each_host_puts_its_rows_there_and_none_pass_through_the_coordinator(
    tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, *_: object) -> None:
        raise AssertionError("rows came to the coordinator")

    monkeypatch.setattr(coordinator.Coordinator, "_receive_file", refuse)
    trace, out = record_ranks(tmp_path), f"s3://{s3_bucket}/r.trace"
    alone = tmp_path / "alone"
    tracekit.replay(trace, out=alone, engine="interpreter")
    result = tracekit.replay(trace, out=out, on="local", hosts=3, engine="interpreter")
    assert (str(result.out), result.partial) == (out, False)
    for metric in ("completeness", "identity", "ops", "bytes", "failures"):
        assert result.parity.row(metric).ok, metric
    assert rows(out) == rows(alone)
    assert not list(tracekit.verify(out))
    assert len(objects(out)) == 3 + 1


def test_the_trace_that_was_there_is_replaced_when_the_new_one_is_whole(
    tmp_path: Path, s3_bucket: str
) -> None:
    trace, out = record_ranks(tmp_path), f"s3://{s3_bucket}/r.trace"
    tracekit.replay(trace, out=out, on="local", hosts=2)
    before = objects(out)
    with pytest.raises(tracekit.UsageError, match="exists"):
        tracekit.replay(trace, out=out, on="local", hosts=2)
    (tmp_path / "data" / "0.bin").rename(tmp_path / "elsewhere")
    (tmp_path / "data" / "2.bin").unlink()
    (tmp_path / "data" / "4.bin").unlink()
    with pytest.raises(tracekit.TracekitError, match="host 0"):
        tracekit.replay(trace, out=out, on="local", hosts=2, overwrite=True)
    assert objects(out) == before  # nothing was replayed
    (tmp_path / "elsewhere").rename(tmp_path / "data" / "0.bin")
    tracekit.replay(trace, out=out, on="local", hosts=2, overwrite=True)
    assert objects(out) & before == {SEALED_NAME}
    assert len(rows(out)) == 120


def test_of_a_host_that_is_lost_nothing_is_left_there(tmp_path: Path, s3_bucket: str) -> None:
    trace, out = record_ranks(tmp_path, ops=500, gap_ns=10_000_000), f"s3://{s3_bucket}/r.trace"
    struck: list[int] = []

    def strike(done: int, planned: int, note: str) -> None:
        if done > 5 and not struck:
            struck.append(agents()[1])
            os.kill(struck[0], signal.SIGKILL)

    result = tracekit.replay(trace, out=out, on="local", hosts=3, watch=strike)
    assert [bool(host["failed"]) for host in result.hosts] == [False, True, False]
    kept = rows(out)
    assert {row["rank"] for row in kept} == {0, 2, 3, 5}
    assert result.not_issued.ops == 3000 - len(kept)
    assert tracekit.open_trace(out).info()["not_issued"] == result.not_issued.to_dict()
    assert len(objects(out)) == 2 + 1


def test_a_host_that_cannot_write_there_says_so(
    tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, out = record_ranks(tmp_path), f"s3://{s3_bucket}/r.trace"
    plain = launch.command

    def command(address: str, port: int, index: int) -> list[str]:
        wrong = ["env", "AWS_ENDPOINT_URL=http://127.0.0.1:9"] if index == 1 else []
        return [*wrong, *plain(address, port, index)]

    monkeypatch.setattr(launch, "command", command)
    result = tracekit.replay(trace, out=out, on="local", hosts=2)
    assert [bool(host["failed"]) for host in result.hosts] == [False, True]
    assert result.partial and "127.0.0.1" in result.hosts[1]["failed"]
    assert {row["rank"] for row in rows(out)} == {0, 2, 4}
