"""The faults of docs/reliability.md: `make test` causes each a few times, `make soak` as often as the table says.

`TRACEKIT_SOAK_RESULTS=FILE` notes what each row did, for the figures of the page. `TRACEKIT_SOAK_SHARE=0.1` makes a
tenth of the tries.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from fault_rows import Row
from fault_table import ROWS, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
SHORT = [row for row in ROWS if row.short]


def _tried(row: Row, times: int, folder: Path) -> None:
    tried, loss = row.trial(folder, times, random.Random(row.name))
    results = os.environ.get("TRACEKIT_SOAK_RESULTS")
    if results:
        file = Path(results)
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**known, row.name: {"tried": tried, "loss": loss}}, indent=1) + "\n")


@pytest.mark.parametrize("row", SHORT, ids=[row.name for row in SHORT])
def test_a_fault_keeps_its_promise(row: Row, tmp_path: Path) -> None:
    _tried(row, row.short, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_fault_keeps_its_promise_each_time(row: Row, tmp_path: Path) -> None:
    share = float(os.environ.get("TRACEKIT_SOAK_SHARE", "1"))
    _tried(row, max(row.short, int(row.soak * share)), tmp_path) if row.soak else _tried(row, 0, tmp_path)


def test_the_page_has_every_row() -> None:
    assert PAGE.read_text() == page(), "run `python tests/reliability/fault_table.py`"
