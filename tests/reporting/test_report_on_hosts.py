"""A page whose figures and chapters several processes find: byte for byte the page of one process."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from reported import op, written

import tracekit


def test_a_page_made_on_hosts_is_the_page_made_here(tmp_path: Path) -> None:
    rng = random.Random(5)
    rows = [
        op(
            i * 10_000, uri=f"s3://b/{rng.randrange(9)}", op=rng.choice(["read", "put", "stat"]), rank=i % 2, step=i // 40,
            len=rng.choice([None, 4096]), bytes=rng.choice([None, 4096]), latency=rng.choice([None, 70_000, 2_000_000]),
            error="timeout" if i % 50 == 3 else None,
        )
        for i in range(400)
    ]  # fmt: skip
    trace = written(tmp_path / "run.trace", rows)
    tracekit.report(trace, tmp_path / "here.html")
    tracekit.report(trace, tmp_path / "hosts.html", on="local", hosts=2)
    assert (tmp_path / "hosts.html").read_bytes() == (tmp_path / "here.html").read_bytes()


def test_a_wrong_place_is_refused_and_leaves_no_page(tmp_path: Path) -> None:
    trace = written(tmp_path / "run.trace", [op(0, latency=1)])
    with pytest.raises(tracekit.UsageError, match="no place to work"):
        tracekit.report(trace, tmp_path / "page.html", on="mars")
    assert not (tmp_path / "page.html").exists()
