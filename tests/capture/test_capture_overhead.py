"""What recording costs is measured while the program runs, and reported."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from time import thread_time_ns
from typing import Any

import pytest

import tracekit
from tracekit import capture
from tracekit.capture.overhead import EACH, Meter
from tracekit.consumer import HOOKS_CPU, PROCESS_CPU, WRITER_CPU, overhead_of
from tracekit.errors import UsageError

READS = """
import os
import sys
file = os.open(sys.argv[1], os.O_RDONLY)
for i in range(2000):
    os.pread(file, 10, i)
"""


class Counted(dict[str, int]):
    """What a recorder would count."""

    writer_cpu_ns = 0

    def count_all(self, numbers: Mapping[str, int]) -> None:
        for name, n in numbers.items():
            self[name] = self.get(name, 0) + n


def spin(meter: Meter, recorder: Counted, calls: int) -> None:
    for _ in range(calls):
        began = thread_time_ns()
        sum(range(200_000))
        meter.add(recorder, began)


def test_the_share_is_in_the_trace(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(4096))
    with capture.start(trace, hooks="files"):
        file = os.open(path, os.O_RDONLY)
        for i in range(20 * EACH):
            os.pread(file, 10, i)
        os.close(file)
    facts = tracekit.open_trace(trace).info()
    counters = facts["counters"]
    assert counters[HOOKS_CPU] > 0
    assert facts["overhead"] == (counters[HOOKS_CPU] + counters.get(WRITER_CPU, 0)) / counters[PROCESS_CPU]


def test_processes_of_a_command_measure_themselves(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(4096))
    capture.run([sys.executable, "-c", READS, str(path)], trace, method="hooks", hooks="files")
    counters = tracekit.open_trace(trace).info()["counters"]
    assert counters[HOOKS_CPU] > 0
    assert counters[PROCESS_CPU] > 0


def test_a_trace_of_few_ops_does_not_know(trace: Path) -> None:
    with capture.start(trace, hooks="files"):
        pass
    assert tracekit.open_trace(trace).info()["overhead"] is None
    assert overhead_of({}) is None


def test_more_than_the_budget_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Counted()
    with caplog.at_level(logging.WARNING):
        meter = Meter(0.05)
        while recorder.get(PROCESS_CPU, 0) < 1_200_000_000:
            spin(meter, recorder, 5)
    assert caplog.text.count("more than max_overhead=0.05") == 1


def test_the_writer_s_time_is_counted_once() -> None:
    recorder = Counted()
    meter = Meter(1.0)
    for total in (500, 500, 800):
        recorder.writer_cpu_ns = total
        spin(meter, recorder, 1)
    assert recorder[WRITER_CPU] == 800


@pytest.mark.parametrize("share", [0, 2, "much"])
def test_what_is_no_share_is_refused(share: Any, trace: Path) -> None:
    with pytest.raises(UsageError, match="max_overhead"):
        capture.start(trace, max_overhead=share)
