"""Whether a replay kept the order of its plan: neighbours that went in the wrong order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tracekit.comparison.hosts import StreamHosts
from tracekit.comparison.table import ParityRow, within

__all__ = ["Order", "Overtaking"]

TOLERANCE = {"recorded": 0.01, "closed": 0.05, "asap": 0.05}
_SLACKS_NS = (
    0,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
)
_LEAST_SLACK_NS = 1_000_000
_CLOSE_OPS = 64
_NULL = np.iinfo(np.int64).min


@dataclass(slots=True)
class _Neighbours:
    """Counts neighbours of a group, and those that are inverted by more than each slack."""

    pairs: int = 0
    inverted: list[int] = field(default_factory=lambda: [0] * len(_SLACKS_NS))
    last: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, groups: np.ndarray, submit: np.ndarray, *, carry: bool) -> None:
        """Add ops in plan order: `groups` of shape (2, n), and submits in ns. `carry` joins groups over calls."""
        keys, which = np.unique(groups, axis=1, return_inverse=True)
        order = np.argsort(which.reshape(-1), kind="stable")
        which, submit = which.reshape(-1)[order], submit[order]
        same = which[1:] == which[:-1]
        self._count((submit[:-1] - submit[1:])[same])
        if not carry:
            return
        firsts = np.searchsorted(which, np.arange(keys.shape[1]))
        lasts = np.append(firsts[1:], len(which)) - 1
        for key, first, last in zip(
            map(tuple, keys.T.tolist()), firsts.tolist(), lasts.tolist(), strict=True
        ):
            if key in self.last:
                self._count(np.array([self.last[key] - int(submit[first])]))
            self.last[key] = int(submit[last])

    def _count(self, back_ns: np.ndarray) -> None:
        self.pairs += len(back_ns)
        for at, slack in enumerate(_SLACKS_NS):
            self.inverted[at] += int((back_ns > slack).sum())

    def share(self, slack_ns: float) -> float:
        at = next((i for i, slack in enumerate(_SLACKS_NS) if slack >= slack_ns), len(_SLACKS_NS) - 1)
        return self.inverted[at] / self.pairs if self.pairs else 0.0


@dataclass(slots=True)
class Overtaking:
    """Adds up how far ops overtake each other where workers take them from one queue (`asap` pacing).

    Workers take ops in the order of the plan. That bounds the overtaking in two ways, however the
    machine schedules them. Ops that are close in the plan are taken at nearly the same time: pairs
    of them are inverted if the later one had ended before the earlier one was submitted. And when
    an op goes, all ops before it have gone but those that the other workers hold.
    """

    workers: int
    pairs: Counter[int] = field(default_factory=Counter)
    inverted: Counter[int] = field(default_factory=Counter)
    sampled: list[np.ndarray] = field(default_factory=list)

    def add(self, op: np.ndarray, submit: np.ndarray, end: np.ndarray) -> None:
        """Add ops by their index in the plan, ascending. Times in ns."""
        distance = 1
        while distance < _CLOSE_OPS:
            # Positions, not indices: where ops are missing, completeness fails.
            together = op[:-distance] // _CLOSE_OPS == op[distance:] // _CLOSE_OPS
            self._count(distance, submit[:-distance][together], end[distance:][together])
            distance *= 2
        self.sampled.append(submit[op % _CLOSE_OPS == 0])

    def _count(self, distance: int, submit: np.ndarray, end: np.ndarray) -> None:
        self.pairs[distance] += len(submit)
        self.inverted[distance] += int((end < submit).sum())

    def share(self) -> float:
        """The largest share of ops that overtook others in a way that workers do not explain."""
        # A worker may be held up once while it makes the bytes that an op writes.
        held = self.workers - 1
        near = (max(self.inverted[distance] - held, 0) / n for distance, n in self.pairs.items() if n)
        return max((*near, self._far()))

    def _far(self) -> float:
        """The share of ops, one in `_CLOSE_OPS`, that went while more ops were left behind than workers hold."""
        if not self.sampled:
            return 0.0
        submit = np.concatenate(self.sampled)
        rank = np.empty(len(submit), np.int64)
        rank[np.argsort(submit, kind="stable")] = np.arange(len(submit))
        early = int((rank < np.arange(len(submit)) - (self.workers - 1)).sum())
        return early / len(submit) if len(submit) else 0.0


@dataclass(slots=True)
class Order:
    """Adds up the order of a replay with the pacing `pace`.

    The ops of a stream are submitted in order, up to the client's own lateness. In `closed`
    pacing any free worker may take the next sample; then the ops of a sample keep their order,
    and the samples of a rank are begun in theirs, or, where a batch is read in parallel, its
    steps are. `asap` pacing knows neither streams nor lateness: see `Overtaking`.
    """

    pace: str
    overtaking: Sequence[Overtaking]
    """Of each host: each has a queue of its own."""
    hosts: StreamHosts = field(default_factory=StreamHosts)
    seen: list[int] = field(default_factory=list)
    streams: _Neighbours = field(default_factory=_Neighbours)
    samples: _Neighbours = field(default_factory=_Neighbours)
    steps: _Neighbours = field(default_factory=_Neighbours)

    def add(self, op: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Add ops in plan order: their indices in the plan, and columns of their rows. Times in ns."""
        rank, sample = values["rank"], values["sample_id"]
        # An op that waits for changes of its object is overtaken meanwhile, and stands in line for the gate behind
        # those that overtook it: what counts is when its turn came.
        dependency, gate = (np.maximum(values[name], 0) for name in ("dependency", "gate_wait"))
        submit = values["t_submit"] - np.where(dependency > 0, dependency + gate, 0)
        if self.pace == "asap":
            self._add_queues(op, values, submit)
            return
        self.streams.add(np.stack([rank, values["worker"]]), submit, carry=True)
        if self.pace != "closed":
            return
        self._add_steps(rank, values["step"], submit)
        sample = np.where(sample == _NULL, -1 - np.arange(len(sample)), sample)  # each its own
        groups = np.stack([rank, sample])
        self.samples.add(groups, submit, carry=False)
        _, begins = np.unique(groups, axis=1, return_index=True)
        begins.sort()
        self.samples.add(np.stack([rank[begins], np.full(len(begins), _NULL)]), submit[begins], carry=True)

    def _add_queues(self, op: np.ndarray, values: Mapping[str, np.ndarray], submit: np.ndarray) -> None:
        """Add the ops of each queue: those of one host, by their index in the plan or among its own."""
        end = values["t_submit"] + np.maximum(values["latency"], 0)
        if self.hosts.count == 1:
            self.overtaking[0].add(op, submit, end)
            return
        self.seen = self.seen or [0] * self.hosts.count
        of_op = self.hosts.of(values["rank"], values["worker"])
        for host, overtaking in enumerate(self.overtaking):
            mine = of_op == host
            count = int(mine.sum())
            overtaking.add(self.seen[host] + np.arange(count), submit[mine], end[mine])
            self.seen[host] += count

    def _add_steps(self, rank: np.ndarray, step: np.ndarray, submit: np.ndarray) -> None:
        """Add when each step was begun, in the order in which the plan begins them."""
        known = step != _NULL
        if not known.any():
            return
        keys, begins, which = np.unique(
            np.stack([rank[known], step[known]]), axis=1, return_index=True, return_inverse=True
        )
        begun = np.full(keys.shape[1], np.iinfo(np.int64).max)
        np.minimum.at(begun, which.reshape(-1), submit[known])
        order = np.argsort(begins, kind="stable")
        groups = np.stack([keys[0][order], np.full(len(order), _NULL)])
        self.steps.add(groups, begun[order], carry=True)

    def row(self, jitter_ns: float) -> ParityRow:
        """The row of the table; `jitter_ns` is the client's own lateness p99."""
        slack = max(jitter_ns, _LEAST_SLACK_NS)
        share = (
            max(queue.share() for queue in self.overtaking)
            if self.pace == "asap"
            else self.streams.share(slack)
        )
        if self.pace == "closed":
            share = min(
                share, self.samples.share(slack), self.steps.share(slack) if self.steps.pairs else 1.0
            )
        return within("order", "share", share, TOLERANCE[self.pace])
