"""The output of every benchmark: a table on the terminal and a CSV file in `results/`."""

from __future__ import annotations

import csv
import os
import platform
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

RESULTS = Path(__file__).resolve().parent / "results"


class Table:
    """Rows of one benchmark; `finish` prints them and writes `results/NAME.csv` atomically (not without `saved`)."""

    def __init__(self, name: str, columns: list[str]) -> None:
        self.name = name
        self.columns = columns
        self.rows: list[tuple[object, ...]] = []

    def add(self, *values: object) -> None:
        if len(values) != len(self.columns):
            raise ValueError(f"{len(values)} values for {len(self.columns)} columns")
        self.rows.append(values)

    def finish(self, *, saved: bool = True) -> None:
        console = Console(width=None if os.isatty(1) else 160)
        shown = RichTable(
            title=f"{self.name} ({os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()})"
        )
        for index, column in enumerate(self.columns):
            shown.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
        for row in self.rows:
            shown.add_row(*(_shown(value) for value in row))
        console.print(shown)
        if not saved:
            return
        RESULTS.mkdir(exist_ok=True)
        target = RESULTS / f"{self.name}.csv"
        temporary = target.with_suffix(".partial")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows(self.rows)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        console.print(f"saved {os.path.relpath(target)}")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
