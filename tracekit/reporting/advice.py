"""Advice: rules over the metrics of a trace. Each states its number and shows the query behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracekit.reporting.source import Source, rank_or_worker
from tracekit.reporting.table import counted
from tracekit.units import format_count, format_duration, format_size

__all__ = ["RULES", "Finding", "advise"]

_SMALL = 0.5
_ENOUGH = 100
"""Ops below which a share says little."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found: `advice` is empty if nothing is to be done, `number` says what it looked at."""

    rule: str
    title: str
    number: str
    advice: str
    sql: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Rule:
    title: str
    query: str
    judge: Callable[[dict[str, Any]], tuple[str, str]]
    """From the row to the number and the advice; an empty number: the trace does not say."""
    by_rank: bool = False


def advise(source: Source) -> list[Finding]:
    """Judge a trace by every rule. Rules with advice come first."""
    found = []
    for name, rule in RULES.items():
        source.taken()
        params = {"by": rank_or_worker(source)} if rule.by_rank else {}
        source.taken()
        (row,) = source.file(rule.query, **params)
        number, advice = rule.judge(row)
        found.append(Finding(name, rule.title, number, advice, source.taken()))
    return sorted(found, key=lambda one: not one.advice)


def _percent(share: float) -> str:
    return f"{min(100 * share, 99.9) if share < 1 else 100 * share:.3g} %"


def _small_reads(row: dict[str, Any]) -> tuple[str, str]:
    if not row["reads"]:
        return "", ""
    order = row["sequential"]
    number = f"{_percent(row['small_share'])} of {counted(row['reads'], 'read')} ask for less than 64 KiB; "
    number += (
        "their order is unknown" if order is None else f"{_percent(order)} go on where the last one ended"
    )
    if row["reads"] < _ENOUGH or row["small_share"] < _SMALL:
        return number, ""
    if order is not None and order >= _SMALL:
        return number, "Read ahead in larger requests: many small sequential reads could be few large ones."
    return (
        number,
        "Small random reads pay the latency of storage each time. Pack samples into shards that are read in order, ask for more at once, or raise the number of workers.",
    )


def _slow_rank(row: dict[str, Any]) -> tuple[str, str]:
    if row["keys"] < 3 or row["times"] is None:
        return "", ""
    number = (
        f"the ops of {row['key']} take {format_duration(row['mean_ns'])} on average, {row['times']:.3g} times the median of "
        f"{row['keys']} ({format_duration(row['median_ns'])})"
    )
    slow = row["times"] >= 1.5
    return (
        number,
        "One rank or worker is slower than the others. Look at its host, its network and its files."
        if slow
        else "",
    )


def _cap(row: dict[str, Any]) -> tuple[str, str]:
    if row["max_qd"] is None:
        return "", ""
    number = (
        f"at most {counted(row['max_qd'], 'op')} and {format_size(row['peak_bytes'])} were in flight; at that number of ops for "
        f"{_percent(row['at_max_share'] or 0)} of the busy time, near those bytes for {_percent(row['near_share'] or 0)}"
    )
    if row["max_qd"] > 1 and max(row["at_max_share"] or 0, row["near_share"] or 0) >= 0.5:
        return (
            number,
            "Requests seem to wait for a cap. Raise the number of workers, the prefetch or the bytes allowed in flight, if storage can take more.",
        )
    return number, ""


def _serial(row: dict[str, Any]) -> tuple[str, str]:
    if row["mean_qd"] is None:
        return "", ""
    number = f"on average {row['mean_qd']:.3g} in flight while storage was busy"
    return (
        number,
        "Requests go one at a time. More workers or prefetching would overlap their latencies."
        if row["mean_qd"] < 1.1
        else "",
    )


def _throttling(row: dict[str, Any]) -> tuple[str, str]:
    if not row["ops"]:
        return "", ""
    again = (
        "how many were sent again is unknown"
        if row["retried"] is None
        else f"{counted(row['retried'], 'op')} sent again"
    )
    number = f"{counted(row['throttled_ops'], 'op')} throttled, {again}, {format_duration(row['waited_ns'])} of earlier tries and waits"
    if row["throttled_ops"] or (row["retried"] or 0) > 0.01 * row["ops"]:
        return (
            number,
            "The store asks to slow down or fails at first. Lower the concurrency, spread the keys over prefixes, or ask for a higher limit.",
        )
    return number, ""


def _direct(row: dict[str, Any]) -> tuple[str, str]:
    if not row["ops"]:
        return "", ""
    number = f"{format_count(row['misaligned'])} of {counted(row['ops'], 'op')} of direct I/O are not aligned to 4096 bytes"
    return (
        number,
        "Align offsets and lengths of direct I/O: each misaligned request reads more than it asks for."
        if row["misaligned"]
        else "",
    )


def _cache(row: dict[str, Any]) -> tuple[str, str]:
    if not row["read_bytes"]:
        return "", ""
    share = row["again_bytes"] / row["read_bytes"]
    number = f"{format_size(row['again_bytes'])} of {format_size(row['read_bytes'])} read ({_percent(share)}) had been read before"
    if share < 0.1 or row["cache_bytes"] is None:
        return number, ""
    return (
        number,
        f"A cache of {format_size(row['cache_bytes'])} would serve 80 % of the bytes that are read again.",
    )


def _metadata(row: dict[str, Any]) -> tuple[str, str]:
    if not row["ops"]:
        return "", ""
    time = "" if row["time_share"] is None else f" and {_percent(row['time_share'])} of the time in ops"
    kinds = f" ({row['kinds']})" if row["kinds"] else ""
    number = f"{_percent(row['metadata_share'])} of {counted(row['ops'], 'op')}{time} move no data{kinds}"
    heavy = row["ops"] >= _ENOUGH and (row["metadata_share"] >= 0.3 or (row["time_share"] or 0) >= 0.3)
    return (
        number,
        "List and stat once and keep the result, or pack many small files into few." if heavy else "",
    )


def _tail(row: dict[str, Any]) -> tuple[str, str]:
    if row["ops"] < _ENOUGH or row["times"] is None:
        return "", ""
    number = (
        f"p99 {format_duration(row['p99_ns'])} is {row['times']:.3g} times the median {format_duration(row['p50_ns'])}; the slowest "
        f"1 % hold {_percent(row['tail_share'])} of the time in reads and writes"
    )
    long = row["times"] >= 10 and row["tail_share"] >= 0.1
    return (
        number,
        "The tail dominates: see which files and streams it is in. Prefetch further ahead, or send slow requests twice."
        if long
        else "",
    )


def _idle(row: dict[str, Any]) -> tuple[str, str]:
    if row["idle_ns"] is None or not row["span_ns"]:
        return "", ""
    share = row["idle_ns"] / row["span_ns"]
    number = f"nothing in flight for {format_duration(row['idle_ns'])}, {_percent(share)} of the run"
    return (
        number,
        "Storage is not the limit for much of the run. Either the program computes, or its loader does not read ahead: see the idle gaps."
        if share >= 0.3
        else "",
    )


RULES: dict[str, _Rule] = {
    "small-random-reads": _Rule("Small or scattered reads", "advice_reads", _small_reads),
    "slow-rank": _Rule("One slow rank or worker", "advice_rank", _slow_rank, by_rank=True),
    "cap-reached": _Rule("Cap reached", "advice_cap", _cap),
    "one-at-a-time": _Rule("One request at a time", "advice_cap", _serial),
    "throttling": _Rule("Throttling and retries", "advice_throttling", _throttling),
    "misaligned-direct-io": _Rule("Misaligned direct I/O", "advice_direct", _direct),
    "cache": _Rule("A cache that would pay", "advice_cache", _cache),
    "metadata": _Rule("Metadata", "advice_metadata", _metadata),
    "tail": _Rule("A long tail", "advice_tail", _tail),
    "idle-storage": _Rule("Idle storage", "busy", _idle),
}
"""Every rule, by name."""
