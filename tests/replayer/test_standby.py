"""Standby of compiled workers: where ops are due close to each other, one keeps the times while it can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tracekit
from tracekit.replayer.engines import words
from tracekit.replayer.engines.jit import call
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

pytest.importorskip("numba", reason="numba is not installed (extra `fast`)")

US, SECOND = 1_000, 1_000_000_000


class Workers:
    """What the compiled workers of a replay share, seen by one of them; times in ns from now."""

    def __init__(self, *due: int, awaiting: int = 1, following: int = 1) -> None:
        self.header, self.clock = np.zeros(8, np.int64), np.zeros(4, np.int64)
        self.control = np.zeros(words.CONTROL_WIDTH, np.int64)
        self.state = np.zeros(words.STATE_WIDTH, np.int64)
        self.state[words.CURRENT] = -1  # until it has stood by
        self.header[words.READY] = len(due)
        self.control[words.NEXT], self.control[words.AWAITING] = following, awaiting
        self.due = np.array(due, np.int64)
        self.control[words.START] = self.now()

    def now(self) -> int:
        """The time of the compiled workers."""
        return call("native.now", self.clock)

    def stands_by(self) -> bool:
        """Have the worker take its next op; return whether it stood by before."""
        call("standby.stand_by", self.header, self.due, self.control, self.state, self.clock)
        assert not self.control[words.STANDING_BY] and not self.state[words.IDLE]
        return bool(self.state[words.CURRENT] >= 0)

    def take_turns(self) -> int:
        """Have all take turns; for how many ns."""
        call("standby._take_turns", self.control, self.clock)
        return int(self.control[words.TURNS_NS])


def test_a_worker_stands_by_while_another_waits_for_an_op_close_before() -> None:
    assert Workers(SECOND, -SECOND).stands_by()  # and ends it because the next op is late
    assert Workers(-SECOND, following=0).stands_by()  # before the first op none can be late


@pytest.mark.parametrize(
    ("due", "settings"),
    [
        ((SECOND, -SECOND), {"awaiting": 0}),
        ((SECOND, SECOND), {}),
        ((-SECOND, -SECOND), {}),
        ((SECOND,), {}),
    ],
    ids=["none waits", "the next op is far off", "who waits is late", "no op is left"],
)
def test_a_worker_takes_the_next_op_at_once(due: tuple[int, ...], settings: dict[str, Any]) -> None:
    assert not Workers(*due, **settings).stands_by()


def test_a_worker_does_not_stand_by_while_all_take_turns_or_the_replay_stops() -> None:
    workers = Workers(SECOND, -SECOND)
    workers.control[words.TURNS_UNTIL] = workers.now() + 10 * SECOND
    assert not workers.stands_by()
    workers = Workers(SECOND, -SECOND)
    workers.header[words.STOP] = 1
    assert not workers.stands_by()


def test_workers_that_wait_for_a_processor_do_not_make_all_take_turns() -> None:
    workers = Workers(SECOND, -SECOND)
    workers.stands_by()
    assert workers.control[words.TURNS_UNTIL] == 0


def test_turns_last_longer_each_time_that_they_were_too_short() -> None:
    workers = Workers(SECOND, -SECOND)
    lasted = [workers.take_turns()]
    for _ in range(12):
        workers.control[words.TURNS_UNTIL] = workers.now()  # they have just ended
        lasted.append(workers.take_turns())
    assert lasted == [min(1_000_000 << n, SECOND) for n in range(13)]
    assert workers.take_turns() == SECOND and workers.control[words.CALLS] == 13  # another one saw it as well
    workers.control[words.TURNS_UNTIL] -= 10 * SECOND
    assert workers.take_turns() == 1_000_000


@pytest.mark.parametrize("most", [None, 2])
def test_every_op_goes_once_at_a_high_rate(tmp_path: Path, most: int | None) -> None:
    data, trace, ops = tmp_path / "data", tmp_path / "trace", 20_000
    data.write_bytes(bytes(1 << 20))
    with TraceWriter(trace, source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": np.arange(ops) * 4 * US,
                    "uri": [f"file://{data}"] * ops,
                    "offset": np.arange(ops) % 256 * 4096,
                    "len": np.full(ops, 4096),
                    "latency": np.full(ops, 5 * US),
                    "sample_id": np.arange(ops),
                }
            )
        )
    result = tracekit.replay(
        trace, out=tmp_path / "out", threads=4, max_workers=6, tolerance=1e9, max_ops_in_flight=most
    )
    assert result.ops == ops and result.failed_ops == 0 and result.client.fallback is None
    rows = open_reader(tmp_path / "out").query(
        "SELECT count(*) AS rows, count(DISTINCT plan_op) AS ops, min(t_submit - t_due) >= 0 AS due FROM ops"
    )
    assert rows.to_pylist() == [{"rows": ops, "ops": ops, "due": True}]
