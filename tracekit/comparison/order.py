"""Whether a replay kept the order of its plan: neighbours that went in the wrong order."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tracekit.comparison.table import ParityRow, within

__all__ = ["Order"]

TOLERANCE = {"recorded": 0.01, "closed": 0.05, "asap": 0.25}
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
_NULL = np.iinfo(np.int64).min


@dataclass(slots=True)
class _Neighbours:
    """Counts neighbours of a group, and those that are inverted by more than each slack."""

    pairs: int = 0
    inverted: list[int] = field(default_factory=lambda: [0] * len(_SLACKS_NS))
    last: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, groups: np.ndarray, submit: np.ndarray, other: np.ndarray, *, carry: bool) -> None:
        """Add ops in plan order: `groups` of shape (2, n), submits, and what must not come before the
        submit of the preceding op of the group (ns). `carry` joins groups over calls."""
        keys, which = np.unique(groups, axis=1, return_inverse=True)
        order = np.argsort(which.reshape(-1), kind="stable")
        which, submit, other = which.reshape(-1)[order], submit[order], other[order]
        same = which[1:] == which[:-1]
        self._count((submit[:-1] - other[1:])[same])
        if not carry:
            return
        firsts = np.searchsorted(which, np.arange(keys.shape[1]))
        lasts = np.append(firsts[1:], len(which)) - 1
        for key, first, last in zip(
            map(tuple, keys.T.tolist()), firsts.tolist(), lasts.tolist(), strict=True
        ):
            if key in self.last:
                self._count(np.array([self.last[key] - int(other[first])]))
            self.last[key] = int(submit[last])

    def _count(self, back_ns: np.ndarray) -> None:
        self.pairs += len(back_ns)
        for at, slack in enumerate(_SLACKS_NS):
            self.inverted[at] += int((back_ns > slack).sum())

    def share(self, slack_ns: float) -> float:
        at = next((i for i, slack in enumerate(_SLACKS_NS) if slack >= slack_ns), len(_SLACKS_NS) - 1)
        return self.inverted[at] / self.pairs if self.pairs else 0.0


@dataclass(slots=True)
class Order:
    """Adds up the order of a replay with the pacing `pace`.

    The ops of a stream are submitted in order, up to the client's own lateness. In `closed`
    pacing any free worker may take the next sample; then the ops of a sample keep their order,
    and the samples of a rank are begun in theirs, or, where a batch is read in parallel, its
    steps are. In `asap` pacing, which knows no lateness, an
    op is out of order only if it had ended before its predecessor was submitted.
    """

    pace: str
    streams: _Neighbours = field(default_factory=_Neighbours)
    samples: _Neighbours = field(default_factory=_Neighbours)
    steps: _Neighbours = field(default_factory=_Neighbours)

    def add(
        self, rank: np.ndarray, worker: np.ndarray, sample: np.ndarray, step: np.ndarray, submit: np.ndarray,
        latency: np.ndarray,
    ) -> None:  # fmt: skip
        """Add ops in plan order. Times in ns."""
        other = submit + np.maximum(latency, 0) if self.pace == "asap" else submit
        self.streams.add(np.stack([rank, worker]), submit, other, carry=True)
        if self.pace != "closed":
            return
        self._add_steps(rank, step, submit)
        sample = np.where(sample == _NULL, -1 - np.arange(len(sample)), sample)  # each its own
        groups = np.stack([rank, sample])
        self.samples.add(groups, submit, other, carry=False)
        _, begins = np.unique(groups, axis=1, return_index=True)
        begins.sort()
        self.samples.add(
            np.stack([rank[begins], np.full(len(begins), _NULL)]), submit[begins], other[begins], carry=True
        )

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
        self.steps.add(groups, begun[order], begun[order], carry=True)

    def row(self, jitter_ns: float) -> ParityRow:
        """The row of the table; `jitter_ns` is the client's own lateness p99."""
        slack = 0 if self.pace == "asap" else max(jitter_ns, _LEAST_SLACK_NS)
        share = self.streams.share(slack)
        if self.pace == "closed":
            share = min(
                share, self.samples.share(slack), self.steps.share(slack) if self.steps.pairs else 1.0
            )
        return within("order", "share", share, TOLERANCE[self.pace])
