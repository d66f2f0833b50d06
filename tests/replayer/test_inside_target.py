"""Writes of replay and materialize stay inside the mapped target."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracekit.backends.local import beneath
from tracekit.backends.local.backend import LocalBackend
from tracekit.backends.local.beneath import Fence
from tracekit.errors import BackendError, ErrorClass, UsageError
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


def _upload(backend: LocalBackend, uri: str) -> None:
    upload = backend.changer.upload(uri)
    upload.part(1, 0, memoryview(bytearray(b"new")))
    upload.complete()


def _write(backend: LocalBackend, uri: str) -> None:
    with _closing(backend, uri) as file:
        file.write(0, memoryview(bytearray(b"new")))


@contextmanager
def _closing(backend: LocalBackend, uri: str) -> Iterator[Any]:
    file = backend.changer.open_for_writing(uri)
    try:
        yield file
    finally:
        file.close()


CHANGES: dict[str, Callable[[LocalBackend, str], object]] = {
    "put": lambda backend, uri: backend.put(uri, b"new", overwrite=True),
    "write": _write,
    "upload": _upload,
    "delete": lambda backend, uri: backend.changer.delete(uri),
    "rename from": lambda backend, uri: backend.changer.rename(
        uri, uri.partition("/target/")[0] + "/target/mine"
    ),
    "rename to": lambda backend, uri: backend.changer.rename(
        uri.partition("/target/")[0] + "/target/mine", uri
    ),
    "copy to": lambda backend, uri: backend.changer.copy(uri.partition("/target/")[0] + "/target/mine", uri),
}


@pytest.fixture(params=["openat2", "walk"])
def fenced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[LocalBackend]:
    if request.param == "walk":
        monkeypatch.setattr(beneath, "_OPENAT2", 100_000)  # a call that no kernel knows
    for folder in ("target/inner", "private"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "private" / "ledger").write_text("precious")
    (tmp_path / "target" / "mine").write_text("mine")
    (tmp_path / "target" / "relative").symlink_to("../private")
    (tmp_path / "target" / "absolute").symlink_to(tmp_path / "private")
    (tmp_path / "target" / "file").symlink_to("../private/ledger")
    (tmp_path / "target" / "dangling").symlink_to("../private/new")
    (tmp_path / "target" / "twice").symlink_to("relative")
    (tmp_path / "target" / "magic").symlink_to(f"/proc/{os.getpid()}/cwd")
    backend, fence = LocalBackend(), Fence([str(tmp_path / "target")])
    backend.enclose(fence)
    yield backend
    fence.close()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "name",
    ["../private/ledger", "inner/../../private/ledger", "relative/ledger", "absolute/ledger", "twice/ledger",
     "relative/deeper/new", "../private/new", "../target/../private/ledger"],
)  # fmt: skip
def test_no_change_passes_the_fence(
    fenced: LocalBackend,
    tmp_path: Path,
    name: str,
    change: str,
) -> None:
    """As if the link had been swapped in after every check."""
    with pytest.raises(BackendError) as raised:
        CHANGES[change](fenced, f"file://{tmp_path}/target/{name}")
    assert raised.value.error_class == ErrorClass.PERMISSION
    assert [entry.name for entry in (tmp_path / "private").iterdir()] == ["ledger"]
    assert (tmp_path / "private" / "ledger").read_text() == "precious"
    assert (tmp_path / "target" / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["file", "dangling", "magic"])
@pytest.mark.parametrize("change", ["write", "copy to"])
def test_a_link_as_the_last_part_of_a_name_is_not_written_through(
    fenced: LocalBackend,
    tmp_path: Path,
    name: str,
    change: str,
) -> None:
    with pytest.raises(BackendError):
        CHANGES[change](fenced, f"file://{tmp_path}/target/{name}")
    assert [entry.name for entry in (tmp_path / "private").iterdir()] == ["ledger"]
    assert (tmp_path / "private" / "ledger").read_text() == "precious"


@pytest.mark.parametrize("change", ["put", "write", "upload", "rename to", "copy to"])
@pytest.mark.parametrize("name", ["new", "inner/new", "a/b/c/new", "inner/../new", "inside/new", "round/new"])
def test_links_and_dots_inside_the_fence_are_followed(
    fenced: LocalBackend,
    tmp_path: Path,
    name: str,
    change: str,
) -> None:
    (tmp_path / "target" / "inside").symlink_to("inner")
    (tmp_path / "target" / "round").symlink_to(tmp_path / "target" / "inner")
    CHANGES[change](fenced, f"file://{tmp_path}/target/{name}")
    wanted = "mine" if "to" in change else "new"
    assert (tmp_path / "target" / name).read_text() == wanted
    assert list((tmp_path / "target").rglob(".*.part")) == []


def test_the_target_of_a_rule_for_one_file_is_that_file(tmp_path: Path) -> None:
    backend, fence = LocalBackend(), Fence([str(tmp_path / "one")])
    backend.enclose(fence)
    for change in ("put", "write", "upload"):
        CHANGES[change](backend, f"file://{tmp_path}/one")
    assert (tmp_path / "one").read_text() == "new"
    with pytest.raises(BackendError, match="Operation not permitted"):
        backend.put(f"file://{tmp_path}/two", b"new")
    fence.close()


@pytest.mark.parametrize("target", ["file://", "direct://"])
def test_a_rule_to_a_scheme_alone_maps_to_its_root(tmp_path: Path, target: str) -> None:
    (tmp_path / "a").write_bytes(bytes(8192))
    table = pa.table(
        {
            "t_submit": [0], "uri": [f"file://{tmp_path}/a"], "offset": [0], "len": [4096], "latency": [1],
            "sample_id": [0],
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    result = replay(tmp_path / "t.parquet", map=f"file://={target}", pace="asap")
    assert result.failed_ops == 0 and result.ops == 1
