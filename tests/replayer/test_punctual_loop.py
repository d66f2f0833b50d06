"""The event loop of the replay: what is urgent runs before what else is ready."""

from __future__ import annotations

import asyncio
import os

from tracekit.replayer.engines.punctual import PunctualLoop


def test_what_is_urgent_runs_before_what_was_ready_earlier() -> None:
    order: list[str] = []

    async def task() -> None:
        order.append("task")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PunctualLoop)
        loop.call_soon(order.append, "first")
        loop.call_soon(order.append, "second")
        loop.urgent = True
        urgent = asyncio.create_task(task())
        loop.urgent = False
        loop.call_soon(order.append, "third")
        await urgent
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=PunctualLoop) as runner:
        runner.run(main())
    assert order == ["task", "first", "second", "third"]


def test_the_chosen_descriptor_is_served_before_the_others() -> None:
    order: list[int] = []

    async def main(pipes: list[tuple[int, int]], chosen: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PunctualLoop)
        done = asyncio.Event()

        def readable(number: int) -> None:
            os.read(pipes[number][0], 1)
            order.append(number)
            if len(order) % len(pipes) == 0:
                done.set()

        for number, (end, _) in enumerate(pipes):
            loop.add_reader(end, readable, number)
        loop.serve_first(pipes[chosen][0])
        for _, end in pipes:
            os.write(end, b"x")
        await done.wait()

    for chosen in range(4):
        pipes = [os.pipe() for _ in range(4)]
        with asyncio.Runner(loop_factory=PunctualLoop) as runner:
            runner.run(main(pipes, chosen))
        for pair in pipes:
            for end in pair:
                os.close(end)
    assert order[::4] == [0, 1, 2, 3] and len(order) == 16
