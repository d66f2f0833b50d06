"""The meter: which interval an op belongs to, and the numbers of each."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tracekit.live.reading import HISTORY, Meter, Reading
from tracekit.store.tail import COLUMNS, as_ops

SECOND = 10**9


def ops(*rows: dict[str, Any]) -> pa.Table:
    texts = {"uri": pa.string(), "op": pa.string(), "error": pa.string()}
    return as_ops(
        pa.table(
            {name: pa.array([row.get(name) for row in rows], texts.get(name, pa.int64())) for name in COLUMNS}
        )
    )


def op(t: int, latency: int | None = 1000, **more: Any) -> dict[str, Any]:
    return {
        "t_submit": t,
        "uri": "file:///d/a",
        "op": "read",
        "len": 100,
        "bytes": 100,
        "latency": latency,
        **more,
    }


def readings(meter: Meter, until: int | None = None) -> list[Reading]:
    return list(meter.close(until))


def test_an_op_belongs_to_the_interval_in_which_it_ended() -> None:
    meter = Meter(SECOND)
    meter.add([ops(op(0), op(SECOND // 2, SECOND), op(2 * SECOND, 7))])
    found = readings(meter, 3 * SECOND)
    assert [reading.ops for reading in found] == [1, 1, 1]
    assert [reading.total_ops for reading in found] == [1, 2, 3]
    assert [reading.end_unix_ns for reading in found] == [SECOND, 2 * SECOND, 3 * SECOND]


def test_an_interval_without_ops_has_a_reading_with_all_known_workers() -> None:
    meter = Meter(SECOND)
    meter.add([ops(op(0, rank=1, worker=2), op(3 * SECOND))])
    first, second, third, last = readings(meter, 4 * SECOND)
    assert (second.ops, second.read_bytes, second.latency, second.in_flight) == (0, 0, None, None)
    assert [(each.rank, each.worker, each.ops) for each in third.workers] == [(1, 2, 0)]
    assert [(each.rank, each.worker, each.ops) for each in last.workers] == [(0, 0, 1), (1, 2, 0)]
    assert first.workers[0].p99_ns == 1000


def test_late_ops_count_in_the_next_interval() -> None:
    meter = Meter(SECOND)
    meter.add([ops(op(0), op(SECOND))])
    assert [reading.ops for reading in readings(meter, 2 * SECOND)] == [1, 1]
    meter.add([ops(op(SECOND // 2))])
    (late,) = readings(meter, 3 * SECOND)
    assert (late.ops, late.total_ops) == (1, 3)


def test_rates_of_the_cut_first_and_last_interval_are_over_the_time_that_they_cover() -> None:
    meter = Meter(SECOND)
    meter.add([ops(op(SECOND // 2), op(SECOND + 10), op(SECOND + SECOND // 4 - 1000))])
    first, last = readings(meter)
    assert (first.interval_ns, last.interval_ns) == (SECOND // 2, SECOND // 4)
    assert (first.ops_per_s, last.ops_per_s) == (2.0, 8.0)


def test_unknown_is_not_zero() -> None:
    meter = Meter(SECOND)
    meter.add([ops(op(0, None, bytes=None), op(5, None, bytes=None, op="write"))])
    (found,) = readings(meter)
    assert (found.read_bytes, found.write_bytes, found.total_bytes) == (None, None, None)
    assert (found.latency, found.in_flight, found.lateness) == (None, None, None)


def test_mean_in_flight_is_the_response_time_over_the_interval() -> None:
    meter = Meter(SECOND)
    meter.add([ops(op(0, SECOND // 2), op(0, SECOND // 4, wait_ns=SECOND // 4), op(0, SECOND - 1))])
    (found,) = readings(meter, SECOND)
    assert found.in_flight is not None and abs(found.in_flight - 2.0) < 1e-6


def test_quantiles_errors_and_lateness_are_exact() -> None:
    meter = Meter(SECOND)
    meter.add(
        [ops(*(op(1000 + i, i + 1, t_due=1000, error="timeout" if i < 3 else None) for i in range(100)))]
    )
    (found,) = readings(meter, SECOND)
    assert found.latency is not None and found.lateness is not None
    assert (found.latency.p50_ns, found.latency.p90_ns, found.latency.p99_ns, found.latency.max_ns) == (
        50,
        90,
        99,
        100,
    )
    assert (found.lateness.p50_ns, found.lateness.max_ns) == (49, 99)
    assert (found.errors, found.failed_ops, found.total_failed_ops) == ({"timeout": 3}, 3, 3)


def test_what_is_long_past_is_counted_but_not_measured() -> None:
    meter = Meter(SECOND)
    meter.add([ops(*(op(i * SECOND) for i in range(HISTORY + 40)))])
    found = readings(meter, (HISTORY + 40) * SECOND)
    assert len(found) == HISTORY
    assert found[0].total_ops == 41 and found[-1].total_ops == HISTORY + 40


def test_a_long_pause_gives_no_flood_of_empty_intervals() -> None:
    meter = Meter(SECOND)
    meter.add([ops(op(0))])
    assert len(readings(meter, SECOND)) == 1
    assert len(readings(meter, 10_000 * SECOND)) <= HISTORY
    meter.add([ops(op(10_000 * SECOND))])
    assert readings(meter, 10_001 * SECOND)[-1].total_ops == 2


def test_the_slowest_files_are_those_with_the_longest_op_and_hints_are_left_out() -> None:
    meter = Meter(SECOND)
    meter.add(
        [ops(op(0, 10, uri="b"), op(1, 30, uri="b"), op(2, 20, uri="a"), op(3, 9999, uri="h", op="hint"))]
    )
    (found,) = readings(meter, SECOND)
    assert [(each.uri, each.ops, each.mean_ns, each.max_ns) for each in found.slowest] == [
        ("b", 2, 20, 30),
        ("a", 1, 20, 20),
    ]
    assert found.ops == 3


def test_a_reading_is_json_with_units_in_its_names() -> None:
    meter = Meter(SECOND)
    meter.add([ops(op(0))])
    (found,) = readings(meter, SECOND)
    facts = found.to_dict()
    assert (facts["ops_per_s"], facts["read_bytes_per_s"], facts["latency"]["p99_ns"]) == (1.0, 100.0, 1000)
