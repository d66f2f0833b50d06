"""The order of samples: shuffle, seeded random draws, and the shard of a rank.

Everything is a function of the options and the number of samples: the same seed gives the
same order on every machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tracekit.errors import UsageError
from tracekit.loader.options import LoaderOptions

__all__ = ["Order", "batches", "draw", "sample_order", "shuffled"]

Order = npt.NDArray[np.int64]
_DRAW, _SHUFFLE = 0, 1
"""Each use of randomness has its own stream, so that one option does not change another."""


def sample_order(samples: int, options: LoaderOptions, epoch: int = 0) -> Order:
    """Return the sample ids that this rank reads in `epoch`, in order.

    Draws pick positions, and the shuffle decides which sample is at a position. Rank r of w gets
    the positions r, r + w, r + 2w, ... of the result; `shard_mode` and `drop_last` decide where
    a shard ends. Raises UsageError if no rank would get a sample.
    """
    order = draw(samples, options, epoch)
    if options.shuffle is not False:
        # Draws of zipfian prefer the first positions: while these hold the same samples, the hot set stays.
        kept = options.random_index_mode == "zipfian" and not options.reshuffle_hot_set
        random = _random(options, 0 if kept else epoch, _SHUFFLE)
        order = shuffled(samples, options.shuffle, random)[order]
    length = _shard_length(samples, options)
    world = options.shard_world_size
    if options.shard_mode == "pad":
        order = np.resize(order, length * world)  # repeats it from the beginning
    return order[options.shard_rank :: world][:length]


def batches(samples: int, options: LoaderOptions) -> int:
    """Return the number of batches of this rank in an epoch. Raises UsageError as `sample_order` does."""
    return -(-_shard_length(samples, options) // options.batch_size)


def _shard_length(samples: int, options: LoaderOptions) -> int:
    """Return how many samples this rank reads in an epoch."""
    world, size = options.shard_world_size, options.batch_size
    least, most = samples // world, -(-samples // world)
    if options.shard_mode == "pad":
        length = most
    else:
        length = len(range(options.shard_rank, samples, world))
        if options.shard_mode == "even":
            if least == 0 and samples:
                raise UsageError(
                    f"shard_world_size={world} for {samples} samples: some ranks would have none",
                    "give shard_mode='pad' to repeat samples, or shard_mode='uneven'",
                )
            # No rank has more batches than the one with the fewest samples.
            least_batches = least // size if options.drop_last else -(-least // size)
            length = min(length, least_batches * size)
    return length - length % size if options.drop_last else length


def draw(samples: int, options: LoaderOptions, epoch: int = 0) -> Order:
    """Return as many positions as there are samples: each once in order, or drawn with replacement.

    `uniform` draws every position with the same probability, `zipfian` draws position k
    (from 1) with a probability proportional to 1 / k ** theta.
    """
    if options.random_index_mode == "none" or samples == 0:
        return np.arange(samples, dtype=np.int64)
    random = _random(options, epoch, _DRAW)
    if options.random_index_mode == "uniform":
        return random.integers(0, samples, samples, dtype=np.int64)
    weights = np.arange(1, samples + 1, dtype=np.float64) ** -options.zipf_theta
    edges = np.cumsum(weights)
    drawn: Order = np.searchsorted(edges, random.random(samples) * edges[-1], side="right")
    return np.minimum(drawn, samples - 1)


def shuffled(samples: int, shuffle: bool | int, random: np.random.Generator) -> Order:
    """Return a permutation: of all samples (True), or through a buffer of `shuffle` samples.

    The buffer is filled in order. A sample leaves it from a random slot, and the next one takes
    that slot. So no sample comes much before its turn, and reads stay close together.
    """
    if shuffle is True:
        return random.permutation(np.arange(samples, dtype=np.int64))
    size = min(int(shuffle), samples)
    order = np.empty(samples, np.int64)
    buffer = list(range(size))
    slots = random.integers(0, size, samples - size) if size else np.empty(0, np.int64)
    for turn, slot in enumerate(slots.tolist()):
        order[turn] = buffer[slot]
        buffer[slot] = size + turn
    order[samples - size :] = random.permutation(np.array(buffer, np.int64))
    return order


def _random(options: LoaderOptions, epoch: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([options.seed, epoch, stream])
