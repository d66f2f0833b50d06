"""`python torch_epochs.py DATA TRACE WORKERS THINK_S`: two epochs of a torch DataLoader, captured."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from tracekit import capture

REQUEST_BYTES = 128 * 1024


class Files(Dataset[int]):
    """Each sample is a file, read in requests of 128 KiB."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> int:
        descriptor = os.open(self.paths[index], os.O_RDONLY)
        try:
            size, at = os.fstat(descriptor).st_size, 0
            while at < size:
                at += len(os.pread(descriptor, REQUEST_BYTES, at))
            return at
        finally:
            os.close(descriptor)


def main() -> None:
    data, trace, workers, think_s = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    more: dict[str, Any] = {"prefetch_factor": 2} if workers else {}
    torch.manual_seed(1)  # the same order on every target
    with capture.start(trace, hooks=["torch", "files"], include=[f"{data}/*"]):
        for _ in range(2):
            for _ in DataLoader(Files(data), batch_size=8, num_workers=workers, shuffle=True, **more):
                time.sleep(think_s)


if __name__ == "__main__":
    main()
