"""A loader's run on one scheme replays on the same scheme and on others with the recorded requests."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tracekit.backends.registry import backend_for
from tracekit.loader.loader import create_async_loader
from tracekit.replayer.materialize import materialize
from tracekit.replayer.run import replay
from tracekit.store.reader import TraceReader, open_reader

pytestmark = pytest.mark.server

OBJECTS = 32
THINK_S = 0.02


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str], str]:
    """A folder of its own on a scheme."""

    def folder(scheme: str, name: str) -> str:
        if scheme == "s3":
            return f"s3://{request.getfixturevalue('s3_bucket')}/{name}"
        if scheme == "az":
            return f"az://{request.getfixturevalue('az_container')}/{name}"
        return f"{scheme}://{tmp_path}/{name}"

    return folder


def recorded(root: str, trace: Path) -> TraceReader:
    """Eight steps of range reads, with a consumer that thinks between them."""
    rng = random.Random(3)
    backend = backend_for(root)
    for index in range(OBJECTS):
        backend.put(f"{root}/{index:02}", rng.randbytes(rng.randrange(1, 40_000)))
    backend.close()
    options = {"batch_size": 4, "num_workers": 2, "reader_mode": "range", "target_request_bytes": "16KiB"}
    with create_async_loader(root, options, trace) as loader:
        for _ in loader:
            time.sleep(THINK_S)
    return open_reader(trace)


@pytest.mark.parametrize(
    ("source", "target"), [("s3", "s3"), ("az", "az"), ("file", "s3"), ("s3", "az"), ("az", "direct")]
)
def test_a_run_replays_across_schemes_with_the_same_requests(
    place: Callable[[str, str], str], tmp_path: Path, source: str, target: str
) -> None:
    recording = recorded(place(source, "data"), tmp_path / "t")
    rule = f"{place(source, 'data')}={place(target, 'made')}"
    assert materialize(recording, [rule]).made == OBJECTS
    parity = replay(recording, map=rule, out=tmp_path / "r", tolerance=1e9, max_lateness="1h").parity
    assert parity.row("failed_ops").b == 0
    assert parity.row("req_bytes_hist").difference == 0
    assert parity.row("bytes_per_step").difference == 0
    early = open_reader(tmp_path / "r").query("SELECT min(t_submit - t_due) AS ns FROM ops").column("ns")
    assert early[0].as_py() >= 0
