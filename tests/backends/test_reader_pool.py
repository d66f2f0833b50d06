"""The pool returns results to the loop of the caller, refuses work without a free thread, and ends."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tracekit.backends.objects import s3
from tracekit.backends.objects.reader_pool import ReaderPool


def test_results_and_errors_reach_the_caller() -> None:
    pool = ReaderPool(4)

    def divide(number: int) -> float:
        return 12 / number

    async def ask(number: int, turns: asyncio.Semaphore) -> float:
        async with turns:  # as many at once as there are threads, so each of them must be taken
            future = pool.submit(lambda: divide(number))
            assert future is not None, "a thread whose result was delivered is free"
            return float(await future)

    async def main() -> list[float | BaseException]:
        turns = asyncio.Semaphore(4)
        asked = (ask(n, turns) for n in (1, 2, 3, 0, 4) * 100)
        return await asyncio.gather(*asked, return_exceptions=True)

    for _ in range(2):  # a second loop on the same pool
        results = asyncio.run(main())
        for got, expected in zip(results, [12.0, 6.0, 4.0, None, 3.0] * 100, strict=True):
            if expected is None:
                assert isinstance(got, ZeroDivisionError)
            else:
                assert got == expected
    pool.close()


def test_a_full_pool_refuses_work_until_a_thread_is_free() -> None:
    pool = ReaderPool(2)
    go = threading.Event()

    async def main() -> None:
        first, second = pool.submit(go.wait), pool.submit(go.wait)
        assert first is not None and second is not None
        assert pool.submit(go.wait) is None
        go.set()
        assert await asyncio.gather(first, second) == [True, True]
        third = pool.submit(lambda: "again")
        assert third is not None and await third == "again"

    asyncio.run(main())
    pool.close()


def test_a_cancelled_read_disturbs_nobody() -> None:
    pool = ReaderPool(2)

    async def main() -> None:
        slow = pool.submit(lambda: time.sleep(0.05))
        assert slow is not None
        slow.cancel()
        quick = pool.submit(lambda: 7)
        assert quick is not None and await quick == 7
        with pytest.raises(asyncio.CancelledError):
            await slow
        await asyncio.sleep(0.1)

    asyncio.run(main())
    pool.close()


def test_a_closed_event_loop_is_not_an_error() -> None:
    pool = ReaderPool(1)

    async def leave() -> None:
        assert pool.submit(lambda: time.sleep(0.1)) is not None

    asyncio.run(leave())
    time.sleep(0.2)
    pool.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "tracekit-reader"]


def test_more_reads_than_threads_are_all_in_flight(s3_bucket: str) -> None:
    backend = s3.backend()
    uri = f"s3://{s3_bucket}/k"
    body = bytes(range(200))
    backend.put(uri, body)

    async def main() -> None:
        async def one(offset: int) -> bytes:
            buffer = memoryview(bytearray(1))
            moved = await backend.open(uri).aread_into(offset, buffer)
            count, ttfb = moved.nbytes, moved.ttfb
            assert count == 1 and ttfb is not None
            return bytes(buffer)

        assert b"".join(await asyncio.gather(*(one(offset) for offset in range(200)))) == body

    asyncio.run(main())
    assert backend.counters["range_gets"] == 200
    backend.close()
