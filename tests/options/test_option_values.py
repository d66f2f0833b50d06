"""Every option takes what its kind says, converted, and refuses anything else in one line that names it."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit import LoaderOptions, ReplayOptions, UsageError
from tracekit.capture.options import CAPTURE, PROXY
from tracekit.options import CHECKPOINT, LOADER, MATERIALIZE, RECORD, REPLAY
from tracekit.store_options import BACKEND
from tracekit.validation import Kind, Option, parse

TABLES = {
    "loader": LOADER,
    "replay": REPLAY,
    "backend": BACKEND,
    "record": RECORD,
    "checkpoint": CHECKPOINT,
    "materialize": MATERIALIZE,
    "proxy": PROXY,
    "capture": CAPTURE,
}
EVERY = [pytest.param(o, id=f"{name}-{o.name}") for name, table in TABLES.items() for o in table.values()]
NUMBERED = [p for p in EVERY if p.values[0].kind in (Kind.COUNT, Kind.NUMBER)]  # type: ignore[union-attr]


def one(option: Option, value: Any) -> Any:
    """The value of a single item, if the option repeats."""
    parsed = parse(option, value)
    return parsed[0] if option.repeats else parsed


def a_number(option: Option) -> float:
    return max(
        x
        for x in (option.low, option.above and option.above + 1, option.high and min(option.high / 2, 100), 1)
        if x
    )


def refused(option: Option, value: Any) -> str:
    with pytest.raises(UsageError) as caught:
        parse(option, value)
    message = str(caught.value)
    assert message.startswith(f"{option.name}=")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("option", EVERY)
def test_a_value_of_another_type_is_refused_by_the_option_s_name(option: Option) -> None:
    wrong: list[Any] = [object(), {"a": 1}, b"1", 1j, ""]
    if option.kind is not Kind.FLAG:
        wrong += [True, np.True_]
    if option.kind in (Kind.FLAG, Kind.CHOICE, Kind.TEXT, Kind.COUNT):
        wrong += [1.5, np.float32(2)]
    if option.kind not in (Kind.TEXT, Kind.CHOICE):
        wrong += ["much", "1 parsec", float("nan"), float("inf")]
    if not option.repeats:
        wrong += [[], (1, 2), np.array([1, 2])]
    if not option.optional:
        wrong.append(None)
    for value in wrong:
        refused(option, value)


@pytest.mark.parametrize("option", EVERY)
def test_none_is_accepted_where_the_option_is_optional(option: Option) -> None:
    if option.optional:
        assert parse(option, None) is None
    else:
        assert "None" not in refused(option, None).partition("give")[2]


@pytest.mark.parametrize("option", NUMBERED)
def test_numbers_of_python_and_numpy_are_equal(option: Option) -> None:
    value = a_number(option)
    makes: list[Any] = (
        [np.float64, np.float32, float] if option.kind is Kind.NUMBER else [int, np.int64, np.uint8, np.int32]
    )
    for make in makes:
        parsed = one(option, make(value))
        assert parsed == make(value)
        assert type(parsed) is (float if option.kind is Kind.NUMBER else int)
    assert one(option, str(value if option.kind is Kind.NUMBER else int(value))) == value


@pytest.mark.parametrize("option", NUMBERED)
def test_a_number_out_of_bounds_is_refused_with_the_bounds(option: Option) -> None:
    if option.low is not None:
        assert one(option, int(option.low)) == option.low
        assert f"{option.low:g}" in refused(option, int(option.low) - 1)
    if option.above is not None:
        assert f"above {option.above:g}" in refused(option, option.above)
    if option.high is not None:
        assert one(option, int(option.high)) == option.high
        refused(option, int(option.high) + 1)
    refused(option, 2**64)


@pytest.mark.parametrize("option", [p for p in EVERY if p.values[0].kind is Kind.CHOICE])  # type: ignore[union-attr]
def test_a_choice_takes_its_words_and_suggests_the_nearest(option: Option) -> None:
    for word in option.choices:
        assert one(option, word) == word
        assert one(option, np.str_(word)) == word
        message = refused(option, word[:-1] + word[-1] * 2)
        assert "did you mean" in message
        assert all(choice in message for choice in option.choices)


@pytest.mark.parametrize("option", [p for p in EVERY if p.values[0].kind is Kind.SIZE])  # type: ignore[union-attr]
def test_every_spelling_of_a_size_gives_the_same_bytes(option: Option) -> None:
    for value in (65536, "64KiB", "64k", "65536", np.int64(65536), np.uint32(65536)):
        assert parse(option, value) == 65536
    for wrong in (0, -1, 1.5, "0", "-1KiB"):
        assert "64KiB" in refused(option, wrong)


@pytest.mark.parametrize("option", [p for p in EVERY if p.values[0].kind is Kind.DURATION])  # type: ignore[union-attr]
def test_every_spelling_of_a_duration_gives_the_same_time(option: Option) -> None:
    two = 2 if option.unit == "s" else 2_000_000_000
    for value in (two, "2s", "2000ms", timedelta(seconds=2), np.int64(two), np.timedelta64(2, "s")):
        assert parse(option, value) == two
    refused(option, "-1s")
    refused(option, timedelta(seconds=-1))


@pytest.mark.parametrize("option", [p for p in EVERY if p.values[0].kind is Kind.FLAG])  # type: ignore[union-attr]
def test_a_flag_takes_booleans_of_python_and_numpy(option: Option) -> None:
    for value in (True, False, np.True_, np.False_):
        assert parse(option, value) is bool(value)
    for wrong in ("yes", "True", 0, 1):
        refused(option, wrong)


def test_shuffle_takes_a_buffer_of_two_or_more() -> None:
    assert parse(LOADER["shuffle"], 2) == 2
    assert parse(LOADER["shuffle"], np.int16(64)) == 64


@pytest.mark.parametrize("option", [p for p in EVERY if p.values[0].repeats])  # type: ignore[union-attr]
def test_an_option_that_repeats_takes_one_value_or_several(option: Option) -> None:
    a, b = option.choices[:2] or (("a", "b") if option.kind is Kind.TEXT else (3, 5))
    assert parse(option, a) == (a,)
    for several in ([a, b], (a, b), iter([a, b]), np.array([a, b])):
        assert parse(option, several) == (a, b)
    with pytest.raises(UsageError, match=f"{option.name}="):
        parse(option, [a, None])


def test_paths_are_text() -> None:
    assert parse(BACKEND["aws_profile"], Path("/a/b")) == "/a/b"
    assert parse(REPLAY["map"], PurePosixPath("/a=/b")) == ("/a=/b",)


@given(
    value=st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.booleans()
    | st.binary(max_size=3)
    | st.none()
)
def test_any_value_is_taken_or_refused_with_a_usage_error(value: Any) -> None:
    for table in TABLES.values():
        for option in table.values():
            try:
                parsed = parse(option, value)
            except UsageError as error:
                assert error.message.startswith(f"{option.name}=")
            else:
                assert not isinstance(parsed, float) or math.isfinite(parsed)


@pytest.mark.parametrize("kind", [LoaderOptions, ReplayOptions])
@pytest.mark.parametrize(
    ("wrong", "right"),
    [("page_cachemode", "page_cache_mode"), ("max-bytes-in-flight", "max_bytes_in_flight")],
)
def test_an_unknown_name_is_answered_with_the_nearest(kind: Any, wrong: str, right: str) -> None:
    for make in (
        lambda: kind(**{wrong: 1}),
        lambda: kind.of({wrong: 1}),
        lambda: kind.of(kind(), **{wrong: 1}),
    ):
        with pytest.raises(UsageError, match=f"unknown option '{wrong}' .did you mean {right}"):
            make()


@pytest.mark.parametrize("kind", [LoaderOptions, ReplayOptions])
def test_a_name_that_resembles_no_other_is_answered_with_all_names(kind: Any) -> None:
    with pytest.raises(UsageError, match=r"unknown option 'xyzzy' \(choose from .*, verify_checksums\)"):
        kind.of({"xyzzy": 1})


@pytest.mark.parametrize("kind", [LoaderOptions, ReplayOptions])
def test_keywords_win_over_an_options_object_or_a_dict(kind: Any) -> None:
    base = kind(retries=1, page_cache_mode="dontneed")
    for given_options in (base, {"retries": 1, "page_cache_mode": "dontneed"}):
        merged = kind.of(given_options, retries=np.int8(7))
        assert (merged.retries, merged.page_cache_mode) == (7, "dontneed")
    assert kind.of(base) is base
    assert kind.of(base.to_dict()) == base
    with pytest.raises(UsageError, match="options="):
        kind.of([1, 2])
