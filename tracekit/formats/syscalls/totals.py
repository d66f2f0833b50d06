"""Reads the table that `strace -C` appends to a log, and compares it with the calls that the log shows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["Totals"]

_RULE = re.compile(r"% time .*|-{6} .*")
_ROW = re.compile(
    r"\s*\d{1,3}\.\d\d\s+\d{1,9}\.\d{6}\s+(?P<numbers>\d{1,12}(?:\s+\d{1,12}){0,2})\s+(?P<name>\w{1,60})",
    re.ASCII,
)
_ALL = "total"
_NAMED = 10


@dataclass(slots=True)
class Totals:
    """The table of a log: how often each call was made, and how often it failed."""

    calls: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def read(self, line: str) -> bool:
        """Take in a line of the table; return whether it is one."""
        found = _ROW.fullmatch(line)
        if found is None:
            return _RULE.fullmatch(line) is not None
        numbers = [int(number) for number in found["numbers"].split()]
        if found["name"] != _ALL:  # the sum; its mean of us is absent in older versions
            self.calls[found["name"]] += numbers[1] if len(numbers) > 1 else numbers[0]
            self.errors[found["name"]] += numbers[2] if len(numbers) > 2 else 0
        return True

    def notes(self, calls: Mapping[str, int], errors: Mapping[str, int]) -> Iterator[str]:
        """Return notes on the calls of which the log shows not as many as its table counts, and likewise their errors."""
        for what, counted, shown in (("calls", self.calls, calls), ("failed calls", self.errors, errors)):
            unlike = [
                f"{name} {shown.get(name, 0)} of {count}"
                for name, count in sorted(counted.items())
                if shown.get(name, 0) != count
            ]
            if unlike:
                more = f" and {len(unlike) - _NAMED} more" if len(unlike) > _NAMED else ""
                yield f"the log does not show the {what} that its own totals count: {', '.join(unlike[:_NAMED])}{more}"
