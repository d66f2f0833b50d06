"""LoaderOptions: one object from keywords or a dict, and profiles over it. Values are tested in tests/options."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import pytest

from tracekit.errors import UsageError
from tracekit.loader.options import LoaderOptions
from tracekit.loader.profiles import PROFILES, profile


def test_a_dict_an_options_object_and_keywords_are_equivalent() -> None:
    by_dict = LoaderOptions.of({"batch_size": 8, "shuffle": True})
    assert by_dict == LoaderOptions(batch_size=8, shuffle=True)
    assert by_dict == LoaderOptions.of(batch_size=8, shuffle=True)
    assert by_dict == LoaderOptions.of(by_dict)
    assert LoaderOptions.of(by_dict, batch_size=9) == LoaderOptions(batch_size=9, shuffle=True)
    assert LoaderOptions.of({"batch_size": 8}, shuffle=True) == by_dict
    assert LoaderOptions.of() == LoaderOptions()


def test_options_are_frozen_and_can_be_pickled() -> None:
    options = LoaderOptions(max_bytes_in_flight="8MiB", shuffle=100)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.batch_size = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(options)) == options
    assert copy.deepcopy(options) == options
    assert LoaderOptions.of(json.loads(json.dumps(options.to_dict()))) == options


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(UsageError, match="shard_rank=1 is not below shard_world_size=1"):
        LoaderOptions(shard_rank=1)


def test_only_given_options_are_passed_to_the_backend() -> None:
    assert LoaderOptions().backend_options() == {}
    given = LoaderOptions(client="aiobotocore", retries=0, anonymous=False)
    assert given.backend_options() == {"client": "aiobotocore", "retries": 0, "anonymous": False}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_a_preset_that_given_options_win_over(name: str) -> None:
    options = profile(name)
    assert options.to_dict() | PROFILES[name] == options.to_dict()
    assert profile(name, batch_size=3, seed=9).batch_size == 3


def test_the_torch_profile_prefetches_twice_its_workers() -> None:
    assert profile("torch").prefetch == 8
    assert profile("torch", num_workers=6).prefetch == 12
    assert profile("torch", num_workers=6, prefetch=3).prefetch == 3
    target = profile("torch").target_request_bytes
    assert target is not None
    assert 128 * 1024 <= target <= 256 * 1024


def test_an_unknown_profile_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean torch"):
        profile("pytorch")
    with pytest.raises(UsageError, match="bath_size"):
        profile("torch", bath_size=3)  # type: ignore[call-arg]
