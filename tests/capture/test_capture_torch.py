# ruff: noqa: PTH123
import errno
import os
import pickle
from pathlib import Path
from typing import Any, cast

import pytest

from tracekit import capture
from tracekit.capture.hooks.torch import wrap
from tracekit.recorder import Recorder
from tracekit.store.reader import open_reader

torch = pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, Subset  # noqa: E402

RECORD = 1000
SAMPLES = 24


class Records(Dataset):
    """Fixed-size records of one file, read by pread in whatever process asks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.note = "shows through"

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> int:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return os.pread(fd, RECORD, index * RECORD)[0]
        finally:
            os.close(fd)


class BatchedRecords(Records):
    def __getitems__(self, indices: list[int]) -> list[int]:
        assert type(indices) is list
        return [self[index] for index in indices]


class Stream(IterableDataset):
    """The same records, dealt out among the workers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, stride = (0, 1) if info is None else (info.id, info.num_workers)
        with open(self.path, "rb", buffering=0) as file:
            for index in range(first, SAMPLES, stride):
                file.seek(index * RECORD)
                yield file.read(RECORD)[0]


class Keyed(Dataset):
    def __init__(self, path: Path) -> None:
        self.records = Records(path)

    def __getitem__(self, key: str) -> int:
        return self.records[int(key.removeprefix("k"))]

    def __len__(self) -> int:
        return SAMPLES


class Words(Dataset):
    """Its keys are its samples."""

    def __getitem__(self, key: Any) -> Any:
        return key

    def __len__(self) -> int:
        return 8


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "records.bin"
    file.write_bytes(b"".join(bytes([index]) * RECORD for index in range(SAMPLES)))
    return file


def reads(trace: Path) -> list[dict]:
    return (
        open_reader(trace)
        .query("SELECT * FROM ops WHERE op = 'read' ORDER BY ops.offset, t_submit")
        .to_pylist()
    )


def drain(loader: DataLoader) -> list[int]:
    return [int(value) for batch in loader for value in batch]


@pytest.mark.parametrize("dataset", [Records, BatchedRecords])
def test_samples_and_steps_are_known_in_one_process(dataset, path, trace):
    with capture.start(trace, hooks=["files", "torch"]):
        assert drain(DataLoader(dataset(path), batch_size=4)) == list(range(SAMPLES))
    found = reads(trace)
    assert [row["offset"] // RECORD for row in found] == list(range(SAMPLES))
    first = found[0]["step"]
    assert [row["step"] - first for row in found] == [index // 4 for index in range(SAMPLES)]
    if dataset is Records:
        assert [row["sample_id"] for row in found] == list(range(SAMPLES))


@pytest.mark.parametrize("method", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.soak)])
def test_workers_know_sample_step_and_their_own_number(method, path, trace):
    with capture.start(trace, hooks=["files", "torch"]):
        loader = DataLoader(Records(path), batch_size=3, num_workers=2, multiprocessing_context=method)
        assert drain(loader) == list(range(SAMPLES))
    found = reads(trace)
    assert [row["sample_id"] for row in found] == list(range(SAMPLES))
    first = found[0]["step"]
    assert [row["step"] - first for row in found] == [index // 3 for index in range(SAMPLES)]
    assert [row["worker"] for row in found] == [index // 3 % 2 for index in range(SAMPLES)]


def test_spawned_workers_join_without_the_environment(path, trace):
    with capture.start(trace, hooks=["files", "torch"], children=False):
        loader = DataLoader(Records(path), batch_size=3, num_workers=1, multiprocessing_context="spawn")
        assert drain(loader) == list(range(SAMPLES))
    assert [row["sample_id"] for row in reads(trace)] == list(range(SAMPLES))


def test_steps_go_on_over_epochs_with_persistent_workers(path, trace):
    with capture.start(trace, hooks=["files", "torch"]):
        loader = DataLoader(Records(path), batch_size=4, num_workers=2, persistent_workers=True, shuffle=True)
        assert sorted(drain(loader)) == sorted(drain(loader)) == list(range(SAMPLES))
        del loader
    steps = sorted({row["step"] for row in reads(trace)})
    assert steps == list(range(steps[0], steps[0] + 2 * SAMPLES // 4))


@pytest.mark.parametrize(
    "workers, method", [(0, None), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.soak)]
)
def test_workers_of_iterable_datasets_get_distinct_sample_ids(workers, method, path, trace):
    with capture.start(trace, hooks=["files", "torch"]):
        loader = DataLoader(Stream(path), batch_size=4, num_workers=workers, multiprocessing_context=method)
        assert sorted(drain(loader)) == list(range(SAMPLES))
    found = reads(trace)
    assert sorted(row["sample_id"] for row in found) == list(range(SAMPLES))
    assert all(row["sample_id"] == row["offset"] // RECORD for row in found)
    assert len({row["step"] for row in found}) == SAMPLES // 4


def test_batches_of_one_and_without_collation_have_steps(path, trace):
    with capture.start(trace, hooks=["files", "torch"]):
        assert [int(value) for value in DataLoader(Records(path), batch_size=None)] == list(range(SAMPLES))
    found = reads(trace)
    assert [row["step"] - found[0]["step"] for row in found] == list(range(SAMPLES))


def test_keys_that_are_not_numbers_leave_the_sample_id_null(path, trace):
    keys = [f"k{index}" for index in range(SAMPLES)]
    sampler: Any = BatchSampler(cast(Any, keys), 6, drop_last=False)
    with capture.start(trace, hooks=["files", "torch"]):
        assert drain(DataLoader(Keyed(path), batch_sampler=sampler)) == list(range(SAMPLES))
    found = reads(trace)
    assert {row["sample_id"] for row in found} == {None}
    assert len({row["step"] for row in found}) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_a_subset_tells_which_of_its_samples_it_reads(workers, path, trace):
    chosen = [*range(SAMPLES - 1, -1, -2)]
    with capture.start(trace, hooks=["files", "torch"]):
        loader = DataLoader(Subset(Records(path), chosen), batch_size=5, num_workers=workers)
        assert drain(loader) == chosen
    found = {row["offset"] // RECORD: row["sample_id"] for row in reads(trace)}
    assert found == {index: number for number, index in enumerate(chosen)}


def test_a_dataset_that_fetches_a_batch_at_once_does_not_tell_its_samples(path, trace):
    with capture.start(trace, hooks=["files", "torch"]):
        for dataset in (BatchedRecords(path), Subset(BatchedRecords(path), range(SAMPLES))):
            assert drain(DataLoader(dataset, batch_size=5)) == list(range(SAMPLES))
    found = reads(trace)
    assert len(found) == 2 * SAMPLES and {row["sample_id"] for row in found} == {None}
    assert len({row["step"] for row in found}) == 10


@pytest.mark.parametrize("batched", [tuple, list, torch.tensor, iter])
def test_samples_are_known_whatever_a_batch_sampler_yields(batched, path, trace):
    batches: Any = [batched([2 * number, 2 * number + 1]) for number in range(SAMPLES // 2)]
    with capture.start(trace, hooks=["files", "torch"]):
        assert drain(DataLoader(Records(path), batch_sampler=batches)) == list(range(SAMPLES))
    found = reads(trace)
    assert [row["sample_id"] for row in found] == list(range(SAMPLES))
    assert len({row["step"] for row in found}) == SAMPLES // 2


def test_the_hosts_own_objects_are_untouched(path, trace):
    seen = []

    def remember(worker_id: int) -> None:
        seen.append(torch.utils.data.get_worker_info())

    dataset = Records(path)
    with capture.start(trace, hooks=["files", "torch"]):
        loader = DataLoader(
            dataset, batch_sampler=BatchSampler(SequentialSampler(dataset), 4, False), worker_init_fn=remember
        )
        drain(loader)
        assert loader.dataset is dataset and loader.worker_init_fn is remember
    drain(DataLoader(dataset, num_workers=1, worker_init_fn=_must_see_records))


def _must_see_records(worker_id: int) -> None:
    assert type(torch.utils.data.get_worker_info().dataset) is Records


def test_worker_init_sees_the_dataset_itself(path, trace):
    with capture.start(trace, hooks=["files", "torch"]):
        drain(DataLoader(Records(path), num_workers=1, worker_init_fn=_must_see_records))


def test_a_wrapped_dataset_tells_its_samples_without_a_loader(path, trace):
    with capture.start(trace, hooks=["files"]):
        dataset = wrap(Records(path))
        assert dataset.note == "shows through" and len(dataset) == SAMPLES
        dataset[5]
        assert pickle.loads(pickle.dumps(dataset))[6] == 6
        assert next(iter(wrap(Stream(path)))) == 0
    assert [(row["sample_id"], row["offset"]) for row in reads(trace)] == [(0, 0), (5, 5000), (6, 6000)]


def test_an_error_in_a_worker_reaches_the_host(tmp_path, trace):
    with capture.start(trace, hooks=["files", "torch"]), pytest.raises(FileNotFoundError):
        drain(DataLoader(Records(tmp_path / "none"), num_workers=2))


def test_stop_leaves_torch_as_it_was(path, trace):
    from torch.utils.data import _utils, dataloader

    classes = (
        dataloader._BaseDataLoaderIter,
        dataloader._MultiProcessingDataLoaderIter,
        _utils.fetch._MapDatasetFetcher,
        _utils.fetch._IterableDatasetFetcher,
    )
    before = [dict(vars(cls)) for cls in classes]
    with capture.start(trace, hooks=["torch"]):
        assert [dict(vars(cls)) for cls in classes] != before
    assert [dict(vars(cls)) for cls in classes] == before


@pytest.mark.parametrize("workers, ahead, persistent", [(0, 0, False), (2, 6, False), (2, 6, True)])
def test_the_structure_of_a_loader_and_its_consumer_are_counted(workers, ahead, persistent, path, trace):
    with capture.start(trace, hooks=["torch", "files"]):
        more = {"prefetch_factor": 3, "persistent_workers": persistent} if workers else {}
        loader = DataLoader(Records(path), batch_size=4, num_workers=workers, **more)
        for _ in range(2):
            assert len(drain(loader)) == SAMPLES
    counters = open_reader(trace).counters
    batches = 2 * SAMPLES // 4
    assert counters["consumer_batches"] == batches
    assert counters["consumer_epochs"] == 2
    assert counters["loader_workers"] == batches * max(workers, 1)
    assert counters.get("consumer_ahead_batches", 0) == batches * ahead
    assert counters.get("loader_stream_batches", 0) == (batches if workers else 0)
    assert counters["consumer_between_epochs"] == 1
    if not persistent:  # kept workers are terminated at the end, and their last counts may be lost
        assert counters.get("loader_fetches", 0) == (batches if workers else 0)
        # The first batch of a worker waits for the worker to start.
        assert counters.get("loader_pickups", 0) == (batches - 2 * workers if workers else 0)
    assert "hook_errors.torch" not in counters


def test_batches_of_a_loop_that_breaks_off_are_counted(path, trace):
    with capture.start(trace, hooks=["torch"]):
        for number, _ in enumerate(DataLoader(Records(path), batch_size=4)):
            if number == 2:
                break
    counters = open_reader(trace).counters
    assert (counters["consumer_epochs"], counters["consumer_batches"]) == (1, 2)  # nobody asked for a fourth


def test_an_iterator_that_outlives_a_capture_is_counted_by_each(path, tmp_path):
    batches = iter(DataLoader(Records(path), batch_size=4, num_workers=1))
    for number, many in enumerate((3, 2)):
        with capture.start(tmp_path / f"{number}.trace", hooks=["torch"]):
            for _ in range(many):
                next(batches)
        counters = open_reader(tmp_path / f"{number}.trace").counters
        assert (counters["consumer_epochs"], counters["consumer_batches"]) == (1, many - 1)


def test_a_child_that_is_forked_between_batches_does_not_count_them_again(path, trace):
    with capture.start(trace, hooks=["torch"]):
        for _ in DataLoader(Records(path), batch_size=4):
            if not (child := os.fork()):
                capture.stop()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    assert open_reader(trace).counters["consumer_batches"] == SAMPLES // 4


def test_a_batch_of_the_host_that_looks_like_ours_is_its_own(path, trace):
    batches: Any = [("tracekit step", 1, 2, 3), (4, 5, 6, 7)]
    with capture.start(trace, hooks=["torch"]):
        loader = DataLoader(
            Words(), batch_sampler=batches, num_workers=1, collate_fn=list, multiprocessing_context="fork"
        )
        assert list(loader) == [["tracekit step", 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_goes_on_when_its_batches_cannot_be_counted(workers, path, trace, monkeypatch, caplog):
    def full(self: Recorder, numbers: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with capture.start(trace, hooks=["torch"]), monkeypatch.context() as patch:
        patch.setattr(Recorder, "count_all", full)
        loader = DataLoader(
            Records(path),
            batch_size=4,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
        assert drain(loader) == list(range(SAMPLES))
    assert open_reader(trace).counters["hook_errors.recorder"] >= SAMPLES // 4
    assert "No space left on device" in caplog.text
