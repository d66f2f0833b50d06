"""An op without a latency never ended only where the log says so; of any other log that is unknown, and not counted."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tracekit.formats.registry import import_trace
from tracekit.metrics.partial import partial, windows
from tracekit.metrics.snapshot import MetricsSnapshot, snapshot
from tracekit.replayer.compare import compare
from tracekit.reporting.page import outcome
from tracekit.reporting.table import endings, in_flight
from tracekit.store.check import verify
from tracekit.store.reader import open_reader
from tracekit.trace import open_trace

STRACE = """\
7 1700000000.000000 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3</d/a> <0.000010>
7 1700000000.001000 pread64(3</d/a>, ""..., 4096, 0) = 4096 <0.000020>
7 1700000000.002000 pread64(3</d/a>, ""..., 4096, 4096) = 4096
7 1700000000.003000 pread64(3</d/a>, <unfinished ...>
"""
CSV = "t_submit,uri,offset,len,latency\n" + "".join(
    f"{at * 100},file:///d/a,{at * 4096},4096,{150 if at % 2 else ''}\n" for at in range(10)
)
JSONL = "".join(
    f'{{"t_submit": {at * 100}, "uri": "file:///d/a", "offset": 0, "len": 9, "latency": {150 if at else "null"}}}\n'
    for at in range(4)
)
BLOCKS = """\
  8,0    0        1     0.000000100   77  D   R 0 + 8 [fio]
  8,0    0        2     0.000000300   77  C   R 0 + 8 [0]
  8,0    0        3     0.000000400   77  D   R 8 + 8 [fio]
"""


def imported(tmp_path: Path, format: str, text: str) -> Path:
    log = tmp_path / f"{format}.log"
    log.write_text(text)
    import_trace(format, log, tmp_path / f"{format}.trace")
    return tmp_path / f"{format}.trace"


def measured(path: Path) -> MetricsSnapshot:
    return snapshot(open_reader(path))


@pytest.mark.parametrize(
    ("format", "text", "unfinished", "depth"),
    [
        ("csv", CSV, None, 2),
        ("jsonl", JSONL, None, 2),
        ("blktrace", BLOCKS, 1, 1),
        ("blktrace", BLOCKS + "Total (x):\n Skips: 3 forward (7 - 1.0%)\n", None, 1),
        ("strace", STRACE.replace(" = 4096\n", " = 4096 <0.000020>\n"), 1, 1),
        ("strace", STRACE, None, 1),
        ("fio", "fio version 3 iolog\n1 /d/a add\n1 /d/a open\n2 /d/a read 0 4096\n", None, None),
    ],
)
def test_only_a_log_that_has_begins_and_ends_says_which_ops_never_ended(
    tmp_path: Path, format: str, text: str, unfinished: int | None, depth: int | None
) -> None:
    trace = imported(tmp_path, format, text)
    found = measured(trace)
    assert (found.unfinished_ops, found.max_qd) == (unfinished, depth)
    parts = [partial(open_reader(trace), window) for window in windows(open_reader(trace), 3)]
    assert parts[0].merge(parts[1]).merge(parts[2]).snapshot() == found
    said = [finding.what for finding in verify(trace)]
    assert said == ([f"{unfinished} ops never ended"] if unfinished else [])


def test_the_words_say_that_some_latencies_are_unknown(tmp_path: Path) -> None:
    trace = imported(tmp_path, "csv", CSV)
    found = measured(trace)
    assert endings(found) == "0 failed, 5 of unknown latency"
    assert in_flight(found).startswith("a peak of at least 2 ops")
    assert outcome(found) == (
        "open",
        "The source of the trace does not say whether 5 of its 10 ops ended: they have no latencies.",
    )
    row = compare(trace, trace).row("unfinished_ops")
    assert (row.a, row.b, row.ok) == (None, None, None)


def test_the_macro_and_the_sweep_count_an_op_of_unknown_end_for_a_moment(tmp_path: Path) -> None:
    trace = imported(tmp_path, "csv", CSV)
    levels = open_trace(trace).query(
        "SELECT max(qd)::BIGINT AS qd, max(inflight_bytes)::BIGINT AS b FROM in_flight()"
    )
    found = measured(trace)
    assert levels.to_pylist() == [{"qd": found.max_qd, "b": found.peak_inflight}]
    assert open_trace(trace).query("SELECT qd FROM in_flight() ORDER BY t DESC LIMIT 1").to_pylist() == [
        {"qd": 0}
    ]
    with closing(open_reader(trace).connect()) as connection:
        assert connection.sql("SELECT ends_unknown()").fetchall() == [(True,)]
