"""Offsets of clocks: the error bound holds, against arithmetic and against clocks that the kernel shifts."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit.errors import TracekitError
from tracekit.scale.clock import ClockServer, Offset, drifted, estimate, measure

DELAY = st.integers(0, 10**9)


@examples(200)
@given(
    truth=st.integers(-(10**15), 10**15),
    exchanges=st.lists(st.tuples(st.integers(0, 10**12), DELAY, DELAY), min_size=1, max_size=20),
)
def test_the_true_offset_is_within_the_bound_however_lopsided_the_network_is(
    truth: int, exchanges: list[tuple[int, int, int]]
) -> None:
    readings = [(sent, sent + there + truth, sent + there + back) for sent, there, back in exchanges]
    found = estimate(readings)
    assert abs(found.offset_ns - truth) <= found.error_ns
    assert found.error_ns <= min(there + back for _, there, back in exchanges) // 2 + 1


@examples(100)
@given(
    truth=st.integers(-(10**12), 10**12),
    drift=st.integers(-(10**6), 10**6),
    errors=st.tuples(st.integers(0, 10**5), st.integers(0, 10**5)),
    off=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
)
def test_the_bound_covers_a_drift_until_the_end(
    truth: int, drift: int, errors: tuple[int, int], off: tuple[float, float]
) -> None:
    first = Offset(truth + int(errors[0] * off[0]), errors[0])
    last = Offset(truth + drift + int(errors[1] * off[1]), errors[1])
    covered = drifted(first, last)
    for share in (0, 0.25, 0.5, 1):  # of the way from the start to the end
        assert abs(covered.offset_ns - (truth + drift * share)) <= covered.error_ns + 1


def test_two_clocks_of_one_host_agree_within_the_bound() -> None:
    with ClockServer() as server:
        found = measure(server.address)
    assert abs(found.offset_ns) <= found.error_ns


def test_many_hosts_are_answered_at_once_and_a_broken_one_disturbs_nobody() -> None:
    found: list[Offset] = []
    with ClockServer() as server, socket.create_connection(server.address) as rude:
        rude.sendall(b"???")
        threads = [
            threading.Thread(target=lambda: found.append(measure(server.address, pings=10)))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 20
    assert all(abs(each.offset_ns) <= each.error_ns for each in found)


def test_a_clock_that_does_not_answer_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(TracekitError, match="cannot be read"):
        measure(address)


CLONE_NEWTIME = 0x80


@contextmanager
def shifted_clock(seconds: int, nanoseconds: int) -> Iterator[tuple[str, int]]:
    """Yield the address of a clock in a process whose monotonic clock is that far ahead of ours."""
    read, write = os.pipe()
    end_read, end_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            os.close(end_write)
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWTIME) == 0:
                Path("/proc/self/timens_offsets").write_text(f"monotonic {seconds} {nanoseconds}\n")
                os.set_inheritable(write, True)
                os.set_inheritable(end_read, True)
                if os.fork() == 0:  # only a child is in the new namespace
                    os.execv(sys.executable, [sys.executable, "-c", SERVE, str(write), str(end_read)])
                os.close(write)
                os.close(end_read)
                os.wait()
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    os.close(end_read)
    try:
        with os.fdopen(read) as said:
            port = said.readline().strip()
        if not port:
            pytest.skip("the kernel gives this user no time namespace")
        yield "127.0.0.1", int(port)
    finally:
        os.close(end_write)
        os.waitpid(pid, 0)


SERVE = """if True:
    import os, sys
    from tracekit.scale.clock import ClockServer
    with ClockServer() as server:
        os.write(int(sys.argv[1]), f"{server.address[1]}\\n".encode())
        os.close(int(sys.argv[1]))
        os.read(int(sys.argv[2]), 1)
"""


@pytest.mark.parametrize(("seconds", "nanoseconds"), [(1000, 0), (5, 250_000)])
def test_the_bound_holds_against_a_clock_that_is_shifted_by_a_known_time(
    seconds: int, nanoseconds: int
) -> None:
    with shifted_clock(seconds, nanoseconds) as address:
        found = measure(address)
    assert abs(found.offset_ns - (seconds * 10**9 + nanoseconds)) <= found.error_ns
