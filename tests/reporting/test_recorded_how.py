"""What the page says of how a trace was recorded: clocks, starts, overhead, sampling, and what was removed."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from reported import op, written

import tracekit
from tracekit.consumer import HOOKS_CPU, PROCESS_CPU
from tracekit.metrics.snapshot import snapshot
from tracekit.recorder import Recorder
from tracekit.reporting.identity import identity
from tracekit.reporting.page import report
from tracekit.store.reader import TraceReader, open_reader


def facts(reader: TraceReader) -> dict[str, str]:
    return identity(reader, snapshot(reader))


def test_a_merged_trace_states_the_clocks_and_starts_of_its_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, host in enumerate(("alpha", "beta")):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        written(tmp_path / f"h{number}", [op(number * 3_000_000 + i * 1000, rank=number) for i in range(5)])
    tracekit.merge(
        [tmp_path / "h0", tmp_path / "h1"], tmp_path / "all", offset=["h1=-250us"], clock_error="20us"
    )
    found = facts(open_reader(tmp_path / "all"))
    assert found["clocks"] == "2 hosts, error at most 20 us, offsets up to 250 us"
    assert found["clock of alpha"] == "+0 ns added to its times, error at most 20 us"
    assert found["clock of beta"] == "-250 us added to its times, error at most 20 us"
    assert found["start skew"] == "2.75 ms from the first op of the first host to that of the last, beta"
    report(open_reader(tmp_path / "all"), tmp_path / "r.html")
    page = re.sub(r"<[^>]*>", " ", (tmp_path / "r.html").read_text().split('id="page-figures"')[0])
    assert "error at most 20 us" in page and "2.75 ms from the first op" in page


def test_what_recording_cost_and_how_much_was_sampled_stand_on_the_page(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t", options={"sample_rate": 0.25}) as recorder:
        for number in range(8):
            recorder.record(f"file:///d/{number}", 0, 10, time.monotonic_ns(), 5, bytes=10)
        recorder.count(HOOKS_CPU, 30)
        recorder.count(PROCESS_CPU, 1000)
    found = facts(open_reader(tmp_path / "t"))
    assert found["recording overhead"] == "3.00% of the CPU time of the recorded processes"
    assert found["sampling"] == "0.25 of the files and objects, each with all its ops"
    report(open_reader(tmp_path / "t"), tmp_path / "r.html")
    page = re.sub(r"<[^>]*>", " ", (tmp_path / "r.html").read_text().split('id="page-figures"')[0])
    assert "This is a sample; the whole run, estimated from 0.25 of the files: ops 32" in page


def test_a_trace_of_one_host_that_says_nothing_has_no_such_lines(tmp_path: Path) -> None:
    found = facts(written(tmp_path / "t", [op(0)]))
    assert not found.keys() & {"clocks", "start skew", "recording overhead", "sampling", "removed"}
