"""What a replay is held to: the measures of parity, foretold from its plan."""

from __future__ import annotations

import numpy as np

from tracekit.comparison.parity import WINDOW_NS, Measures
from tracekit.replayer.plan import NONE, Plan

__all__ = ["expected_measures"]


def expected_measures(plan: Plan) -> Measures:
    """Parity's measures of the plan, if every op went when due and took as long as when recorded.

    Bytes are those that the recording moved, or those asked for where it moved none.
    """
    due = plan.column("due_ns")
    latency = plan.column("recorded_latency")
    known_latency = np.where(latency == NONE, 0, latency)
    moved = plan.moves()
    steps, rank = plan.column("step"), plan.column("rank").astype(np.int64)
    stepped = steps != NONE
    distinct = len(np.unique(np.stack([rank[stepped], steps[stepped]]), axis=1).T) if stepped.any() else 0
    length = plan.column("length")
    asked = np.where(length == NONE, moved, length)
    buckets = np.where(asked > 0, np.floor(np.log2(np.maximum(asked, 1))).astype(np.int64), -1)
    values, counts = np.unique(buckets, return_counts=True)
    slots, which = np.unique((due - due[:1]) // WINDOW_NS, return_inverse=True)
    window_bytes = np.bincount(which.reshape(-1), weights=moved).astype(np.int64)
    finished = latency[latency != NONE]
    return Measures(
        ops=plan.ops,
        failed_ops=0,
        bytes=int(moved.sum()),
        duration_ns=int((due + known_latency).max() - due.min()) if plan.ops else 0,
        submit_span_ns=plan.span_ns,
        steps=distinct,
        bytes_per_step=float(moved[stepped].sum() / distinct) if distinct else None,
        latency_p50_ns=float(np.quantile(finished, 0.5, method="inverted_cdf")) if len(finished) else None,
        latency_p99_ns=float(np.quantile(finished, 0.99, method="inverted_cdf")) if len(finished) else None,
        lateness_p50_ns=None,
        lateness_p99_ns=None,
        lateness_max_ns=None,
        req_bytes={int(value): int(count) for value, count in zip(values, counts, strict=True)},
        window_bytes={s: n for s, n in zip(slots.tolist(), window_bytes.tolist(), strict=False) if n},
    )
