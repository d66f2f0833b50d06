"""Makes the plan of a replay from a recording, whole or part by part, or while it is replayed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import TraceFormatError, UsageError
from tracekit.replayer.clients import PLACEHOLDER, client_tables, shift_between_clients, sources_of
from tracekit.replayer.columns import COMPLETE, LOW, READY, STOP, SharedColumns
from tracekit.replayer.depend import dependencies_of
from tracekit.replayer.kinds import CHANGES, KINDS, READS, code_of
from tracekit.replayer.mapping import MappingRules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import COLUMNS, NONE, Plan
from tracekit.replayer.positions import Positions
from tracekit.replayer.select import fits, text
from tracekit.store.memory import free_bytes
from tracekit.store.merge import ordered_batches
from tracekit.store.reader import TraceReader
from tracekit.store.streams import ranks_of
from tracekit.store.totals import distinct_uris
from tracekit.units import format_size

__all__ = ["build_plan", "plan_parts"]

_FROM_TRACE = [
    *("uri", "op", "offset", "len", "bytes", "latency", "sample_id", "step", "rank", "worker", "error"),
    *("part", "to_uri"),
]
_ROW_BYTES = sum(np.dtype(kind).itemsize for kind in COLUMNS.values())
_STREAM_FROM = 4_000_000
_AHEAD = 500_000
_GIVE_BACK = 125_000
_PAUSE_S = 0.005
_LONGEST_NS = 1 << 62


def build_plan(reader: TraceReader, rules: MappingRules, options: ReplayOptions | None = None) -> Plan:
    """Make the plan of a replay of `reader`: its reads, and its changes if writes are allowed.

    Due times count from the first op kept, divided by `speed`; pauses between submits longer than
    `max_gap` (as recorded) are shortened to it; `loop` repeats the whole. An op without offset
    continues where the last op of its file ended, and one without length reads to the object's
    end: both are counted. Above some million ops, a plan without filters, rounds, gaps, closed
    pacing and writes is streamed: it is returned when its first rows are filled.

    Raises UsageError for URIs that no rule matches and a plan that does not fit into memory, TraceFormatError
    for lengths or offsets below 0.
    """
    options = options or ReplayOptions()
    if options.allow_writes and options.clients > 1 and not rules.per_client:
        raise UsageError(
            f"clients={options.clients} would write the same objects",
            f"give each its own: map=FROM=TO/{PLACEHOLDER}",
        )
    builder = _Builder(reader, rules, options)
    plain = options.loop == 1 and options.max_gap is None and not options.filters
    long = reader.rows * options.clients > _STREAM_FROM
    if plain and not options.allow_writes and options.pace != "closed" and long:
        builder.place(_sources(distinct_uris(reader, READS), rules, options))
        return builder.stream()
    free = free_bytes()
    for ops in builder.fill():
        if ops * _ROW_BYTES > free:
            raise UsageError(
                f"the plan of more than {ops} ops does not fit into {format_size(free)} of memory",
                "replay a part of the trace, or without closed pacing, filters, rounds and writes: such a plan is streamed",
            )
    builder.place(tuple(builder.codes))
    if builder.plan.changes and options.order == "resource":
        builder.plan.order = dependencies_of(builder.plan)
    return builder.plan


def plan_parts(
    reader: TraceReader, rules: MappingRules, options: ReplayOptions, *, least: int = 1
) -> tuple[Plan, Iterator[slice]]:
    """The plan that `build_plan` makes, and its rows part by part, each of `least` ops or more.

    The rows of a part are valid until the next part is asked for. `plan.sources` holds the URIs
    of the parts so far; `plan.uris` is set after the last part.
    """
    builder = _Builder(reader, rules, options)
    return builder.plan, builder.parts(least)


def _sources(uris: Sequence[str], rules: MappingRules, options: ReplayOptions) -> tuple[str, ...]:
    """The sources of a plan of these recorded URIs: for each client, if its names are its own."""
    if not rules.per_client:
        return tuple(uris)
    return tuple(source for client in range(options.clients) for source in sources_of(uris, client))


class _Builder:
    """Fills a plan batch by batch, and keeps the state between batches."""

    def __init__(self, reader: TraceReader, rules: MappingRules, options: ReplayOptions) -> None:
        self.plan = Plan(
            SharedColumns(COLUMNS, reader.rows * options.loop * options.clients),
            (),
            (),
            rounds=options.loop,
            max_gap_ns=options.max_gap,
        )
        self.codes: dict[str, int] = {}
        self._reader = reader
        self._rules = rules
        self._options = options
        allowed = (*READS, *CHANGES) if options.allow_writes else READS
        self._kinds = tuple(kind for kind in allowed if kind not in options.skip)
        self._origin: int | None = None
        self._previous: int | None = None
        self._elapsed = 0  # ns from the first op kept to the last, as recorded, gaps squeezed
        self._positions = Positions(NONE)

    def place(self, sources: tuple[str, ...]) -> None:
        """Set the target of every recorded URI. Raises UsageError if the rules do not give one."""
        self.codes = {uri: code for code, uri in enumerate(sources)}
        self.plan.sources = sources
        self.plan.uris = tuple(self._rules.apply_all(sources, shared=not self._options.allow_writes))

    def stream(self) -> Plan:
        """Return the plan as soon as it has rows; a thread fills the rest, some way ahead of the replay."""
        self.plan.streamed = True
        thread = threading.Thread(target=self._feed, name="tracekit-plan", daemon=True)
        thread.start()
        while not self.plan.ops and not self.plan.shared.header[COMPLETE]:
            time.sleep(0.001)
        if self.plan.failure is not None:
            raise self.plan.failure
        return self.plan

    def fill(self) -> Iterator[int]:
        """Fill the plan; yield the number of ops after each batch."""
        header = self.plan.shared.header
        for round_ in range(self._options.loop):
            if round_:  # each round begins one mean gap after the last op of the one before
                pause = max(self._elapsed // max(self.plan.ops - 1, 1), 1)
                self._previous, self._elapsed = None, self._elapsed + pause
                self._positions.reset()
            for table in self._tables(count_skipped=not round_):
                self._add(table)
                yield self.plan.ops
        header[COMPLETE] = 1

    def _tables(self, *, count_skipped: bool) -> Iterator[pa.Table]:
        """Yield the ops that are replayed, of every client, in order of time."""
        kept = self._recorded(count_skipped)
        options = self._options
        if options.clients == 1 and not self._rules.per_client:
            yield from kept
            return
        yield from client_tables(
            kept,
            options.clients,
            shift_ns=shift_between_clients(self._reader, options),
            ranks=max(ranks_of(self._reader), default=0) + 1 if options.clients > 1 else 0,
            own_names=self._rules.per_client,
        )

    def _recorded(self, count_skipped: bool) -> Iterator[pa.Table]:
        for table in ordered_batches(self._reader, _FROM_TRACE):
            if self._origin is None:
                self._origin = table.column("t_submit")[0].as_py()
            yield self._kept(table, count_skipped=count_skipped)

    def parts(self, least: int = 1) -> Iterator[slice]:
        """Fill in parts of `least` ops or more; free each part when the next is asked for."""
        done = 0
        for ready in self.fill():
            if ready >= done + least:
                yield self._part(done, ready)
                self.plan.shared.free_before(ready)
                done = ready
        if self.plan.ops > done:
            yield self._part(done, self.plan.ops)
        self.place(tuple(self.codes))

    def _part(self, first: int, last: int) -> slice:
        if len(self.plan.sources) < len(self.codes):
            self.plan.sources = tuple(self.codes)
        return slice(first, last)

    def _feed(self) -> None:
        header = self.plan.shared.header
        freed = 0
        try:
            for ready in self.fill():
                while ready - freed > _AHEAD and not header[STOP]:
                    low = self._lowest_needed()
                    if low - freed >= _GIVE_BACK:
                        self.plan.shared.free_before(low)
                        freed = low
                    else:
                        time.sleep(_PAUSE_S)
                if header[STOP]:
                    break
        except BaseException as error:  # noqa: BLE001 - raised again where the engine ends
            self.plan.failure = error
        header[COMPLETE] = 1

    def _lowest_needed(self) -> int:
        """The lowest op that a worker still needs. Counters hold 1 + that op; 0 is a slot without a worker."""
        lows = self.plan.shared.counters(LOW)
        used = lows[lows > 0]
        return int(used.min()) - 1 if len(used) else 0

    def _add(self, kept: pa.Table) -> None:
        rows, first = len(kept), self.plan.ops
        if not rows:
            return
        at, columns = slice(first, first + rows), self.plan.shared.columns
        self._refuse_negative(kept)
        length = pc.coalesce(kept.column("len"), kept.column("bytes"))
        for name, values in (
            ("recorded_ns", kept.column("t_submit")),
            ("recorded_latency", kept.column("latency")),
            ("offset", kept.column("offset")),
            ("length", length),
            ("sample_id", kept.column("sample_id")),
            ("step", kept.column("step")),
            ("recorded_bytes", kept.column("bytes")),
            ("part", kept.column("part").cast(pa.int64())),
        ):
            columns[name][at] = pc.fill_null(values, NONE).to_numpy()
        for name in ("rank", "worker"):
            columns[name][at] = pc.fill_null(kept.column(name), 0).to_numpy()
        columns["recorded_error"][at] = self._errors(kept.column("error"))
        columns["recorded_bytes"][at][columns["recorded_error"][at] >= 0] = NONE
        columns["kind"][at] = pc.index_in(kept.column("op"), pa.array(KINDS)).to_numpy()
        columns["file"][at] = self._files(kept.column("uri"))
        columns["to_file"][at] = self._to_files(kept)
        here = {
            name: columns[name][at]
            for name in ("offset", "length", "file", "to_file", "kind", "rank", "worker")
        }
        self.plan.assumed_lengths += int(((here["length"] == NONE) & (here["kind"] == code_of("read"))).sum())
        self.plan.assumed_offsets += self._positions.assume(here, len(self.codes))
        columns["due_ns"][at] = self._due(columns["recorded_ns"][at])
        self.plan.shared.header[READY] = first + rows

    def _kept(self, table: pa.Table, *, count_skipped: bool) -> pa.Table:
        kinds = pc.fill_null(text(table.column("op")), "read")
        table = table.set_column(table.schema.get_field_index("op"), "op", kinds)
        replayed = pc.is_in(kinds, pa.array(self._kinds))
        if count_skipped:
            for kind in pc.value_counts(kinds.filter(pc.invert(replayed))).to_pylist():
                name = kind["values"]
                self.plan.skipped[name] = self.plan.skipped.get(name, 0) + kind["counts"]
        table = table.filter(replayed)
        keep = fits(table, self._options.filters, self._origin or 0)
        return table if keep.all() else table.filter(pa.array(keep))

    def _refuse_negative(self, kept: pa.Table) -> None:
        """Raise TraceFormatError for a length or an offset below 0, which no storage can serve."""
        for name in ("len", "bytes", "offset"):
            least = pc.min(kept.column(name)).as_py()
            if least is not None and least < 0:
                uri = text(kept.column("uri").filter(pc.less(kept.column(name), 0)))[0].as_py()
                raise TraceFormatError(
                    f"{self._reader.path}: an op on {uri} has {name} {least}",
                    "lengths and offsets are 0 or more",
                )

    def _errors(self, column: pa.ChunkedArray) -> np.ndarray:
        """Each op's error class as an index into `plan.error_classes`; -1 for success."""
        if column.null_count == len(column):
            return np.full(len(column), -1, np.int16)
        encoded = text(column).combine_chunks().dictionary_encode()
        classes = self.plan.error_classes
        names = encoded.dictionary.to_pylist()
        classes += [name for name in names if name not in classes]
        codes = np.array([*(classes.index(name) for name in names), -1], np.int16)
        found: np.ndarray = codes[pc.fill_null(encoded.indices, len(names)).to_numpy()]
        return found

    def _files(self, uris: pa.ChunkedArray) -> np.ndarray:
        encoded = uris.dictionary_encode() if not pa.types.is_dictionary(uris.type) else uris
        encoded = encoded.unify_dictionaries().combine_chunks()
        indexes = encoded.indices.to_numpy()
        names = encoded.dictionary.to_pylist()
        codes = np.zeros(max(len(names), 1), np.int32)
        for index in np.unique(indexes).tolist():
            codes[index] = self.codes.setdefault(names[index], len(self.codes))
        found: np.ndarray = codes[indexes]
        return found

    def _to_files(self, kept: pa.Table) -> np.ndarray:
        """The second object of each op; -1 for none."""
        found = np.full(len(kept), -1, np.int32)
        given = kept.column("to_uri").is_valid().to_numpy()
        if given.any():
            found[given] = self._files(kept.column("to_uri").filter(pa.array(given)))
        return found

    def _due(self, recorded: np.ndarray) -> np.ndarray:
        before = recorded[0] if self._previous is None else self._previous
        gaps = np.diff(recorded, prepend=before)
        if self._options.max_gap is not None:
            np.minimum(gaps, self._options.max_gap, out=gaps)
        elapsed: np.ndarray = self._elapsed + np.cumsum(gaps)
        self._previous, self._elapsed = int(recorded[-1]), int(elapsed[-1])
        if self._options.speed == 1:
            return elapsed
        if self._elapsed / self._options.speed > _LONGEST_NS:
            raise UsageError(
                f"speed={self._options.speed} makes the replay last for centuries", "give a higher speed"
            )
        return np.rint(elapsed / self._options.speed)
