"""The pytest plugin: fixtures that capture a test's I/O and judge it. pytest finds it by its entry point.

pytest imports this module at the start of every run in whose environment tracekit is installed, so
it imports nothing of tracekit before a test asks for a fixture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tracekit.comparison.table import Parity

__all__ = ["capture_trace", "parity", "pytest_addoption"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--parity-dir`."""
    parser.getgroup("tracekit").addoption(
        "--parity-dir",
        metavar="DIR",
        help="keep each comparison of the fixture `parity` in DIR, as JSON and as JUnit XML",
    )


@pytest.fixture
def capture_trace(tmp_path: Path) -> Callable[..., AbstractContextManager[Path]]:
    """Capture the I/O of a block: `with capture_trace() as trace:` gives the path of the trace.

    `capture_trace(name, **options)` takes the options of `tracekit.capture.start`; the default name is
    `run.trace`, below the test's `tmp_path`. The trace is complete when the block ends.
    """

    @contextmanager
    def capturing(name: str = "run.trace", **options: Any) -> Iterator[Path]:
        from tracekit import capture

        with capture.start(tmp_path / name, **options):
            yield tmp_path / name

    return capturing


@pytest.fixture
def parity(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Callable[..., Parity]:
    """`assert_parity`, whose verdict becomes a property of the test in pytest's own JUnit report.

    With `--parity-dir DIR`, the table of each call is kept there whether it holds or not.
    """
    folder = request.config.getoption("--parity-dir")
    calls = 0

    def judged(*traces: Any, **options: Any) -> Parity:
        nonlocal calls
        from tracekit.comparison.junit import junit
        from tracekit.replayer.compare import compare
        from tracekit.testing.assertion import failure_message

        found = compare(*traces, **options)
        calls += 1
        record_property("parity", "; ".join(found.verdict))
        if folder:
            name = re.sub(r"[^\w.-]+", "-", request.node.nodeid).strip("-") + (
                f"-{calls}" if calls > 1 else ""
            )
            kept = Path(folder) / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.with_name(f"{name}.json").write_text(json.dumps(found.to_dict(), indent=1) + "\n")
            kept.with_name(f"{name}.xml").write_bytes(junit(found, name=request.node.nodeid))
        if not found.ok:
            pytest.fail(failure_message(found), pytrace=False)
        return found

    return judged
