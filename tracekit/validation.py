"""What an option is, and how its value is checked and converted.

Every option is checked here and nowhere else, so that Python and the command line accept the same values.
This module knows kinds of options; `options` and `store_options` list the options. It imports nothing of tracekit
but errors and units.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import operator
import os
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any, Literal, TypeAlias, TypeVar

from tracekit.errors import UsageError
from tracekit.units import format_size, parse_duration, parse_size

__all__ = [
    "Kind",
    "Option",
    "Table",
    "assign",
    "check_names",
    "choosing",
    "flag_of",
    "merge",
    "nearest",
    "parse",
    "parse_all",
    "requirement",
    "shown_default",
    "table",
]

_T = TypeVar("_T")
_LEAST, _MOST = -(2**63), 2**63 - 1
_INTEGER = re.compile(r"\s*[+-]?[0-9]+(?:_[0-9]+)*\s*")


class Kind(StrEnum):
    """What an option takes."""

    FLAG = "flag"
    COUNT = "count"
    NUMBER = "number"
    SIZE = "size"
    DURATION = "duration"
    CHOICE = "choice"
    TEXT = "text"


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One option.

    `name` is the keyword in Python; the flag is the same with dashes. `low`, `high` and `above` (an
    exclusive lower bound) limit the value. `unset` says what None means; without it, None is refused. A size is in bytes; a duration is in ns, or in `unit` if given.
    `repeats` takes one value or several. `count_from` lets a flag take a count, too, of at least that.
    `schemes` are the URI schemes that know the option, if not all do.
    """

    name: str
    kind: Kind
    help: str
    default: Any = None
    unset: str = ""
    group: str = ""
    metavar: str = ""
    unit: Literal["", "s"] = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    repeats: bool = False
    count_from: int | None = None
    schemes: tuple[str, ...] = ()

    @property
    def optional(self) -> bool:
        """Whether None is a value."""
        return bool(self.unset)


Table: TypeAlias = dict[str, Option]


def table(group: str, *options: Option) -> Table:
    """Return `options` by name, all in one group."""
    return {option.name: dataclasses.replace(option, group=group) for option in options}


def parse(option: Option, value: object) -> Any:
    """The value of `option` as tracekit uses it; raises UsageError that names the option and what it takes.

    Accepts Python's and NumPy's numbers and booleans, `pathlib.Path`, and the text that the command line gives.
    Sizes become bytes and durations nanoseconds. An option that repeats becomes a tuple.
    """
    value = _plain(value)
    if value is None or (value == "none" and option.optional and option.kind not in (Kind.TEXT, Kind.CHOICE)):
        if option.optional:
            return None
        raise _wrong(option, value)
    if not option.repeats:
        return _one(option, value)
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        value = (value,)
    several = tuple(_one(option, _plain(item)) for item in value)
    if not several and option.optional:
        raise UsageError(f"{option.name}={value!r} is empty", f"give {requirement(option)}")
    return several


def parse_all(table: Table, given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every option of `table`: those that are `given`, checked, and defaults."""
    check_names(table, given)
    return {
        name: parse(option, given[name]) if name in given else option.default
        for name, option in table.items()
    }


def assign(instance: object, table: Table, given: Mapping[str, Any]) -> None:
    """Set every option of `table` on a new frozen `instance`, as `parse_all` gives them."""
    for name, value in parse_all(table, given).items():
        object.__setattr__(instance, name, value)


def check_names(table: Table, given: Iterable[object]) -> None:
    """Raise UsageError, naming the nearest option, if `given` has a name that is not in `table`."""
    for name in given:
        if name not in table:
            raise UsageError(
                f"unknown option {name!r}", nearest(str(name), table) or f"choose from {', '.join(table)}"
            )


def merge(kind: type[_T], options: _T | Mapping[str, Any] | None, given: Mapping[str, Any]) -> _T:
    """Options of `kind` from an instance of it, a dict or neither, with `given` put over them."""
    if options is None:
        return kind(**given)
    if isinstance(options, kind):
        return dataclasses.replace(options, **given) if given else options  # type: ignore[type-var]
    if isinstance(options, Mapping):
        return kind(**{**{str(name): value for name, value in options.items()}, **given})
    raise UsageError(f"options={options!r} is not valid", f"give {kind.__name__} or a dict")


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean X?` if a known word is near `word`, else nothing."""
    close = difflib.get_close_matches(str(word).lower().replace("-", "_"), list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else ""


def choosing(word: str, known: Iterable[str]) -> str:
    """The hint for `word`, which is none of the words `known`: the nearest, and all of them."""
    words = tuple(known)
    return f"{nearest(word, words)} choose {', '.join(words)}".strip()


def flag_of(name: str) -> str:
    """The command-line flag of an option."""
    return "--" + name.replace("_", "-")


def requirement(option: Option) -> str:
    """What the option takes, as messages and documentation say it."""
    nouns = {
        Kind.FLAG: "True or False",
        Kind.COUNT: "a whole number",
        Kind.NUMBER: "a number",
        Kind.SIZE: "a size of at least 1 byte, such as 65536 or 64KiB",
        Kind.DURATION: "a duration such as 500ms or 2s",
        Kind.CHOICE: "one of " + ", ".join(option.choices),
        Kind.TEXT: "text",
    }
    said = nouns[option.kind] + _bounds(option)
    if option.unit == "s":
        said = "a number of seconds" + _bounds(option) + ", or a duration such as 500ms"
    if option.count_from is not None:
        said += f", or a whole number of at least {option.count_from}"
    return said + (", or None" if option.optional and option.kind != Kind.TEXT else "")


def shown_default(option: Option) -> str:
    """The default, as help and documentation say it."""
    if option.default is None:
        return option.unset
    if option.kind == Kind.FLAG:
        return "on" if option.default else "off"
    if option.kind == Kind.SIZE:
        return format_size(option.default).replace(" ", "")
    if isinstance(option.default, float):
        return f"{option.default:g}"
    return "none" if option.default == () else str(option.default)


def _plain(value: object) -> object:
    """NumPy's scalars and arrays, paths and subclasses of str as plain Python values."""
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return str.__str__(value) if isinstance(value, str) else value


def _one(option: Option, value: object) -> Any:
    converted = _CONVERT[option.kind](option, value)
    if converted is None:
        raise _wrong(option, value)
    return converted


def _flag(option: Option, value: object) -> bool | int | None:
    if isinstance(value, bool):
        return value
    return (
        None
        if option.count_from is None
        else _count(dataclasses.replace(option, low=option.count_from), value)
    )


def _count(option: Option, value: object) -> int | None:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return None
    return _bounded(option, operator.index(value))


def _number(option: Option, value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return _bounded(option, number) if math.isfinite(number) else None


def _size(option: Option, value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral | str):
        return None
    try:
        return _bounded(option, parse_size(value if isinstance(value, str) else operator.index(value)))
    except UsageError:
        return None


def _duration(option: Option, value: object) -> float | None:
    if isinstance(value, timedelta):
        value = value // timedelta(microseconds=1) * 1000
        return _bounded(option, value / 1e9 if option.unit == "s" else value)
    if option.unit == "s" and (number := _number(option, value)) is not None:
        return number
    if isinstance(value, bool) or not isinstance(value, numbers.Integral | str):
        return None
    if option.unit == "s" and not isinstance(value, str):
        return None
    try:
        ns = parse_duration(value if isinstance(value, str) else operator.index(value))
    except UsageError:
        return None
    return _bounded(option, ns / 1e9 if option.unit == "s" else ns)


def _choice(option: Option, value: object) -> str | None:
    return value if isinstance(value, str) and value in option.choices else None


def _text(option: Option, value: object) -> str | None:
    return value if isinstance(value, str) and value else None


_CONVERT = {
    Kind.FLAG: _flag,
    Kind.COUNT: _count,
    Kind.NUMBER: _number,
    Kind.SIZE: _size,
    Kind.DURATION: _duration,
    Kind.CHOICE: _choice,
    Kind.TEXT: _text,
}
_N = TypeVar("_N", int, float)


def _bounded(option: Option, value: _N) -> _N | None:
    least = (0 if option.kind is Kind.DURATION else _LEAST) if option.low is None else option.low
    most = (math.inf if option.kind is Kind.SIZE else _MOST) if option.high is None else option.high
    return value if least <= value <= most and (option.above is None or value > option.above) else None


def _bounds(option: Option) -> str:
    """The limits of a value, as they follow its noun."""
    low, high, above = (None if x is None else f"{x:,.15g}" for x in (option.low, option.high, option.above))
    if above is not None:
        return f" above {above}" + (f" and at most {high}" if high is not None else "")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if option.kind is Kind.SIZE:  # its noun has them
        return ""
    return f" of at least {low}" if low is not None else ""


def _wrong(option: Option, value: object) -> UsageError:
    near = nearest(value, option.choices) if isinstance(value, str) else ""
    return UsageError(f"{option.name}={value!r} is not valid", f"{near} give {requirement(option)}".strip())
