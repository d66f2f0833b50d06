import asyncio
import contextlib
import os
import struct
import threading

import pyarrow as pa

from tracekit.capture import context
from tracekit.capture.context import enter, leave, sample, step, where
from tracekit.capture.scopes import Scopes


def test_outside_every_scope_sample_and_step_are_null():
    assert where() == (None, None)


def test_an_inner_scope_inherits_from_the_outer_one():
    with step(4):
        with sample(17):
            assert where() == (17, 4)
            with sample(18):
                assert where() == (18, 4)
            assert where() == (17, 4)
        assert where() == (None, 4)
    assert where() == (None, None)


def test_tasks_of_one_step_keep_their_own_samples():
    async def one(number: int) -> tuple[int | None, int | None]:
        with sample(number):
            await asyncio.sleep(0.001 * (5 - number))
            return where()

    async def batch() -> list[tuple[int | None, int | None]]:
        with step(1):
            return await asyncio.gather(*(one(number) for number in range(5)))

    assert asyncio.run(batch()) == [(number, 1) for number in range(5)]


def _seen_by_a_bare_thread() -> tuple[int | None, int | None]:
    seen: list[tuple[int | None, int | None]] = []
    thread = threading.Thread(target=lambda: seen.append(where()))
    thread.start()
    thread.join()
    return seen[0]


def test_a_thread_without_a_scope_gets_the_only_one_open():
    with step(2), sample(9):
        assert _seen_by_a_bare_thread() == (9, 2)
    assert _seen_by_a_bare_thread() == (None, None)


def test_a_thread_without_a_scope_gets_what_the_open_ones_agree_on():
    both_inside, done = threading.Barrier(3), threading.Event()

    def hold(number: int) -> None:
        with step(6), sample(number):
            both_inside.wait()
            done.wait()

    threads = [threading.Thread(target=hold, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    both_inside.wait()
    try:
        assert _seen_by_a_bare_thread() == (None, 6)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not context._open


def test_generators_that_take_turns_keep_their_own_samples():
    def reader(number: int):
        with step(number + 10), sample(number):
            while True:
                yield where()

    readers = [reader(number) for number in range(3)]
    for _ in range(2):
        assert [next(one) for one in readers] == [(0, 10), (1, 11), (2, 12)]
    for one in readers:
        one.close()
    assert where() == (None, None)
    assert not context._open


def test_a_scope_that_ends_out_of_order_is_removed():
    first, second = sample(1), sample(2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert where() == (2, None)
    second.__exit__(None, None, None)
    assert where() == (None, None)


def test_the_body_of_a_loop_over_a_generator_of_steps_is_in_its_step():
    @contextlib.contextmanager
    def of_our_own(number: int):
        with sample(number):
            yield

    def steps():
        for number in range(3):
            with step(number):
                yield number

    for number in steps():
        assert where() == (None, number)
        with of_our_own(number * 2):
            assert where() == (number * 2, number)
    assert where() == (None, None)


def test_a_context_manager_inside_a_generator_adds_to_its_scope():
    @contextlib.contextmanager
    def of_our_own(number: int):
        with step(number):
            yield

    def reader(number: int):
        with sample(number):
            yield None
            with of_our_own(number + 5), contextlib.ExitStack() as stack:
                stack.enter_context(step(number + 7))
                yield where()

    readers = [reader(number) for number in range(2)]
    for one in readers:
        next(one)
    assert [next(one) for one in readers] == [(0, 7), (1, 8)]
    for one in readers:
        one.close()
    assert where() == (None, None)


def test_a_generator_closed_in_another_context_leaves_no_scope_behind():
    def items():
        with step(1):
            yield where()

    generator = items()
    assert next(generator) == (None, 1)
    contextvars_thread = threading.Thread(target=generator.close)
    contextvars_thread.start()
    contextvars_thread.join()
    assert not context._open


def test_every_scope_that_ended_is_logged_when_the_outermost_ends_and_in_a_child_of_its_own(tmp_path):
    context.log_scopes(str(tmp_path / "scopes"))
    try:
        with step(1):
            for number in range(3):
                with sample(number):
                    pass
            if not (child := os.fork()):
                with sample(9):
                    pass
                os._exit(0)
            os.waitpid(child, 0)
        lines = (tmp_path / "scopes").read_text().splitlines()[1:]
    finally:
        context.log_scopes(None)
    scopes = [scope for line in lines for scope in scopes_in(line)]
    ours = threading.get_native_id()
    assert [scope[3:5] for scope in scopes if scope[0] == ours] == [*((n, 1) for n in range(3)), (-1, 1)]
    assert [scope[3:5] for scope in scopes if scope[0] == child] == [(9, 1)]
    assert all(scope[1] <= scope[2] for scope in scopes)


def scopes_in(line):
    return list(struct.iter_unpack("=7q", bytes.fromhex(line)))


def test_a_number_that_no_trace_can_hold_loses_its_own_scope_alone(tmp_path):
    context.log_scopes(str(tmp_path / "scopes"))
    try:
        with step(4):
            with sample(1 << 80):
                pass
            with sample(5):
                pass
    finally:
        context.log_scopes(None)
    (line,) = (tmp_path / "scopes").read_text().splitlines()[1:]
    assert [scope[3:5] for scope in scopes_in(line)] == [(5, 4), (-1, 4)]


def test_a_rank_that_a_process_learns_late_is_in_the_log(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    context.log_scopes(str(tmp_path / "scopes"))
    try:
        with step(0):
            pass
        monkeypatch.setenv("RANK", "3")
    finally:
        context.log_scopes(None)
    lines = (tmp_path / "scopes").read_text().splitlines()
    assert [lines[0], lines[-1]] == [f"joined,{os.getpid()},-1", f"joined,{os.getpid()},3"]


def test_a_line_that_was_cut_short_loses_its_own_scopes_alone(tmp_path):
    context.log_scopes(str(tmp_path / "scopes"))
    with step(7):
        pass
    context.log_scopes(None)
    whole = (tmp_path / "scopes").read_text().splitlines()[1]
    (tmp_path / "scopes").write_text(f"{whole[:50]}\n{whole}\n{whole[:-1]}x\n")
    batch = pa.RecordBatch.from_pydict(
        {
            "pid": [os.getpid()],
            "tid": [threading.get_native_id()],
            "t_submit": [scopes_in(whole)[0][1]],
        }
    )
    assert Scopes(tmp_path / "scopes").place(batch).column("step").to_pylist() == [7]


def test_entered_scopes_nest_in_others_and_others_in_them():
    outer = enter(None, 3)
    inner = enter(8)
    assert where() == (8, 3) == _seen_by_a_bare_thread()
    with sample(9):
        assert where() == (9, 3)
        innermost = enter(None, 4)
        assert where() == (9, 4)
        leave(innermost)
    assert where() == (8, 3)
    leave(inner)
    assert where() == (None, 3) == _seen_by_a_bare_thread()
    leave(outer)
    assert where() == (None, None)
    assert not context._open


def test_generators_see_the_same_in_an_entered_scope_as_in_one_of_a_with_statement():
    @contextlib.contextmanager
    def entered(sample_id: int):
        scope = enter(sample_id)
        try:
            yield
        finally:
            leave(scope)

    def reader(number: int):
        yield where()
        with sample(number), step(number + 10):
            while True:
                yield where()

    def seen(around):
        readers = [reader(number) for number in range(2)]
        found = []
        for turn in range(3):
            for one in readers:
                with around(50 + turn):
                    found += [next(one), where()]
                found.append(where())
        for one in readers:
            one.close()
        assert where() == (None, None)
        return found

    found = seen(sample)
    assert found[:2] == [(50, None), (50, None)] and (0, 10) in found
    assert seen(entered) == found


def test_a_task_that_outlives_an_entered_scope_falls_back_to_the_one_around_it():
    async def late(seen: list[tuple[int | None, int | None]], ready: asyncio.Event) -> None:
        await ready.wait()
        seen.append(where())

    async def main() -> list[tuple[int | None, int | None]]:
        seen: list[tuple[int | None, int | None]] = []
        ready = asyncio.Event()
        with step(2):
            scope = enter(5)
            task = asyncio.create_task(late(seen, ready))
            leave(scope)
            scope = enter(6)
            ready.set()
            await task
            leave(scope)
        return seen

    assert asyncio.run(main()) == [(None, 2)]


def test_a_child_that_is_forked_inside_an_entered_scope_does_not_log_it(tmp_path):
    context.log_scopes(str(tmp_path / "scopes"))
    try:
        scope = enter(1, 2)
        if not (child := os.fork()):
            leave(enter(7))
            leave(scope)
            os._exit(0 if where() == (None, None) else 1)
        assert os.waitpid(child, 0)[1] == 0
        leave(scope)
    finally:
        context.log_scopes(None)
    logged = [
        scope for line in (tmp_path / "scopes").read_text().splitlines()[1:] for scope in scopes_in(line)
    ]
    assert [scope[3:5] for scope in logged if scope[0] == child] == [(7, 2)]
    assert [scope[3:5] for scope in logged if scope[0] != child] == [(1, 2)]


def test_scopes_of_threads_that_end_at_once_are_each_logged_once(tmp_path):
    context.log_scopes(str(tmp_path / "scopes"))

    def batches(first: int) -> None:
        for number in range(first, first + 200):
            outer = enter(None, number)
            leave(enter(number))
            leave(outer)

    try:
        threads = [threading.Thread(target=batches, args=(1000 * number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        context.log_scopes(None)
    logged = [
        scope for line in (tmp_path / "scopes").read_text().splitlines()[1:] for scope in scopes_in(line)
    ]
    samples = [scope[3] for scope in logged if scope[3] >= 0]
    assert sorted(samples) == [1000 * thread + number for thread in range(4) for number in range(200)]
    assert len(logged) == 2 * len(samples)


def test_what_is_counted_with_scopes_is_written_with_them_and_not_by_a_child(tmp_path):
    assert not context.counted_with_scopes({"fetches": 1})
    context.log_scopes(str(tmp_path / "scopes"))
    try:
        with step(1):
            assert context.counted_with_scopes({"fetches": 1, "fetch_ns": 70})
            if not (child := os.fork()):
                os._exit(0 if context.counted_with_scopes({"fetches": 4}) else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert Scopes(tmp_path / "scopes").counters == {}
        found = Scopes(tmp_path / "scopes")
        assert found.counters == {"fetches": 1, "fetch_ns": 70}
        with step(2):
            context.counted_with_scopes({"fetches": 1})
        found.refresh()
        assert found.counters == {"fetches": 2, "fetch_ns": 70}
    finally:
        context.log_scopes(None)
