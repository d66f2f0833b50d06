"""Judge replays in tests without judging the machine: metrics that depend on its load are left out."""

from __future__ import annotations

from tracekit.comparison.table import Parity

__all__ = ["differences"]

TIMED = ("duration", "throughput", "latency", "lateness", "cadence", "dispersion", "order", "response")


def differences(parity: Parity) -> set[str]:
    """The metrics that fail and do not depend on time: empty if every request was issued as recorded."""
    return {row.metric for row in parity.failed if row.cause != "client" and not row.metric.startswith(TIMED)}
