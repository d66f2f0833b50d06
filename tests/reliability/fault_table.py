"""The rows of docs/reliability.md, and the page. Run it to write the page.

The figures are what a run of `make soak` noted in results.json beside this file.
"""

from __future__ import annotations

import json
from pathlib import Path

import fault_crash
import fault_damage
import fault_fuzz
import fault_limits
import fault_scale
from fault_rows import Row

__all__ = ["ROWS", "page"]

HERE = Path(__file__).resolve().parent
PARTS = {
    "Crashes": fault_crash.ROWS,
    "Damage": fault_damage.ROWS,
    "Limits": fault_limits.ROWS,
    "Large numbers": fault_scale.ROWS,
    "Hostile input": fault_fuzz.ROWS,
}
ROWS: list[Row] = [row for rows in PARTS.values() for row in rows]
RESULTS = HERE / "results.json"
_TOP = """# Reliability

What was done to tracekit, how often, what it promises, and what was lost. The tests and this page are made from the same
rows (`tests/reliability/`): `make test` causes each fault a few times, `make soak` as often as the table says.
One row alone: `make soak ONLY=NAME`. "Not run" means that no figure is claimed yet.

"""
_END = """
## What is not promised

- Ops that were not flushed when a process dies by `kill -9`: a recorder flushes every 0.25 s, and on `flush()`.
- Ops that the kernel had not written when the machine loses power: journals are not synced for each flush. What was
  written is checked, see the rows on damage.
- Anything on a file system that loses data which it has acknowledged.
"""


def page() -> str:
    """Return the text of docs/reliability.md."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    text = _TOP
    for title, rows in PARTS.items():
        text += f"## {title}\n\n| fault | times tried | promise | lost | command |\n| --- | ---: | --- | --- | --- |\n"
        for row in rows:
            found = results.get(row.name)
            tried = f"{found['tried']:,}" if found else "not run"
            loss = found["loss"] if found else ""
            text += f"| {row.fault} | {tried} | {row.promise} | {loss} | `make soak ONLY={row.name}` |\n"
        text += "\n"
    return text.rstrip("\n") + "\n" + _END


if __name__ == "__main__":
    (HERE.parents[1] / "docs" / "reliability.md").write_text(page())
