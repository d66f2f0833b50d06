"""Where the parts of an upload lie in their object: what a client says of one part alone does not tell.

Imports nothing of tracekit and no Arrow, because it runs in captured programs.
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["WRITE_KINDS", "Uploads"]

WRITE_KINDS = frozenset(("write", "put", "part"))
"""The kinds of `schema.WRITE_KINDS`; a test compares them."""
_REMEMBERED = 1000


class Uploads:
    """The sizes of the parts of uploads under way, by a name of the upload."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[str, dict[int, int]] = OrderedDict()
        self._numbers: OrderedDict[str, dict[str, int]] = OrderedDict()

    def offset(self, upload: str, number: int, size: int | None) -> int | None:
        """Return where part `number` begins, and remember its size. None while the size of an earlier part is unknown."""
        sizes = self._sizes.setdefault(upload, {})
        if size is not None:
            sizes[number] = size
        if len(self._sizes) > _REMEMBERED:
            self._sizes.popitem(last=False)
        before = [sizes.get(earlier) for earlier in range(1, number)]
        known = [one for one in before if one is not None]
        return sum(known) if len(known) == len(before) else None

    def number(self, upload: str, name: str) -> int:
        """Return the number of the part that a store knows by `name`: the order in which it was first seen."""
        numbers = self._numbers.setdefault(upload, {})
        if len(self._numbers) > _REMEMBERED:
            self._numbers.popitem(last=False)
        return numbers.setdefault(name, len(numbers) + 1)

    def ended(self, upload: str) -> None:
        """Forget an upload that was completed or aborted."""
        self._sizes.pop(upload, None)
        self._numbers.pop(upload, None)
