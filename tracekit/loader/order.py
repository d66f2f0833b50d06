"""Which sample comes when: shuffle, seeded random draws, and the shard of a rank.

Everything is a function of the options and the number of samples: the same seed gives
the same order on every machine. It knows neither files nor ops.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tracekit.loader.options import LoaderOptions

__all__ = ["draw", "sample_order", "shuffled"]

Order = npt.NDArray[np.int64]
_DRAW, _SHUFFLE = 0, 1
"""Each use of randomness has a stream of its own, so that one option does not disturb another."""


def sample_order(samples: int, options: LoaderOptions, epoch: int = 0) -> Order:
    """The sample ids that this rank reads in `epoch`, in order.

    Draws pick positions, the shuffle says which sample stands at a position, and rank r of
    w takes positions r, r + w, r + 2w, ... of what results; with `drop_last` the batch
    that is not full is cut off.
    """
    order = draw(samples, options, epoch)
    if options.shuffle is not False:
        placed = shuffled(samples, options.shuffle, _random(options, epoch, _SHUFFLE))
        order = placed[order]
    order = order[options.shard_rank :: options.shard_world_size]
    if options.drop_last:
        order = order[: len(order) - len(order) % options.batch_size]
    return order


def draw(samples: int, options: LoaderOptions, epoch: int = 0) -> Order:
    """As many positions as there are samples: each once in order, or drawn with replacement.

    `uniform` draws every position alike; `zipfian` draws position k (from 1) with a
    probability proportional to 1 / k ** theta.
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
    """A permutation: of the whole (True), or through a buffer of `shuffle` samples.

    A buffer is filled in order; each sample leaves it from a random slot, into which the
    next one goes. So no sample comes much earlier than its turn, and reads stay close together.
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
