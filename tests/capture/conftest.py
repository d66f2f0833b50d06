import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tracekit.capture import session
from tracekit.store.reader import open_reader


@pytest.fixture(autouse=True)
def no_capture_outlives_its_test() -> Iterator[None]:
    before = dict(os.environ)
    yield
    session.stop()
    assert {k: v for k, v in os.environ.items() if k.startswith("TRACEKIT")} == {
        k: v for k, v in before.items() if k.startswith("TRACEKIT")
    }


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "run.trace"


def rows(path: Path, where: str = "true") -> list[dict[str, Any]]:
    """The ops of a trace in order of time."""
    return open_reader(path).query(f"SELECT * FROM ops WHERE {where} ORDER BY t_submit").to_pylist()


@pytest.fixture
def ops():
    return rows
