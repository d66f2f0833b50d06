"""Which host replays which streams. A stream is never split, and every stream is on exactly one host.

This module knows streams and numbers of hosts, and nothing of plans, networks or Ray.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from tracekit.store.streams import StreamOps

__all__ = ["Stream", "by_file", "copies", "slices"]

Stream = tuple[int, int]
"""(rank, worker)"""


def slices(
    streams: Sequence[StreamOps], hosts: int, split: str, together: Iterable[frozenset[Stream]] = ()
) -> list[frozenset[Stream]]:
    """Return the streams of each host: at most `hosts` sets, none of them empty.

    `split` says what stays on one host besides a stream: the streams of a `rank`; those that use a `file` in common, which
    `together` has; nothing more (`stream`). These are dealt out by their numbers of ops, the largest first to the host with
    the fewest. With `time-hash`, a hash of each stream and of when it begins decides, whatever the others are.
    """
    if split == "time-hash":
        dealt: list[set[Stream]] = [set() for _ in range(hosts)]
        for each in streams:
            key = f"{each.rank}/{each.worker}/{each.first_ns}".encode()
            dealt[int.from_bytes(blake2b(key, digest_size=8).digest()) % hosts].add((each.rank, each.worker))
        return [frozenset(mine) for mine in dealt if mine]
    ops = {(each.rank, each.worker): each.ops for each in streams}
    units = _units(list(ops), split, together)
    weighed = sorted(units, key=lambda unit: (-sum(ops[stream] for stream in unit), min(unit)))
    load = [(0, host) for host in range(hosts)]
    found: list[set[Stream]] = [set() for _ in range(hosts)]
    for unit in weighed:
        least, host = heapq.heappop(load)
        found[host] |= unit
        heapq.heappush(load, (least + sum(ops[stream] for stream in unit), host))
    return [frozenset(mine) for mine in found if mine]


def _units(
    streams: Sequence[Stream], split: str, together: Iterable[frozenset[Stream]]
) -> Iterable[frozenset[Stream]]:
    if split == "file":
        return list(together)
    if split == "stream":
        return [frozenset((stream,)) for stream in streams]
    ranks: dict[int, set[Stream]] = {}
    for stream in streams:
        ranks.setdefault(stream[0], set()).add(stream)
    return [frozenset(mine) for mine in ranks.values()]


def by_file(uses: Iterable[tuple[Stream, str]]) -> list[frozenset[Stream]]:
    """Return the sets of streams that use a file in common, directly or through others."""
    parent: dict[Stream, Stream] = {}

    def root(stream: Stream) -> Stream:
        parent.setdefault(stream, stream)
        while parent[stream] != stream:
            parent[stream] = parent[parent[stream]]
            stream = parent[stream]
        return stream

    first: dict[str, Stream] = {}
    for stream, uri in uses:
        parent[root(stream)] = root(first.setdefault(uri, stream))
    found: dict[Stream, set[Stream]] = {}
    for stream in parent:
        found.setdefault(root(stream), set()).add(stream)
    return [frozenset(mine) for mine in found.values()]


def copies(streams: Sequence[StreamOps], clients: int, ranks: int, shift_ns: int) -> list[StreamOps]:
    """Return the streams of `clients` copies of a trace: each with ranks `ranks` higher and `shift_ns` later."""
    return [
        StreamOps(each.rank + client * ranks, each.worker, each.ops, each.first_ns + client * shift_ns)
        for client in range(clients)
        for each in streams
    ]
