"""Sizes and durations: as people type and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit.errors import UsageError
from tracekit.units import (
    format_count,
    format_duration,
    format_named,
    format_rate,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("65536", 65536),
        ("64KiB", 65536),
        ("64KB", 64000),
        ("64k", 65536),
        ("1.5 MiB", 1572864),
        (7, 7),
        ("1_000", 1000),
        ("0", 0),
    ],
)
def test_sizes_are_read(text: str | int, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    ("text", "ns"),
    [("500ms", 500_000_000), ("2s", 2 * 10**9), ("1.5h", 5400 * 10**9), ("10us", 10_000), ("0", 0), (5, 5)],
)
def test_durations_are_read(text: str | int, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "x", "-1", "64 lots", "1e3", "nan", "5ms"])
def test_an_invalid_size_names_the_option(text: str) -> None:
    with pytest.raises(UsageError, match="--cap"):
        parse_size(text, name="--cap")


@pytest.mark.parametrize("text", ["", "5", "-1s", "5KiB", "s"])
def test_an_invalid_duration_names_the_option(text: str) -> None:
    with pytest.raises(UsageError, match="--max-gap"):
        parse_duration(text, name="--max-gap")


@pytest.mark.parametrize(
    ("shown", "text"),
    [(format_size(0), "0 B"), (format_size(1536), "1.50 KiB"), (format_size(64 << 20), "64 MiB"), (format_duration(999), "999 ns"),
     (format_duration(12_345_678), "12.3 ms"), (format_duration(125e9), "2 m 05 s"), (format_duration(3.2 * 3600e9), "3 h 12 m"),
     (format_count(12345), "12,345"), (format_count(1_234_567), "1.23 M"), (format_rate(1 << 30), "1 GiB/s")],
)  # fmt: skip
def test_values_are_shown(shown: str, text: str) -> None:
    assert shown == text


@given(st.integers(0, 2**60))
def test_a_shown_size_reads_back_within_its_digits(nbytes: int) -> None:
    assert parse_size(format_size(nbytes)) == pytest.approx(nbytes, rel=0.01, abs=1)


@given(st.integers(0, 10**11))
def test_a_shown_duration_of_less_than_two_minutes_reads_back_within_its_digits(ns: int) -> None:
    assert parse_duration(format_duration(ns)) == pytest.approx(ns, rel=0.01, abs=1)


def test_a_figure_is_shown_by_the_unit_that_its_name_ends_in() -> None:
    assert format_named("consumer_wait_ns", 79_600_000) == "79.6 ms"
    assert format_named("alignment_bytes", 4096) == "4 KiB"
    assert format_named("consumer_ahead_batches", 126) == "126"
