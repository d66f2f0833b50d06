"""LoaderOptions: every name and value checked, and said in one line when wrong."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any, cast

import pytest

from tracekit.errors import UsageError
from tracekit.loader.options import OPTION_NAMES, LoaderOptions
from tracekit.loader.profiles import PROFILES, profile

ISSUE_NAMES = {
    "batch_size", "drop_last", "num_workers", "prefetch", "shuffle", "seed", "shard_rank", "shard_world_size",
    "reader_mode", "loading_mode", "target_request_bytes", "max_bytes_in_flight", "random_index_mode",
    "page_cache_mode",
}  # fmt: skip


def test_every_promised_name_is_an_option() -> None:
    assert set(OPTION_NAMES) >= ISSUE_NAMES


def test_dict_dataclass_and_keywords_mean_the_same() -> None:
    by_dict = LoaderOptions.of({"batch_size": 8, "shuffle": True})
    assert by_dict == LoaderOptions(batch_size=8, shuffle=True)
    assert by_dict == LoaderOptions.of(batch_size=8, shuffle=True)
    assert by_dict == LoaderOptions.of(by_dict)
    assert LoaderOptions.of(by_dict, batch_size=9) == LoaderOptions(batch_size=9, shuffle=True)
    assert LoaderOptions.of({"batch_size": 8}, shuffle=True) == by_dict
    assert LoaderOptions.of() == LoaderOptions()


def test_options_are_frozen_and_travel() -> None:
    options = LoaderOptions(max_bytes_in_flight="8MiB", shuffle=100)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.batch_size = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(options)) == options
    assert copy.deepcopy(options) == options
    assert LoaderOptions.of(json.loads(json.dumps(options.to_dict()))) == options


@pytest.mark.parametrize("name", ["target_request_bytes", "max_bytes_in_flight", "sample_bytes"])
def test_sizes_are_taken_as_people_write_them(name: str) -> None:
    assert LoaderOptions.of({name: "64KiB"}).bytes_of(name) == 65_536
    assert LoaderOptions.of({name: 65_536}).bytes_of(name) == 65_536
    assert LoaderOptions.of({name: None}).bytes_of(name) is None


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("bath_size", "batch_size"),
        ("workers", "num_workers"),
        ("pagecache_mode", "page_cache_mode"),
        ("max-bytes-in-flight", "max_bytes_in_flight"),
        ("world_size", "shard_world_size"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_right_one(wrong: str, right: str) -> None:
    for make in (lambda: cast(Any, LoaderOptions)(**{wrong: 1}), lambda: LoaderOptions.of({wrong: 1})):
        with pytest.raises(UsageError) as caught:
            make()
        assert f"{wrong!r} is unknown" in str(caught.value)
        assert f"did you mean {right}?" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_name_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(UsageError, match="known are batch_size, drop_last"):
        LoaderOptions.of({"xyzzy": 1})
    with pytest.raises(UsageError, match="3 is unknown"):
        LoaderOptions.of({3: 1})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("batch_size", 0, "1 or more"),
        ("batch_size", 1.5, "a whole number"),
        ("batch_size", True, "a whole number"),
        ("batch_size", "32", "a whole number"),
        ("drop_last", 1, "True or False"),
        ("num_workers", 0, "1 or more"),
        ("prefetch", -1, "0 or more"),
        ("shuffle", 1, "a buffer of 2 samples or more"),
        ("shuffle", "yes", "True, False"),
        ("seed", -1, "0 or more"),
        ("shard_rank", 1, "0 to 0"),
        ("shard_world_size", 0, "1 or more"),
        ("reader_mode", "ranges", "did you mean range? one of sequential, range"),
        ("reader_mode", None, "one of sequential, range"),
        ("loading_mode", "async", "did you mean async_pool?"),
        ("target_request_bytes", 0, "1 byte or more, or None"),
        ("max_bytes_in_flight", True, "8KiB"),
        ("sample_bytes", 1.5, "or None"),
        ("random_index_mode", "zipf", "did you mean zipfian?"),
        ("zipf_theta", -0.1, "a number from 0"),
        ("zipf_theta", "high", "a number from 0"),
        ("page_cache_mode", "fadvise_rand", "did you mean fadvise_random?"),
        ("client", 3, "text"),
        ("anonymous", "yes", "True or False"),
        ("timeout_s", 0, "seconds > 0"),
        ("timeout_s", float("nan"), "seconds > 0"),
        ("retries", -1, "0 or more"),
    ],
)
def test_a_wrong_value_names_option_value_and_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(UsageError) as caught:
        LoaderOptions(**{name: value})
    message = str(caught.value)
    assert name in message
    assert repr(value) in message
    assert allowed in message
    assert "\n" not in message


def test_a_size_that_is_none_is_named() -> None:
    with pytest.raises(UsageError, match="max_bytes_in_flight: 'lots' is no size"):
        LoaderOptions(max_bytes_in_flight="lots")


def test_options_of_another_kind_are_refused() -> None:
    with pytest.raises(UsageError, match="neither LoaderOptions nor a dict"):
        LoaderOptions.of([1, 2])  # type: ignore[arg-type]


def test_only_what_was_given_goes_to_the_backend() -> None:
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
    target = profile("torch").bytes_of("target_request_bytes")
    assert target is not None
    assert 128 * 1024 <= target <= 256 * 1024


def test_an_unknown_profile_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean torch"):
        profile("pytorch")
    with pytest.raises(UsageError, match="bath_size"):
        profile("torch", bath_size=3)
