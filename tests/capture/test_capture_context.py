import asyncio
import contextlib
import itertools
import os
import struct
import threading
import time
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracekit.capture import context
from tracekit.capture.context import enter, enter_batch, leave, leave_batch, sample, step, where
from tracekit.capture.scopes import Scopes

NUMBERS = itertools.count()


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


def fetch(batch, indices, load=lambda index: None):
    """What a loader's loop does."""
    return [load(index) for index in batch.served(indices)]


def test_in_a_batch_the_sample_is_the_one_that_is_being_fetched():
    seen = []
    with sample(50):
        batch = enter_batch(3, range(100, 120))
        assert where() == (50, 3)
        fetch(batch, range(20), lambda index: seen.append((index, where(), _seen_by_a_bare_thread())))
        assert where() == (50, 3)
        leave_batch(batch)
        assert where() == (50, None)
    assert seen == [(index, (100 + index, 3), (100 + index, 3)) for index in range(20)]
    assert not context._open


def test_a_scope_inside_a_batch_inherits_its_sample_and_step():
    batch = enter_batch(3, "ab")
    (first, *_) = iter(batch.served([0, 1]))
    leave_batch(batch)
    assert (first, where()) == (0, (None, None))
    batch = enter_batch(3, [7])
    batch.one()
    with step(4):
        assert where() == (7, 4)
    with sample(8):
        assert where() == (8, 3)
    leave_batch(batch)


@pytest.mark.parametrize("in_a_batch", [False, True])
def test_a_generator_goes_on_in_its_scope_after_another_scope_beside_it(in_a_batch):
    def inner():
        with sample(7):
            while True:
                yield where()

    def outer():
        with sample(3):
            items = inner()
            next(items)
            if in_a_batch:
                leave_batch(enter_batch(1, [5]))
            else:
                leave(enter(5, 1))
            yield next(items), where()
            items.close()

    assert list(outer()) == [((7, None), (3, None))]


class Stop(Exception):
    pass


KEYS = st.one_of(st.integers(0, 1 << 62), st.sampled_from(["key", None, 1.5, -3, 1 << 70]))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(st.tuples(st.lists(KEYS, max_size=20), st.integers(0, 25)), min_size=1, max_size=4),
    in_parts=st.booleans(),
)
def test_an_op_in_a_batch_is_placed_in_the_sample_that_was_being_fetched(tmp_path, batches, in_parts):
    """Each sample, and each batch after its samples, does an op; some batches fail at a sample."""
    ops = []
    path = tmp_path / str(next(NUMBERS))

    def op(key, number):
        known = isinstance(key, int) and 0 <= key < 1 << 63
        ops.append((time.time_ns(), key if known else None, number))

    with mock.patch.object(context, "LONGEST_WAIT_NS", -1 if in_parts else 1 << 60):
        context.log_scopes(str(path))
        try:
            for number, (keys, fails_at) in enumerate(batches):

                def load(index, keys=keys, number=number, fails_at=fails_at):
                    op(keys[index], number)
                    if index == fails_at:
                        raise Stop

                batch = enter_batch(number, keys)
                with contextlib.suppress(Stop):
                    fetch(batch, range(len(keys)), load)
                    op(None, number)
                assert leave_batch(batch, 1000 + number, number - 1)
        finally:
            context.log_scopes(None)
    pid, thread = os.getpid(), threading.get_native_id()
    times = pa.array([at for at, _, _ in ops], pa.int64())
    rows = pa.RecordBatch.from_pydict(
        {"pid": [pid] * len(ops), "tid": [thread] * len(ops), "t_submit": times}
    )
    scopes = Scopes(path)
    placed = scopes.place(rows)
    assert placed.column("sample_id").to_pylist() == [key for _, key, _ in ops]
    assert placed.column("step").to_pylist() == [number for _, _, number in ops]
    many = len(batches)
    expected = {"loader_fetches": many, "loader_fetch_ns": sum(range(1000, 1000 + many))}
    if many > 1:  # the first was not picked up
        expected |= {"loader_pickups": many - 1, "loader_pickup_ns": sum(range(many - 1))}
    assert scopes.counters == expected


def test_the_samples_of_a_long_batch_are_in_the_log_before_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(context, "LONGEST_WAIT_NS", -1)
    path = tmp_path / "scopes"
    context.log_scopes(str(path))
    rows = []

    def load(index):
        row = {"pid": [os.getpid()], "tid": [threading.get_native_id()], "t_submit": [time.time_ns()]}
        rows.append(pa.RecordBatch.from_pydict(row))
        if index == 16:
            assert [Scopes(path).place(row).column("sample_id")[0].as_py() for row in rows] == [
                *range(16),
                None,
            ]

    try:
        batch = enter_batch(0, range(20))
        fetch(batch, range(20), load)
        leave_batch(batch)
    finally:
        context.log_scopes(None)
    placed = Scopes(path).place(pa.Table.from_batches(rows).combine_chunks().to_batches()[0])
    assert placed.column("sample_id").to_pylist() == [*range(20)]
    assert placed.column("step").to_pylist() == [0] * 20


def test_a_child_that_is_forked_inside_a_batch_does_not_log_it(tmp_path):
    context.log_scopes(str(tmp_path / "scopes"))
    try:
        batch = enter_batch(1, [7])
        batch.one()
        if not (child := os.fork()):
            os._exit(1 if leave_batch(batch) else 0)
        assert os.waitpid(child, 0)[1] == 0
        assert leave_batch(batch)
    finally:
        context.log_scopes(None)
    lines = (tmp_path / "scopes").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["joined", "batch"]


def test_a_batch_that_was_cut_short_in_the_log_is_left_out(tmp_path):
    path = tmp_path / "scopes"
    context.log_scopes(str(path))
    for number in range(2):
        batch = enter_batch(number, [7, 8])
        fetch(batch, [0, 1])
        leave_batch(batch, 5)
    context.log_scopes(None)
    joined, first, second = path.read_text().splitlines()
    for cut in range(len(first)):
        path.write_text(f"{joined}\n{first[:cut]}\n{second}\n")
        assert Scopes(path).counters == {"loader_fetches": 1, "loader_fetch_ns": 5}
