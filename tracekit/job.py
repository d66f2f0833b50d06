"""The place of this process in a job of many processes, from the environment that its launcher sets.

Imports nothing of tracekit: a captured program imports it when it starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["rank_and_world_size"]

_LAUNCHERS = (
    ("RANK", ("WORLD_SIZE",)),
    ("OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",)),
    ("PMI_RANK", ("PMI_SIZE",)),
    ("PMIX_RANK", ()),
    ("SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")),
)
"""Variables with the rank and the number of ranks: torchrun and Ray Train, Open MPI, MPICH and Intel MPI, PMIx, srun.

The first launcher that states a rank counts: torchrun under srun sets both, and its ranks are those of the job. One that
states no number of ranks is helped by another that states the same rank: `srun --mpi=pmix` sets `PMIX_RANK` and `SLURM_NTASKS`.
"""


def rank_and_world_size(environ: Mapping[str, str] = os.environ) -> tuple[int | None, int | None]:
    """Return the rank of this process and the number of ranks; None where no launcher states it."""
    stated = [(_number(environ, rank), sizes) for rank, sizes in _LAUNCHERS]
    rank = next((number for number, _ in stated if number is not None), None)
    if rank is None:
        return None, _number(environ, "WORLD_SIZE")
    sizes = [_number(environ, size) for number, names in stated if number == rank for size in names]
    return rank, next((size for size in sizes if size is not None and size > rank), None)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and int(text) < 1 << 31 else None
