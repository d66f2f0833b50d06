"""The loader's consumer: bytes, sync and async iteration, and a clean end in every case."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tracekit.errors import BackendError, UsageError
from tracekit.loader.dataset import create_dataset
from tracekit.loader.loader import AsyncLoader, create_async_loader
from tracekit.recorder import Recorder
from tracekit.store.reader import open_reader


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index in range(30):
        (folder / f"{index:03}").write_bytes(os.urandom(index * 1000))
    return folder


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("tracekit-loader")]


@pytest.mark.parametrize("scheme", ["file", "direct"])
@pytest.mark.parametrize("reader_mode", ["sequential", "range"])
@pytest.mark.parametrize("loading_mode", ["sequential", "prefetch", "async_pool"])
def test_every_mode_gives_every_byte(data: Path, scheme: str, reader_mode: str, loading_mode: str) -> None:
    options = {
        "batch_size": 7,
        "target_request_bytes": 4096,
        "reader_mode": reader_mode,
        "loading_mode": loading_mode,
    }
    got: dict[str, bytes] = {}
    with create_async_loader(f"{scheme}://{data}", options) as loader:
        assert len(loader) == 5
        for step, batch in enumerate(loader):
            assert batch.step == step
            for sample in batch.samples:
                assert sample.data is not None
                got[Path(sample.uri).name] = bytes(sample.data)
    assert got == {path.name: path.read_bytes() for path in data.iterdir()}


def test_batches_come_in_order_and_samples_in_theirs(data: Path) -> None:
    with create_async_loader(
        str(data), batch_size=4, num_workers=8, prefetch=4, reader_mode="range"
    ) as loader:
        ids = [sample.sample_id for batch in loader for sample in batch.samples]
    assert ids == list(range(30))


def test_async_for_gives_what_for_gives(data: Path) -> None:
    async def run() -> list[int]:
        async with create_async_loader(str(data), batch_size=4, shuffle=True) as loader:
            return [sample.sample_id async for batch in loader for sample in batch.samples]

    with create_async_loader(str(data), batch_size=4, shuffle=True) as loader:
        assert asyncio.run(run()) == [sample.sample_id for batch in loader for sample in batch.samples]


def test_the_event_loop_runs_on_while_a_batch_is_awaited(data: Path) -> None:
    async def run() -> bool:
        async with create_async_loader(str(data), batch_size=2) as loader:
            ran = asyncio.Event()
            asyncio.get_running_loop().call_soon(ran.set)
            async for _ in loader:
                pass
            return ran.is_set()

    assert asyncio.run(run())


def test_a_wait_that_is_cancelled_stops_the_loader(data: Path) -> None:
    async def run() -> None:
        loader = create_async_loader(str(data), batch_size=30, max_bytes_in_flight=10)
        loader.gate.acquire(5)  # somebody else's bytes: nothing of ours is admitted

        async def consume() -> None:
            async for _ in loader:
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(0.05)
        threading.Timer(0.05, loader.gate.release, (5,)).start()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        loader.close()

    asyncio.run(run())
    assert loader_threads() == []


def test_a_consumer_that_breaks_off_leaves_no_thread_and_no_lost_row(data: Path, tmp_path: Path) -> None:
    options = {
        "batch_size": 2,
        "prefetch": 6,
        "loading_mode": "async_pool",
        "reader_mode": "range",
        "target_request_bytes": 512,
    }
    with Recorder(tmp_path / "trace") as recorder:
        for _ in create_async_loader(str(data), options, recorder):
            break
        assert loader_threads() == []
    trace = open_reader(tmp_path / "trace")
    assert trace.query("SELECT count(*) AS n FROM ops WHERE op = 'read'")["n"][0].as_py() > 0


def test_an_async_consumer_that_breaks_off_leaves_no_thread(data: Path) -> None:
    async def run() -> None:
        async for _ in create_async_loader(str(data), batch_size=2, prefetch=6):
            break
        assert loader_threads() == []

    asyncio.run(run())


def test_an_exception_in_the_loop_s_body_stops_the_loader(data: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        for _ in create_async_loader(str(data), batch_size=2, prefetch=6):
            raise ZeroDivisionError
    assert loader_threads() == []


def test_closing_the_loader_ends_a_consumer_that_waits(data: Path) -> None:
    loader = create_async_loader(str(data), batch_size=30, max_bytes_in_flight=10)
    loader.gate.acquire(5)
    raised: list[BaseException] = []

    def consume() -> None:
        try:
            next(iter(loader))
        except BackendError as error:
            raised.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    while not loader.gate._waiting:
        time.sleep(0.001)
    threading.Timer(0.05, loader.gate.release, (5,)).start()
    loader.close()
    consumer.join(10)
    assert [error.error_class for error in raised if isinstance(error, BackendError)] == ["cancelled"]


def test_an_error_is_raised_where_its_batch_is_due_and_ends_the_run(data: Path) -> None:
    dataset = create_dataset(f"file://{data}/00*")
    (data / "00x").write_bytes(b"12345")
    spoiled = create_dataset(f"file://{data}/00*")
    (data / "00x").unlink()
    assert len(spoiled) == len(dataset) + 1
    batches = iter(create_async_loader(spoiled, batch_size=5, prefetch=4))
    assert len(next(batches).samples) == 5
    assert len(next(batches).samples) == 5
    with pytest.raises(BackendError, match="00x: No such file"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)
    assert loader_threads() == []


def test_without_keeping_data_samples_have_their_size_only(data: Path) -> None:
    with create_async_loader(str(data), batch_size=30, keep_data=False) as loader:
        (batch,) = list(loader)
    assert batch.nbytes == sum(path.stat().st_size for path in data.iterdir())
    assert all(sample.data is None for sample in batch.samples)


def test_a_dataset_may_be_loaded_more_than_once(data: Path) -> None:
    with create_dataset(str(data), sample_bytes=1000) as dataset:
        for workers in (1, 4):
            loader = create_async_loader(dataset, sample_bytes=1000, num_workers=workers)
            assert sum(batch.nbytes for batch in loader) == dataset.total_bytes
        with pytest.raises(UsageError, match="sample_bytes"):
            create_async_loader(dataset)


def test_a_shard_without_samples_gives_no_batch(data: Path) -> None:
    shard = {"shard_rank": 1, "shard_world_size": 2}
    assert list(create_async_loader(f"{data}/000", shard, shard_mode="uneven")) == []
    with pytest.raises(UsageError, match="some ranks would have none"):
        next(iter(create_async_loader(f"{data}/000", shard)))


def test_bad_options_and_uris_leave_no_recorder_behind(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean batch_size"):
        create_async_loader(str(data), {"batchsize": 3}, tmp_path / "trace")
    assert not (tmp_path / "trace").exists()
    with pytest.raises(BackendError, match="No such file"):
        create_async_loader(f"{data}/missing", recorder=tmp_path / "trace")


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_an_interrupt_ends_the_run_and_leaves_a_readable_trace(data: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tracekit.loader.loader import create_async_loader\n"
        "with create_async_loader(sys.argv[1], recorder=sys.argv[2], batch_size=1) as loader:\n"
        "    while True:\n"
        "        for batch in loader:\n"
        "            print(batch.step, flush=True)\n"
    )
    child = run_python(code, str(data), str(tmp_path / "trace"))
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert errors.strip().endswith("KeyboardInterrupt")
    trace = open_reader(tmp_path / "trace")
    assert trace.rows > 0
    assert not any(segment.journal for segment in trace.segments)


def test_a_program_that_stops_iterating_can_exit(data: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tracekit.loader.loader import create_async_loader\n"
        "loader = create_async_loader(sys.argv[1], recorder=sys.argv[2], batch_size=1, prefetch=20)\n"
        "batches = iter(loader); next(batches)\n"
    )
    child = run_python(code, str(data), str(tmp_path / "trace"))
    _, errors = child.communicate(timeout=30)
    assert (child.returncode, errors) == (0, "")
    assert not any(segment.journal for segment in open_reader(tmp_path / "trace").segments)


@pytest.mark.parametrize("options", ["reader_mode='range'", "sample_bytes='1MiB', keep_data=True"])
def test_2_gib_under_a_32_mib_cap_take_less_than_400_mib(tmp_path: Path, options: str) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2 << 30)
    code = (
        "import sys\n"
        "from tracekit.loader.loader import create_async_loader\n"
        "given = dict(keep_data=False) | dict(" + options + ")\n"
        "read = 0\n"
        "with create_async_loader(sys.argv[1], recorder=sys.argv[2], max_bytes_in_flight='32MiB',\n"
        "                         target_request_bytes='1MiB', num_workers=16, page_cache_mode='direct_io', **given) as loader:\n"
        "    for batch in loader:\n"
        "        read += batch.nbytes\n"
        # Not ru_maxrss: a child inherits that from the process that forked it, here the whole test run.
        "peak = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(read, peak * 1024)\n"
    )
    child = run_python(code, str(tmp_path / "large"), str(tmp_path / "trace"))
    out, errors = child.communicate(timeout=100)
    assert child.returncode == 0, errors
    read, peak = map(int, out.split())
    assert read == 2 << 30
    assert peak < 400 << 20


FEW_FILES = """
import resource, sys
from tracekit.loader.loader import AsyncLoader, create_async_loader
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
root, mode = sys.argv[1:]
read = 0
with create_async_loader(root, batch_size=64, num_workers=100, prefetch=4, reader_mode=mode,
                         target_request_bytes=50, sample_bytes=100) as loader:
    for batch in loader:
        read += batch.nbytes
print(read)
"""


@pytest.mark.parametrize("mode", ["sequential", "range"])
def test_more_files_than_the_process_may_open_are_read(tmp_path: Path, mode: str) -> None:
    """One hundred workers share 64 descriptors: they wait for handles."""
    for index in range(300):
        (tmp_path / f"{index:03}").write_bytes(bytes(100))
    run = subprocess.run(
        [sys.executable, "-c", FEW_FILES, tmp_path, mode], capture_output=True, text=True, check=False
    )
    assert (run.stdout.strip(), run.returncode) == ("30000", 0), run.stderr


def test_a_sample_larger_than_memory_is_an_error_of_its_batch(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 42)
    with (
        create_async_loader(tmp_path) as loader,
        pytest.raises(BackendError, match="cannot allocate") as caught,
    ):
        next(iter(loader))
    assert caught.value.error_class == "out_of_memory"


class SlowFile:
    """Holds every byte of a loader's cap, so that its reads wait until `let_go`."""

    def __init__(self, loader: AsyncLoader) -> None:
        self.gate = loader.gate
        self.gate.acquire(100)

    def let_go(self) -> None:
        self.gate.release(100)


def test_a_wait_that_times_out_loses_no_batch_and_does_not_block_the_loop(data: Path) -> None:
    async def run() -> list[int]:
        steps, turns = [], 0
        async with create_async_loader(data, batch_size=10, max_bytes_in_flight=100) as loader:
            held = SlowFile(loader)
            batches = aiter(loader)
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(batches), 0.01)
                turns += 1
            held.let_go()
            async for batch in batches:
                steps.append(batch.step)
        assert turns == 3
        return steps

    samples = len(list(data.iterdir()))
    assert asyncio.run(run()) == list(range(-(-samples // 10)))


def test_a_cancelled_consumer_does_not_hold_up_the_loop(data: Path) -> None:
    """Reads are in flight until the loop goes on: it would hang if it waited for them."""

    async def run() -> None:
        loader = create_async_loader(data, batch_size=10, max_bytes_in_flight=100)
        held = SlowFile(loader)

        async def consume() -> None:
            async for _ in loader:
                pass

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consume(), 0.01)
        held.let_go()  # not reached if the loop waited for the reads
        await loader.aclose()

    asyncio.run(run())
    assert loader_threads() == []


def test_an_iteration_whose_loader_was_closed_ends_with_an_error(data: Path) -> None:
    loader = create_async_loader(data, batch_size=10)
    batches = iter(loader)
    next(batches)
    loader.close()
    with pytest.raises(BackendError, match="closed after 1 of") as caught:
        next(batches)
    assert caught.value.error_class == "cancelled"


@pytest.mark.parametrize("mode", ["sequential", "prefetch", "async_pool"])
def test_samples_that_fail_are_skipped_and_counted(tmp_path: Path, mode: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for index in range(13):
        (data / f"{index:02}").write_bytes(bytes(1000))
    dataset = create_dataset(data)
    gone = [Path(uri.removeprefix("file://")) for uri in dataset.uris[3:6]]
    for path in gone:
        path.unlink()
    left = [uri for uri in dataset.uris if uri not in {f"file://{path}" for path in gone}]
    options = {"batch_size": 2, "loading_mode": mode, "on_error": "skip", "max_bytes_in_flight": 4000}
    with create_async_loader(dataset, options, tmp_path / "trace") as loader:
        found = list(loader)
        assert loader.skipped_samples == 3
        assert [batch.step for batch in found] == list(range(len(loader)))
    assert sorted(sample.uri for batch in found for sample in batch.samples) == left
    trace = open_reader(tmp_path / "trace")
    assert trace.counters["skipped_samples"] == 3
    assert trace.query("SELECT count(error) AS n FROM ops")["n"][0].as_py() == 3
    with create_async_loader(dataset, options, on_error="raise") as loader, pytest.raises(BackendError):
        list(loader)
