"""Parses and formats sizes and durations.

Inside tracekit a size is an int of bytes and a duration an int of ns; only the CLI and the
reports convert. This module imports nothing of tracekit but errors.
"""

from __future__ import annotations

import re

from tracekit.errors import UsageError

__all__ = [
    "format_count",
    "format_duration",
    "format_named",
    "format_rate",
    "format_size",
    "parse_duration",
    "parse_size",
]

_SIZE = {
    "": 1,
    "b": 1,
    "k": 1024,
    "kib": 1024,
    "kb": 1000,
    "m": 1024**2,
    "mib": 1024**2,
    "mb": 1000**2,
    "g": 1024**3,
    "gib": 1024**3,
    "gb": 1000**3,
    "t": 1024**4,
    "tib": 1024**4,
    "tb": 1000**4,
}
_DURATION_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_NUMBER_UNIT = re.compile(r"\s*([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?)\s*([A-Za-zµ]*)\s*")


def parse_size(value: int | str, *, name: str = "size") -> int:
    """Return the bytes of `65536`, `"64KiB"` (binary) or `"64KB"` (decimal).

    A bare `K/M/G/T` is binary, as in fio and dd. Raises UsageError naming `name`.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise UsageError(f"{name}={value} is negative", "give a size such as 65536 or 64KiB")
        return value
    match = _NUMBER_UNIT.fullmatch(value) if isinstance(value, str) else None
    scale = _SIZE.get(match[2].lower()) if match else None
    if match is None or scale is None:
        raise UsageError(f"{name}={value!r} is not a size", "give a size such as 65536, 64KiB or 64KB")
    return _scaled(match[1], scale)


def parse_duration(value: int | str, *, name: str = "duration") -> int:
    """Return the nanoseconds of `"500ms"`, `"2s"`, `"1.5h"`; an int is taken as ns.

    Raises UsageError naming `name`; text without a unit is refused.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise UsageError(f"{name}={value} is negative", "give a duration such as 500ms or 2s")
        return value
    match = _NUMBER_UNIT.fullmatch(value) if isinstance(value, str) else None
    scale = _DURATION_NS.get(match[2].lower()) if match else None
    if match is not None and not match[2] and float(match[1].replace("_", "")) == 0:
        return 0
    if match is None or scale is None:
        raise UsageError(
            f"{name}={value!r} is not a duration", "give a number with a unit, such as 500ms, 2s or 1h"
        )
    return _scaled(match[1], scale)


def format_size(nbytes: float) -> str:
    """Return text such as `1.5 MiB`: three significant digits, binary units."""
    sign, size = ("-" if nbytes < 0 else ""), abs(float(nbytes))
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 999.5 or unit == "TiB":
            return f"{sign}{_digits(size)} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def format_duration(ns: float) -> str:
    """Return text such as `12.3 ms`: three significant digits up to seconds, then `2 m 05 s`, `3 h 07 m`."""
    sign, value = ("-" if ns < 0 else ""), abs(float(ns))
    for unit, scale in (("ns", 1.0), ("us", 1e3), ("ms", 1e6)):
        if value < 999.5 * scale:
            return f"{sign}{_digits(value / scale)} {unit}"
    seconds = value / 1e9
    if seconds < 119.95:
        return f"{sign}{_digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{sign}{minutes} m {rest:02d} s"
    return f"{sign}{minutes // 60} h {minutes % 60:02d} m"


def format_count(n: float) -> str:
    """Return text such as `12,345` up to a hundred thousand, then `1.23 M`."""
    if abs(n) < 100_000:
        return f"{n:,.0f}" if float(n).is_integer() else f"{n:,.1f}"
    for unit, scale in (("K", 1e3), ("M", 1e6), ("G", 1e9)):
        if abs(n) < 999.5 * scale or unit == "G":
            return f"{_digits(n / scale)} {unit}"
    raise AssertionError("unreachable")


def format_named(name: str, value: int) -> str:
    """Format `value` by the unit at the end of `name`: `wait_ns` is a duration, `alignment_bytes` a size, else a count."""
    if name.endswith("_ns"):
        return format_duration(value)
    return format_size(value) if name.endswith("_bytes") else format_count(value)


def format_rate(bytes_per_second: float) -> str:
    """Return text such as `1.5 GiB/s`."""
    return f"{format_size(bytes_per_second)}/s"


def _scaled(number: str, scale: int) -> int:
    digits = number.replace("_", "")
    if "." not in digits:
        return int(digits) * scale
    return round(float(digits) * scale)


def _digits(value: float) -> str:
    if float(value).is_integer() and abs(value) < 1000:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"
