"""Processes are told from later ones of the same number."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tracekit.processes import clock_instant, is_alive, start_of

AHEAD = ("unshare", "--time", "--fork", "--kill-child", "--boottime", "1000")


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        start = start_of(child.pid)
        assert start is not None
        assert is_alive(child.pid, start)
        assert is_alive(child.pid, None)
        assert not is_alive(child.pid, start - 100)
    assert start_of(child.pid) is None
    assert not is_alive(child.pid, start)
    assert not is_alive(child.pid, None)


def test_the_start_of_a_process_is_the_same_in_every_time_namespace() -> None:
    if subprocess.run([*AHEAD, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make time namespaces")
    code = f"from tracekit.processes import start_of; print(start_of({os.getpid()}))"
    there = subprocess.run([*AHEAD, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = start_of(os.getpid())
    assert here is not None
    assert abs(int(there.stdout) - here) <= 1


def test_the_clocks_of_one_instant_are_those_of_the_reading_that_was_not_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, stalls = [1_000_000_000], [5_000_000, 0, 3_000_000]

    def monotonic() -> int:
        now[0] += 50
        return now[0]

    def wall() -> int:
        told = now[0] + 7_000_000_000
        now[0] += stalls.pop(0) if stalls else 1_000_000
        return told

    monkeypatch.setattr(time, "monotonic_ns", monotonic)
    monkeypatch.setattr(time, "time_ns", wall)
    at, told = clock_instant()
    assert abs(told - at - 7_000_000_000) <= 50
