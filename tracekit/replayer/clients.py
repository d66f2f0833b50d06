"""One recording as several clients: copies of its ops, shifted in time, with ranks and names of their own.

Where a mapping rule has `{client}`, the names of each client are its own: the plan then tells the recorded URI of one client
from that of another. Everything else of a replay sees one plan with more ranks.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.replayer.options import ReplayOptions
from tracekit.store.reader import TraceReader

__all__ = ["PLACEHOLDER", "client_and_uri", "client_tables", "shift_between_clients", "sources_of"]

PLACEHOLDER = "{client}"
"""Stands for the number of a client, from 0, in the target of a mapping rule."""
_MARK = "\0"
"""In no URI that can be replayed. It comes first, so that names below a directory still begin with the directory."""
_OF_A_CLIENT = re.compile(f"{_MARK}([0-9]+){_MARK}(.*)", re.DOTALL | re.ASCII)


def client_and_uri(source: str) -> tuple[int, str]:
    """Return the client and the recorded URI of a plan's source; (0, `source`) if it names no client."""
    named = _OF_A_CLIENT.fullmatch(source)
    return (0, source) if named is None else (int(named[1]), named[2])


def sources_of(uris: Iterable[str], client: int) -> list[str]:
    """Return the sources of a plan for `uris` as one client uses them."""
    return [f"{_MARK}{client}{_MARK}{uri}" for uri in uris]


def shift_between_clients(reader: TraceReader, options: ReplayOptions) -> float:
    """Return the ns of the recording between the starts of two clients."""
    first, last = reader.extent() if options.stagger_phase else (None, None)
    span_ns = 0 if first is None or last is None else last - first
    return options.stagger * options.speed + options.stagger_phase * span_ns


def client_tables(
    tables: Iterable[pa.Table], clients: int, *, shift_ns: float, ranks: int, own_names: bool
) -> Iterator[pa.Table]:
    """Yield the ops of `clients` copies of `tables`, which are in order of `t_submit`, in that order.

    Copy `i` comes `i * shift_ns` later, with ranks `i * ranks` higher, and with `own_names` with sources of its own. Memory
    is what the recording holds within the time between the first copy and the last.
    """
    shifts = [round(client * shift_ns) for client in range(clients)]
    window: deque[pa.Table] = deque()
    lasts: deque[int] = deque()
    taken = [(0, 0)] * clients  # of each client: the number of its next table, and of the next row in it
    dropped, ended, incoming = 0, False, iter(tables)
    while True:
        if not ended and taken[0][0] - dropped >= len(window):
            table = next((each for each in incoming if len(each)), None)
            ended = table is None
            if table is not None:
                window.append(table)
                lasts.append(table.column("t_submit")[-1].as_py())
        ends = [
            lasts[at - dropped] + shift
            for (at, _), shift in zip(taken, shifts, strict=True)
            if at - dropped < len(window)
        ]
        if not ends:
            return
        parts = []
        for client, shift in enumerate(shifts):
            until = min(ends) - shift
            while taken[client][0] - dropped < len(window):
                at, row = taken[client]
                table = window[at - dropped]
                upto = int(np.searchsorted(table.column("t_submit").to_numpy(), until, side="right"))
                if upto > row:
                    parts.append(
                        _copy(table.slice(row, upto - row), client, shift, client * ranks, own_names)
                    )
                taken[client] = (at + 1, 0) if upto == len(table) else (at, max(upto, row))
                if upto < len(table):
                    break
        while window and min(at for at, _ in taken) > dropped:
            window.popleft()
            lasts.popleft()
            dropped += 1
        yield _in_order(parts)


def _copy(table: pa.Table, client: int, shift: int, ranks: int, own_names: bool) -> pa.Table:
    changed = {"t_submit": pc.add(table.column("t_submit"), shift)}
    if ranks:
        changed["rank"] = pc.add(pc.fill_null(table.column("rank"), 0), pa.scalar(ranks, pa.int32()))
    if own_names:
        changed.update({name: _renamed(table.column(name), client) for name in ("uri", "to_uri")})
    for name, column in changed.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _renamed(column: pa.ChunkedArray, client: int) -> pa.ChunkedArray:
    """Return URIs as the sources of one client; only the dictionary is rewritten."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = encoded.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # without rows
        return encoded
    names = pa.array(sources_of(encoded.dictionary.to_pylist(), client), pa.string())
    return pa.chunked_array([pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int32()), names)])


def _in_order(parts: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of `parts` in order of `t_submit`; ops of one instant stay in the order of the clients."""
    if len(parts) == 1:
        return parts[0]
    whole = pa.concat_tables(parts, promote_options="default").unify_dictionaries()
    order = np.argsort(whole.column("t_submit").to_numpy(), kind="stable")
    return whole.take(pa.array(order))
