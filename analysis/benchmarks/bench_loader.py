"""Measure what the loader costs beyond its reads: against bare threads and torch, side by side in one run.

The same files are in the page cache, so the client and not the storage is the limit. They are read
by threads that only call `preadv`, by the loader, by the loader while it records every op, and by
torch's DataLoader with a dataset that makes the same reads. CPU time is that of the process tree.
Ratios are to the bare threads.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results import Table

from tracekit.loader.loader import create_async_loader
from tracekit.store.reader import open_reader

WORKERS, BATCH, REPEATS = 4, 32, 3
CASES = (
    ("4 KiB files", 8192, 4096, 4096, None),
    ("128 KiB requests, 1 MiB samples of shards", 8, 64 << 20, 131_072, 1 << 20),
)


def main() -> None:
    table = Table("loader", ["case", "reader", "reads_per_s", "mib_per_s", "cpu_us_per_read", "ratio"])
    for name, files, size, request, sample in CASES:
        folder = Path(tempfile.mkdtemp(dir="."))
        try:
            make_files(folder / "data", files, size)
            base = 0.0
            for reader, run in readers(folder, request, sample).items():
                rate, cpu_us = best(run, files * size // request)
                base = base or rate
                table.add(name, reader, rate, rate * request / 2**20, cpu_us, rate / base)
        finally:
            shutil.rmtree(folder)
    table.finish()


def readers(folder: Path, request: int, sample: int | None) -> dict[str, Callable[[], None]]:
    data = folder / "data"
    options = {
        "batch_size": BATCH,
        "num_workers": WORKERS,
        "target_request_bytes": request,
        "sample_bytes": sample,
    }

    def loader(**given: object) -> None:
        with create_async_loader(str(data), options, keep_data=True, **given) as batches:
            for _ in batches:
                pass

    def recorded() -> None:
        shutil.rmtree(folder / "trace", ignore_errors=True)
        loader(recorder=folder / "trace")
        assert open_reader(folder / "trace").rows > 0

    found: dict[str, Callable[[], None]] = {
        "threads that only call preadv": lambda: bare(data, request, sample),
        "loader": loader,
        "loader, recording": recorded,
    }
    try:
        import torch  # noqa: F401
    except ImportError:
        return found
    found["torch DataLoader, 4 processes"] = lambda: torch_loader(data, request, sample)
    return found


def pieces(data: Path, sample: int | None) -> list[tuple[str, int, int]]:
    """Return (path, offset, length) of every sample."""
    out = []
    for path in sorted(data.iterdir()):
        size = path.stat().st_size
        out += [(str(path), at, min(sample or size, size - at)) for at in range(0, size, sample or size)]
    return out


def read_sample(piece: tuple[str, int, int], request: int) -> bytearray:
    path, start, length = piece
    buffer = bytearray(length)
    view = memoryview(buffer)
    descriptor = os.open(path, os.O_RDONLY)
    for at in range(0, length, request):
        os.preadv(descriptor, (view[at : at + request],), start + at)
    os.close(descriptor)
    return buffer


def bare(data: Path, request: int, sample: int | None) -> None:
    todo = pieces(data, sample)

    def work(worker: int) -> None:
        for piece in todo[worker::WORKERS]:
            read_sample(piece, request)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def torch_loader(data: Path, request: int, sample: int | None) -> None:
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Samples(Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.todo = pieces(data, sample)

        def __len__(self) -> int:
            return len(self.todo)

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.frombuffer(read_sample(self.todo[index], request), dtype=torch.uint8)

    for _ in DataLoader(Samples(), BATCH, num_workers=WORKERS, prefetch_factor=2, collate_fn=list):
        pass


def make_files(folder: Path, files: int, size: int) -> None:
    folder.mkdir()
    for index in range(files):
        (folder / f"{index:05}").write_bytes(os.urandom(1 << 12) * (size >> 12))


def best(run: Callable[[], None], reads: int) -> tuple[float, float]:
    """Return reads per second and us of CPU per read of the fastest run after a warm-up."""
    run()
    found = []
    for _ in range(REPEATS):
        cpu, began = cpu_s(), time.perf_counter()
        run()
        took = time.perf_counter() - began
        found.append((took, (cpu_s() - cpu) / reads * 1e6))
    took, cpu_us = min(found)
    return reads / took, cpu_us


def cpu_s() -> float:
    """Return the CPU seconds of this process and its ended children so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    main()
