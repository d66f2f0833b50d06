"""The effect of every option on the ops of a recorded trace."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracekit.errors import BackendError
from tracekit.loader.dataset import create_dataset
from tracekit.loader.loader import create_async_loader
from tracekit.loader.profiles import PROFILES, profile
from tracekit.options import LOADER
from tracekit.store.reader import TraceReader, open_reader

FILES, SIZE = 40, 20_000

Record = Callable[..., TraceReader]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index in range(FILES):
        (folder / f"{index:03}.bin").write_bytes(os.urandom(SIZE))
    return folder


@pytest.fixture
def record(data: Path, tmp_path: Path) -> Record:
    """Run the loader over the data (or `uri`) with options and return its trace."""
    runs = iter(range(100))

    def run(options: Any = None, *, uri: str = "", epochs: int = 1, **given: Any) -> TraceReader:
        path = tmp_path / f"trace{next(runs)}"
        with create_async_loader(uri or f"file://{data}", options, path, **given) as loader:
            for _ in range(epochs):
                for _batch in loader:
                    pass
        return open_reader(path)

    return run


def column(trace: TraceReader, sql: str) -> list[Any]:
    return [row["x"] for row in trace.query(sql).to_pylist()]


def samples_in_order(trace: TraceReader) -> list[int]:
    """Sample ids by the first read of each turn, in the order of their submission."""
    return column(trace, "SELECT sample_id AS x FROM ops WHERE op = 'read' ORDER BY t_submit")


def steps(trace: TraceReader) -> dict[int, set[int]]:
    rows = trace.query(
        "SELECT step, list(DISTINCT sample_id) AS ids FROM ops WHERE op = 'read' GROUP BY step"
    )
    return {row["step"]: set(row["ids"]) for row in rows.to_pylist()}


def test_every_op_is_a_row_with_sample_step_and_worker(record: Record, data: Path) -> None:
    trace = record(batch_size=8, target_request_bytes=8192, page_cache_mode="fadvise_random")
    counts = {
        row["op"]: row["n"]
        for row in trace.query("SELECT op, count(*) AS n FROM ops GROUP BY op").to_pylist()
    }
    assert counts == {"list": 1, "stat": FILES, "hint": FILES, "read": 3 * FILES}
    assert column(
        trace, "SELECT count(*) AS x FROM ops WHERE op != 'list' AND (sample_id IS NULL OR step IS NULL)"
    ) == [0]
    assert column(trace, "SELECT sum(bytes)::BIGINT AS x FROM ops WHERE op = 'read'") == [FILES * SIZE]
    assert column(trace, "SELECT DISTINCT uri AS x FROM ops WHERE sample_id = 7") == [
        f"file://{data}/007.bin"
    ]
    assert trace.counters["hints_applied"] == FILES
    assert trace.source == "loader"
    assert trace.options["uri"] == f"file://{data}"
    assert set(trace.options) >= set(LOADER)


def test_batch_size_is_the_samples_of_a_step(record: Record) -> None:
    assert {step: len(ids) for step, ids in steps(record(batch_size=12)).items()} == {
        0: 12,
        1: 12,
        2: 12,
        3: 4,
    }


def test_drop_last_reads_no_batch_that_is_not_full(record: Record) -> None:
    assert {step: len(ids) for step, ids in steps(record(batch_size=12, drop_last=True)).items()} == {
        0: 12,
        1: 12,
        2: 12,
    }


def test_num_workers_is_how_many_workers_read(record: Record) -> None:
    for workers in (1, 3):
        trace = record(num_workers=workers, page_cache_mode="direct_io", target_request_bytes=512)
        assert column(trace, "SELECT DISTINCT worker AS x FROM ops WHERE op = 'read' ORDER BY 1") == list(
            range(workers)
        )


def test_one_worker_reads_one_op_at_a_time(record: Record) -> None:
    trace = record(num_workers=1, prefetch=8)
    overlaps = "SELECT count(*) AS x FROM (SELECT t_submit - lag(t_submit + latency) OVER (ORDER BY t_submit) AS gap FROM ops) WHERE gap < 0"
    assert column(trace, overlaps) == [0]


@pytest.mark.parametrize(("prefetch", "ahead"), [(0, 1), (1, 2), (4, 5)])
def test_prefetch_is_how_many_batches_are_read_before_they_are_asked_for(
    data: Path, tmp_path: Path, prefetch: int, ahead: int
) -> None:
    path = tmp_path / "trace"
    with create_async_loader(str(data), recorder=path, batch_size=4, prefetch=prefetch) as loader:
        batches = iter(loader)
        next(batches)
        _wait_for_workers(batches)
        del batches
    assert sorted(steps(open_reader(path))) == list(range(ahead))


def _wait_for_workers(batches: Any) -> None:
    """Wait until every submitted batch is done."""
    engine = batches.engine
    for box in list(engine._boxes.values()):
        box.future.result(30)


def test_sequential_loading_reads_a_step_only_when_it_is_asked_for(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with create_async_loader(
        str(data), recorder=path, batch_size=4, prefetch=4, loading_mode="sequential"
    ) as loader:
        for _ in loader:
            pass
    trace = open_reader(path)
    spans = trace.query(
        "SELECT step, min(t_submit) AS first, max(t_submit + latency) AS last FROM ops WHERE op = 'read' GROUP BY step ORDER BY step"
    ).to_pylist()
    assert len(spans) == 10
    assert all(before["last"] <= after["first"] for before, after in pairwise(spans))


def test_prefetching_overlaps_the_reads_of_steps(record: Record) -> None:
    trace = record(batch_size=4, prefetch=4, num_workers=4, target_request_bytes=512)
    spans = trace.query(
        "SELECT step, min(t_submit) AS first, max(t_submit + latency) AS last FROM ops WHERE op = 'read' GROUP BY step ORDER BY step"
    ).to_pylist()
    assert any(after["first"] < before["last"] for before, after in pairwise(spans))


def test_an_async_pool_makes_batches_of_what_finishes_first(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "0-slow").write_bytes(os.urandom(16 << 20))
    for index in range(1, 24):
        (folder / f"{index:02}-fast").write_bytes(b"x" * 100)
    options = {"batch_size": 4, "num_workers": 4, "prefetch": 4, "target_request_bytes": 512}
    for mode, step in (("prefetch", 0), ("async_pool", 5)):
        with create_async_loader(str(folder), options, tmp_path / mode, loading_mode=mode) as loader:
            sizes = [len(batch.samples) for batch in loader]
        assert sizes == [4] * 6
        trace = open_reader(tmp_path / mode)
        (got,) = column(trace, "SELECT DISTINCT step AS x FROM ops WHERE sample_id = 0 AND op = 'read'")
        assert got == step if mode == "prefetch" else got > 0
        assert sorted(sample for ids in steps(trace).values() for sample in ids) == list(range(24))


def test_shuffle_reads_every_sample_once_in_another_order(record: Record) -> None:
    plain = samples_in_order(record(num_workers=1))
    assert plain == list(range(FILES))
    mixed = samples_in_order(record(num_workers=1, shuffle=True))
    assert mixed != plain
    assert sorted(mixed) == plain
    near = samples_in_order(record(num_workers=1, shuffle=4))
    assert sorted(near) == plain != near
    assert all(sample < turn + 4 for turn, sample in enumerate(near))


def test_seed_decides_the_order(record: Record) -> None:
    orders = [samples_in_order(record(num_workers=1, shuffle=True, seed=seed)) for seed in (5, 5, 6)]
    assert orders[0] == orders[1] != orders[2]


def test_each_epoch_has_its_own_order_and_steps_go_on(record: Record) -> None:
    trace = record(num_workers=1, shuffle=True, batch_size=10, epochs=2)
    order = samples_in_order(trace)
    assert sorted(order[:FILES]) == sorted(order[FILES:]) == list(range(FILES))
    assert order[:FILES] != order[FILES:]
    assert sorted(steps(trace)) == list(range(8))


def test_shards_share_the_samples_out_and_carry_their_rank(record: Record) -> None:
    seen: list[int] = []
    for rank in range(3):
        trace = record(shard_rank=rank, shard_world_size=3, shuffle=True)
        assert column(trace, "SELECT DISTINCT rank AS x FROM ops") == [rank]
        seen += column(trace, "SELECT DISTINCT sample_id AS x FROM ops WHERE op = 'read'")
    assert sorted(seen) == list(range(FILES))


def test_sequential_reading_takes_a_sample_from_front_to_back_in_one_worker(record: Record) -> None:
    trace = record(reader_mode="sequential", target_request_bytes=4096, num_workers=4)
    rows = trace.query(
        "SELECT sample_id, list(worker ORDER BY t_submit) AS workers, list(\"offset\" ORDER BY t_submit) AS offsets FROM ops WHERE op = 'read' GROUP BY ALL"
    ).to_pylist()
    assert len(rows) == FILES
    assert all(
        len(set(row["workers"])) == 1 and row["offsets"] == [0, 4096, 8192, 12288, 16384] for row in rows
    )


def test_range_reading_spreads_a_sample_over_the_workers(tmp_path: Path, record: Record) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "large").write_bytes(os.urandom(4 << 20))
    trace = record(
        uri=f"direct://{tmp_path}/one", reader_mode="range", target_request_bytes=4096, num_workers=4
    )
    rows = trace.query(
        'SELECT worker, "offset", len FROM ops WHERE op = \'read\' ORDER BY "offset"'
    ).to_pylist()
    assert [row["offset"] for row in rows] == list(range(0, 4 << 20, 4096))
    assert {row["worker"] for row in rows} == {0, 1, 2, 3}
    assert column(trace, "SELECT count(*) AS x FROM ops WHERE op = 'stat'") == [1]


@pytest.mark.parametrize("mode", ["sequential", "range"])
@pytest.mark.parametrize(
    ("target", "lengths"),
    [(None, {SIZE}), ("64KiB", {SIZE}), (SIZE, {SIZE}), ("6KB", {6000, 2000}), (7, {7, 1})],
)
def test_target_request_bytes_is_the_size_of_the_requests(
    record: Record, mode: str, target: Any, lengths: set[int]
) -> None:
    trace = record(reader_mode=mode, target_request_bytes=target)
    assert set(column(trace, "SELECT DISTINCT len AS x FROM ops WHERE op = 'read'")) == lengths


def test_sample_bytes_makes_records_of_files(record: Record) -> None:
    trace = record(sample_bytes=5000, batch_size=16)
    assert set(column(trace, "SELECT sample_id AS x FROM ops WHERE op = 'read'")) == set(range(4 * FILES))
    assert column(trace, "SELECT DISTINCT \"offset\" AS x FROM ops WHERE sample_id = 7 AND op = 'read'") == [
        15_000
    ]
    assert column(trace, "SELECT count(*) AS x FROM ops WHERE op = 'stat'") == [FILES]


def sweep(trace: TraceReader) -> int:
    """Return the most bytes in flight at once; of simultaneous events, ends count first."""
    rows = trace.query("SELECT t_submit, latency, len FROM ops WHERE op IN ('read', 'get')")
    begin, size = rows["t_submit"].to_numpy(), rows["len"].to_numpy()
    end = begin + rows["latency"].to_numpy()
    times = np.concatenate([begin, end])
    moves = np.concatenate([size, -size])
    return int(np.cumsum(moves[np.lexsort((moves > 0, times))]).max())


@pytest.mark.parametrize("mode", ["sequential", "range"])
@pytest.mark.parametrize("loading", ["prefetch", "async_pool"])
def test_64_workers_wanting_1_mib_each_never_exceed_an_8_mib_cap(
    tmp_path: Path, record: Record, mode: str, loading: str
) -> None:
    folder = tmp_path / "mib"
    folder.mkdir()
    for index in range(128):
        with (folder / f"{index:03}").open("wb") as file:
            file.truncate(1 << 20)
    options = {
        "num_workers": 64, "batch_size": 64, "target_request_bytes": "1MiB", "reader_mode": mode,
        "loading_mode": loading,
    }  # fmt: skip

    capped = record(options, uri=f"file://{folder}", max_bytes_in_flight="8MiB")
    assert column(capped, "SELECT count(*) AS x FROM ops WHERE op = 'read'") == [128]
    assert 1 << 20 <= sweep(capped) <= 8 << 20


def test_an_op_larger_than_the_cap_goes_alone(record: Record) -> None:
    trace = record(num_workers=8, max_bytes_in_flight=1000, target_request_bytes=None)
    assert sweep(trace) == SIZE
    assert sweep(record(num_workers=8, max_bytes_in_flight=30_000, target_request_bytes=8000)) <= 30_000


def test_waiting_at_the_gate_is_counted_and_in_no_latency(data: Path, tmp_path: Path) -> None:
    options = {"batch_size": 40, "num_workers": 1, "max_bytes_in_flight": SIZE, "target_request_bytes": SIZE}
    with create_async_loader(str(data), options, tmp_path / "trace") as loader:
        loader.gate.acquire(SIZE)  # somebody else's bytes
        threading.Timer(0.5, loader.gate.release, (SIZE,)).start()
        for _ in loader:
            pass
    trace = open_reader(tmp_path / "trace")
    assert trace.counters["gate_waits"] == 1
    assert trace.counters["gate_wait_ns"] > 0
    began = column(
        trace, "SELECT min(t_submit) FILTER (op = 'read') - min(t_submit) FILTER (op = 'stat') AS x FROM ops"
    )
    assert began[0] > 200_000_000


def test_the_cap_counts_what_is_read_and_not_handed_over(data: Path, tmp_path: Path) -> None:
    options = {"batch_size": 4, "prefetch": 8, "max_bytes_in_flight": 10 * SIZE}
    with create_async_loader(str(data), options, tmp_path / "trace") as loader:
        batches = iter(loader)
        batch = next(batches)
        assert batch.nbytes == 4 * SIZE
        del batches
    (read,) = column(
        open_reader(tmp_path / "trace"), "SELECT sum(bytes)::BIGINT AS x FROM ops WHERE op = 'read'"
    )
    assert read <= 14 * SIZE


@pytest.mark.parametrize("mode", ["uniform", "zipfian"])
def test_random_index_modes_draw_with_replacement(record: Record, mode: str) -> None:
    trace = record(sample_bytes=500, random_index_mode=mode, zipf_theta=1.2, seed=3)
    counts = np.bincount(samples_in_order(trace), minlength=40 * FILES)
    assert counts.sum() == 40 * FILES
    drawn = (counts > 0).mean()
    assert 0.6 < drawn < 0.67 if mode == "uniform" else drawn < 0.4
    assert (counts[:16].sum() > counts.sum() / 2) == (mode == "zipfian")


def test_a_sample_that_is_drawn_again_is_opened_again(record: Record) -> None:
    trace = record(random_index_mode="zipfian", zipf_theta=3.0, num_workers=8)
    assert column(trace, "SELECT count(*) AS x FROM ops WHERE op = 'stat'") == [FILES]


def test_zipf_theta_sets_the_share_of_the_hottest_sample(record: Record) -> None:
    shares = []
    for theta in (0.5, 1.5):
        order = samples_in_order(record(sample_bytes=500, random_index_mode="zipfian", zipf_theta=theta))
        shares.append(order.count(0) / len(order))
    assert shares[0] < 0.05 < 0.3 < shares[1]


@pytest.mark.parametrize(
    ("mode", "hints", "direct"),
    [
        ("default", 0, 0),
        ("fadvise_random", FILES, 0),
        ("fadvise_sequential", FILES, 0),
        ("dontneed", FILES + 3 * FILES, 0),
        ("direct_io", 0, 3 * FILES),
    ],
)
def test_page_cache_mode_shows_in_hint_ops_and_counters(
    record: Record, mode: str, hints: int, direct: int
) -> None:
    trace = record(page_cache_mode=mode, target_request_bytes=8192)
    assert column(trace, "SELECT count(*) AS x FROM ops WHERE op = 'hint'") == [hints]
    assert trace.counters.get("hints_applied", 0) == hints
    assert trace.counters.get("direct_reads", 0) == direct


def test_a_direct_uri_reads_the_same_ops_past_the_cache(record: Record, data: Path) -> None:
    trace = record(uri=f"direct://{data}", target_request_bytes=8192)
    assert trace.counters["direct_reads"] == 3 * FILES
    assert column(trace, "SELECT count(*) AS x FROM ops WHERE op = 'read' AND uri LIKE 'direct://%'") == [
        3 * FILES
    ]


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_reads_the_whole_dataset_as_it_says(record: Record, name: str) -> None:
    options = profile(name)
    trace = record(options)
    target = options.target_request_bytes
    assert target is not None
    reads = trace.query(
        "SELECT max(len) AS longest, count(DISTINCT step) AS steps FROM ops WHERE op = 'read'"
    ).to_pylist()[0]
    assert reads["longest"] == min(target, SIZE)
    assert reads["steps"] == -(-FILES // options.batch_size)
    order = samples_in_order(trace)
    assert (len(set(order)) < FILES) == (options.random_index_mode == "uniform")


def test_a_failed_read_is_a_row_with_its_class(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(4):
            (tmp_path / name / str(index)).write_bytes(b"x" * 1000)
    for name, spoil, expected in (
        ("a", lambda path: path.unlink(), ("stat", "not_found", 0)),
        ("b", lambda path: path.write_bytes(b"short"), ("read", "short_read", 5)),
    ):
        dataset = create_dataset(str(tmp_path / name))
        spoil(tmp_path / name / "2")
        with (
            create_async_loader(dataset, recorder=tmp_path / f"trace-{name}", batch_size=1) as loader,
            pytest.raises(BackendError) as caught,
        ):
            for step, batch in enumerate(loader):
                assert (batch.step, step < 2) == (step, True)
        assert caught.value.error_class == expected[1]
        rows = (
            open_reader(tmp_path / f"trace-{name}")
            .query("SELECT op, error, bytes, sample_id FROM ops WHERE error IS NOT NULL")
            .to_pylist()
        )
        assert rows == [{"op": expected[0], "error": expected[1], "bytes": expected[2], "sample_id": 2}]
