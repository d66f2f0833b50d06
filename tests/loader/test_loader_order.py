"""Orders and their distributions: fixed seeds, chi-square and Kolmogorov-Smirnov tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit.errors import UsageError
from tracekit.loader.options import LoaderOptions
from tracekit.loader.order import batches, draw, sample_order, shuffled
from tracekit.loader.shaping import request, requests_in


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def chi_square_limit(degrees: int) -> float:
    """The 99.9th percentile (Wilson-Hilferty)."""
    return degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3


def zipf_probabilities(n: int, theta: float) -> np.ndarray:
    weights = np.arange(1, n + 1) ** -float(theta)
    return weights / weights.sum()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_uniform_draws_pass_a_chi_square_test(seed: int) -> None:
    samples, bins = 100_000, 1000
    drawn = draw(samples, LoaderOptions(random_index_mode="uniform", seed=seed))
    counts = np.bincount(drawn * bins // samples, minlength=bins)
    assert chi_square(counts, np.full(bins, samples / bins)) < chi_square_limit(bins - 1)
    assert len(np.unique(drawn)) == pytest.approx(samples * (1 - np.exp(-1)), rel=0.01)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("theta", [0.0, 0.5, 0.99, 1.5, 3.0])
def test_zipfian_draws_pass_chi_square_and_ks_tests(theta: float, seed: int) -> None:
    samples = 100_000
    drawn = draw(samples, LoaderOptions(random_index_mode="zipfian", zipf_theta=theta, seed=seed))
    expected = zipf_probabilities(samples, theta) * samples
    counts = np.bincount(drawn, minlength=samples)
    edges = np.unique(np.searchsorted(np.cumsum(expected), np.arange(0, samples, 50)))  # bins of >= 50 or so
    binned, wanted = np.add.reduceat(counts, edges), np.add.reduceat(expected, edges)
    keep = wanted >= 5
    assert chi_square(binned[keep], wanted[keep]) < chi_square_limit(max(1, int(keep.sum()) - 1))
    distance = np.abs(np.cumsum(counts) - np.cumsum(expected)).max() / samples
    assert distance < 1.95 / samples**0.5  # the 99.9th percentile of Kolmogorov's statistic


def test_a_larger_theta_draws_the_hottest_sample_more_often() -> None:
    shares = [
        float((draw(10_000, LoaderOptions(random_index_mode="zipfian", zipf_theta=theta)) == 0).mean())
        for theta in (0.2, 0.8, 1.2, 2.0)
    ]
    assert shares == sorted(shares)
    assert shares[-1] > 0.5


def test_shuffling_scatters_the_hot_samples_of_a_zipfian_run() -> None:
    plain = sample_order(1000, LoaderOptions(random_index_mode="zipfian", zipf_theta=1.2))
    scattered = sample_order(1000, LoaderOptions(random_index_mode="zipfian", zipf_theta=1.2, shuffle=True))
    hottest = [int(np.bincount(order).argmax()) for order in (plain, scattered)]
    assert hottest[0] == 0
    assert hottest[1] != 0
    assert sorted(np.bincount(plain))[-20:] == sorted(np.bincount(scattered))[-20:]


@given(
    samples=st.integers(0, 500),
    shuffle=st.one_of(st.booleans(), st.integers(2, 600)),
    seed=st.integers(0, 99),
)
def test_without_draws_every_sample_comes_once(samples: int, shuffle: bool | int, seed: int) -> None:
    order = sample_order(samples, LoaderOptions(shuffle=shuffle, seed=seed))
    assert sorted(order.tolist()) == list(range(samples))


@given(
    samples=st.integers(0, 300),
    world=st.integers(1, 9),
    mode=st.sampled_from(["none", "uniform", "zipfian"]),
    shuffle=st.booleans(),
)
def test_the_ranks_share_the_order_out_between_them(
    samples: int, world: int, mode: str, shuffle: bool
) -> None:
    def order(rank: int, size: int) -> list[int]:
        options = LoaderOptions(
            shard_rank=rank,
            shard_world_size=size,
            shard_mode="uneven",
            random_index_mode=mode,
            shuffle=shuffle,
        )
        return sample_order(samples, options).tolist()

    shards = [order(rank, world) for rank in range(world)]
    assert sorted(sample for shard in shards for sample in shard) == sorted(order(0, 1))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_seeds_and_epochs_change_the_order_and_repeat_it() -> None:
    for options in (LoaderOptions(shuffle=True), LoaderOptions(random_index_mode="uniform")):
        first = sample_order(1000, options).tolist()
        assert sample_order(1000, options).tolist() == first
        assert sample_order(1000, options, epoch=1).tolist() != first
        assert sample_order(1000, LoaderOptions.of(options, seed=1)).tolist() != first


def test_drop_last_cuts_the_batch_that_is_not_full() -> None:
    options = LoaderOptions(batch_size=32, drop_last=True)
    assert len(sample_order(100, options)) == 96
    assert len(sample_order(96, options)) == 96
    assert len(sample_order(31, options)) == 0


@given(samples=st.integers(1, 400), size=st.integers(2, 50))
def test_a_shuffle_buffer_returns_no_sample_before_it_was_added(samples: int, size: int) -> None:
    order = shuffled(samples, size, np.random.default_rng(1)).tolist()
    assert sorted(order) == list(range(samples))
    assert all(sample < turn + size for turn, sample in enumerate(order))


def test_a_shuffle_buffer_shuffles_but_stays_close() -> None:
    order = shuffled(10_000, 64, np.random.default_rng(1))
    moved = np.abs(order - np.arange(10_000))
    assert (moved > 0).mean() > 0.9
    assert np.median(moved) < 100


@given(length=st.integers(0, 10**6), target=st.one_of(st.none(), st.integers(1, 10**5)))
def test_requests_cover_a_sample_once_in_order(length: int, target: int | None) -> None:
    pieces = [request(length, target, index) for index in range(min(requests_in(length, target), 2000))]
    at = 0
    for offset, size in pieces:
        assert offset == at
        assert 0 < size <= (target or length)
        at += size
    if requests_in(length, target) <= 2000:
        assert at == length
    if target is not None and pieces:
        assert all(size == target for _, size in pieces[:-1])


def shards(samples: int, world: int, **options: Any) -> list[list[int]]:
    """The samples of each rank."""
    return [
        sample_order(samples, LoaderOptions(shard_rank=rank, shard_world_size=world, **options)).tolist()
        for rank in range(world)
    ]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("mode", ["even", "pad"])
@given(samples=st.integers(1, 60), world=st.integers(1, 7), batch_size=st.integers(1, 9))
def test_every_rank_has_the_same_number_of_batches(
    mode: str, drop_last: bool, samples: int, world: int, batch_size: int
) -> None:
    if mode == "even" and samples < world:
        with pytest.raises(UsageError, match="some ranks would have none"):
            shards(samples, world, shard_mode=mode)
        return
    given_: dict[str, Any] = {"shard_mode": mode, "drop_last": drop_last, "batch_size": batch_size}
    found = shards(samples, world, **given_)
    counts = {-(-len(shard) // batch_size) for shard in found}
    options = LoaderOptions(shard_world_size=world, **given_)
    assert counts == {batches(samples, options)}
    read = [sample for shard in found for sample in shard]
    if mode == "even":
        assert len(set(read)) == len(read)
    if mode == "pad" and not drop_last:
        assert set(read) == set(range(samples)) and len({len(shard) for shard in found}) == 1


def test_even_shards_leave_out_only_samples_of_a_batch_that_other_ranks_lack() -> None:
    assert shards(10, 4, batch_size=3) == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]
    assert shards(10, 4, batch_size=2) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert shards(10, 4, batch_size=2, shard_mode="uneven") == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]
    assert shards(10, 4, batch_size=2, shard_mode="pad") == [[0, 4, 8], [1, 5, 9], [2, 6, 0], [3, 7, 1]]


def test_zipfian_keeps_its_hot_set_by_default() -> None:
    def hottest(**options: Any) -> list[int]:
        chosen = LoaderOptions(random_index_mode="zipfian", zipf_theta=1.5, shuffle=True, **options)
        return [int(np.bincount(sample_order(1000, chosen, epoch)).argmax()) for epoch in range(4)]

    assert len(set(hottest())) == 1
    assert len(set(hottest(reshuffle_hot_set=True))) > 1
    first, second = (
        sample_order(1000, LoaderOptions(random_index_mode="zipfian", shuffle=True), epoch)
        for epoch in (0, 1)
    )
    assert (first != second).any()
