"""Writes of replay and materialize stay inside the mapped target."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracekit.errors import UsageError
from tracekit.replayer.mapping import parse_rules
from tracekit.replayer.materialize import materialize
from tracekit.replayer.run import replay


@pytest.mark.parametrize(
    "name", ["run/../../private/ledger", "door/ledger", "a/../../private/new", "inner/../../private/x"]
)
def test_nothing_outside_the_target_is_written_through_dots_and_links(tmp_path: Path, name: str) -> None:
    for folder in ("target/inner", "private"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "private" / "ledger").write_text("precious")
    (tmp_path / "target" / "door").symlink_to(tmp_path / "private")
    columns = {
        "offset": [0],
        "len": [100],
        "t_submit": [0],
        "sample_id": [0],
        "latency": [1000],
        "bytes": [100],
    }
    rule = f"file:///run=file://{tmp_path}/target"
    for op in ("put", "read"):
        pq.write_table(
            pa.table({"uri": [f"file:///run/{name}"], "op": [op], **columns}), tmp_path / "t.parquet"
        )
        if op == "put":
            with pytest.raises(UsageError, match="outside the mapped target"):
                replay(tmp_path / "t.parquet", map=[rule], allow_writes=True, overwrite=True)
        elif name != "door/ledger":  # that one exists, so materialize leaves it alone
            with pytest.raises(UsageError, match="outside the mapped target"):
                materialize(tmp_path / "t.parquet", [rule])
    assert [entry.name for entry in (tmp_path / "private").iterdir()] == ["ledger"]
    assert (tmp_path / "private" / "ledger").read_text() == "precious"


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        ("file:///run=file://T/a", "file://T/a/b/../c", "file://T/b"),
        ("~file:///run/(.*)=file://T/a/\\1", "file://T/a/c", "file://T/a/../b"),
        ("file:///run/x=file://T/one", "file://T/one", "file://T/one/../two"),
    ],
)
def test_the_boundary_is_the_target_of_the_rule(tmp_path: Path, rule: str, inside: str, outside: str) -> None:
    rules = parse_rules([rule.replace("T", str(tmp_path))])
    rules.check_inside("file:///run/x", inside.replace("T", str(tmp_path)))
    with pytest.raises(UsageError, match="outside the mapped target"):
        rules.check_inside("file:///run/x", outside.replace("T", str(tmp_path)))
