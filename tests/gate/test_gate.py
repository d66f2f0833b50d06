"""The gate: exact, first come first served, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit.errors import UsageError
from tracekit.gate import Gate


@examples(60)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=40),
    max_bytes=st.one_of(st.none(), st.integers(1, 60)),
    max_ops=st.one_of(st.none(), st.integers(1, 5)),
    seed=st.integers(0, 1000),
)
def test_no_schedule_exceeds_the_caps_and_every_op_is_admitted(
    sizes: list[int], max_bytes: int | None, max_ops: int | None, seed: int
) -> None:
    gate = Gate(max_bytes, max_ops)
    lock, now = threading.Lock(), {"bytes": 0, "ops": 0}
    seen: list[tuple[int, int]] = []
    pauses = random.Random(seed)

    def op(nbytes: int, pause: float) -> None:
        gate.acquire(nbytes)
        with lock:
            now["bytes"] += nbytes
            now["ops"] += 1
            seen.append((now["bytes"], now["ops"]))
        time.sleep(pause)
        with lock:
            now["bytes"] -= nbytes
            now["ops"] -= 1
        gate.release(nbytes)

    threads = [threading.Thread(target=op, args=(size, pauses.random() / 2000)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(seen) == len(sizes)
    for in_flight, ops in seen:
        assert max_ops is None or ops <= max_ops
        assert max_bytes is None or in_flight <= max_bytes or ops == 1
    assert (gate.bytes_in_flight, gate.ops_in_flight) == (0, 0)


@examples(40)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=30), max_bytes=st.integers(1, 60))
def test_coroutines_are_admitted_in_the_order_they_came(sizes: list[int], max_bytes: int) -> None:
    gate, order = Gate(max_bytes), []

    async def op(index: int, nbytes: int) -> None:
        await gate.aacquire(nbytes)
        order.append(index)
        assert gate.bytes_in_flight <= max_bytes or gate.ops_in_flight == 1
        await asyncio.sleep(0)
        gate.release(nbytes)

    async def main() -> None:
        await asyncio.gather(*(op(i, n) for i, n in enumerate(sizes)))

    asyncio.run(main())
    assert order == list(range(len(sizes)))


def test_a_large_op_waits_for_its_turn_and_is_not_overtaken_by_small_ones() -> None:
    gate, order = Gate(max_bytes=10), []
    gate.acquire(6)

    def op(name: str, nbytes: int) -> None:
        gate.acquire(nbytes)
        order.append(name)
        gate.release(nbytes)

    threads = []
    for name, nbytes in (("large", 100), ("small", 1)):
        thread = threading.Thread(target=op, args=(name, nbytes))
        thread.start()
        threads.append(thread)
        while len(gate._waiting) < len(threads):
            time.sleep(0.001)
    assert order == []
    gate.release(6)
    for thread in threads:
        thread.join(10)
    assert order == ["large", "small"]
    assert gate.peak_bytes == 100


def test_a_cancelled_waiter_gives_its_place_to_the_next() -> None:
    async def main() -> None:
        gate = Gate(max_ops=1)
        await gate.aacquire(1)
        waiting = asyncio.create_task(gate.aacquire(1))
        behind = asyncio.create_task(gate.aacquire(1))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        gate.release(1)
        assert await asyncio.wait_for(behind, 5) >= 0
        assert gate.ops_in_flight == 1

    asyncio.run(main())


def test_waiting_is_reported_in_ns_and_no_wait_is_zero() -> None:
    gate = Gate(max_ops=1)
    assert gate.acquire(1) == 0

    def release_once_awaited() -> None:
        while not gate._waiting:
            time.sleep(0.001)
        time.sleep(0.05)
        gate.release(1)

    threading.Thread(target=release_once_awaited).start()
    began = time.monotonic_ns()
    waited = gate.acquire(1)
    assert 0 < waited <= time.monotonic_ns() - began


@pytest.mark.parametrize("caps", [(0, None), (None, 0), (-5, None)])
def test_a_cap_that_admits_nothing_is_refused(caps: tuple[int | None, int | None]) -> None:
    with pytest.raises(UsageError, match="admits nothing"):
        Gate(*caps)
