"""What has come of a listing: no key twice, and an end.

Stores repeat keys where pages meet, give a page again, or go on with empty pages. Each client reads pages; here is
what they have in common.
"""

from __future__ import annotations

__all__ = ["Endless", "Listed", "next_token"]

_EMPTY_PAGES = 1000
"""Pages without a new key, one after another: more are no listing."""
_REPEATED_PAGES = 1
_MOST_BYTES = (1 << 63) - 1


class Endless(Exception):
    """A listing makes no progress."""


class Listed:
    """The keys of one listing so far, by their hashes of 64 bits."""

    def __init__(self) -> None:
        self.pages = 0
        self._seen: set[int] = set()
        self._repeated = self._empty = self._again = 0

    def again(self) -> None:
        """Note that the store is asked anew: it may give every page once more."""
        self._repeated = self._empty = 0
        self._again = self.pages

    def fresh(self, page: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """Return the entries of `page` that were not listed before.

        Raises Endless if the store repeats itself, ValueError for an entry that no object can have.
        """
        self.pages += 1
        found = []
        for entry in page:
            if not (entry[0] and isinstance(entry[0], str) and 0 <= entry[1] <= _MOST_BYTES):
                raise ValueError("an entry of the listing has no key or size")
            known = len(self._seen)
            self._seen.add(hash(entry[0]))
            if len(self._seen) > known:
                found.append(entry)
        if found:
            self._repeated = self._empty = 0
            return found
        self._repeated += bool(page)
        self._empty += not page
        if self._repeated > _REPEATED_PAGES + self._again:
            raise Endless("the listing repeats a page without end")
        if self._empty > _EMPTY_PAGES + self._again:
            raise Endless(f"the listing has more than {_EMPTY_PAGES} empty pages in a row")
        return found


def next_token(token: str, before: str) -> str:
    """Return the token of the next page. Raises ValueError if the listing goes on and names no other place than before."""
    if not token or token == before:
        raise ValueError("the listing is truncated and does not say where it goes on")
    return token
