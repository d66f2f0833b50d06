"""The matrix of servers, clients and capabilities, and the table of faults, in docs/backends.md are measured here.

With TRACEKIT_WRITE_MATRIX=1 the tests write the tables in place of comparing them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import servers
from faults import BODY, EXPECTED, EXPECTED_OF, FAULTS, KEYS, Handler, Script, place, serving

from tracekit import BackendError, UsageError, backend_for
from tracekit.store_options import CLIENTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backends.md"
ODD = ("a//b", "/lead", "tab\there", "dot/../dot")
CAPABILITIES = (
    "stat",
    "range",
    "get",
    "list",
    "odd keys",
    "put",
    "create only",
    "missing key",
    "missing bucket",
)
S3_KEYS = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER", "AWS_REGION": "us-east-1"}
Place = tuple[str, dict[str, str], dict[str, Any]]


@contextlib.contextmanager
def moto(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    yield f"s3://{request.getfixturevalue('s3_bucket')}", {}, {}


@contextlib.contextmanager
def azurite(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    yield f"az://{request.getfixturevalue('az_container')}", {}, {}


@contextlib.contextmanager
def s3rver(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    with servers.s3rver(folder, folder.parent / "log") as server:
        yield "s3://bucket", S3_KEYS, {"endpoint": server.endpoint}


@contextlib.contextmanager
def rclone(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    (folder / "bucket").mkdir()
    with servers.rclone_s3(folder, folder.parent / "log") as server:
        yield "s3://bucket", S3_KEYS, {"endpoint": server.endpoint}


@contextlib.contextmanager
def fake_gcs(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    with servers.gcs_server(folder.parent / "log") as endpoint:
        made = json.dumps({"name": "bucket"}).encode()
        asked = urllib.request.Request(f"{endpoint}/storage/v1/b", made, {"Content-Type": "application/json"})
        urllib.request.urlopen(asked, timeout=20).close()
        yield "gs://bucket", {"STORAGE_EMULATOR_HOST": endpoint}, {}


@contextlib.contextmanager
def nginx(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    for name in ("k", "l"):
        (folder / name).write_bytes(BODY)
    with servers.nginx_bucket(folder, folder.parent / "nginx") as server:
        yield f"{server.endpoint}/bucket", {}, {}


SERVERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "moto": ("s3", moto),
    "s3rver": ("s3", s3rver),
    "rclone": ("s3", rclone),
    "Azurite": ("az", azurite),
    "fake-gcs-server": ("gs", fake_gcs),
    "nginx": ("http", nginx),
}
CASES = [(name, client) for name, (scheme, _) in SERVERS.items() for client in CLIENTS[scheme]]


def refused(call: Callable[[], object]) -> str:
    """The class of the refusal of `call`; "accepted" if there is none."""
    try:
        call()
    except BackendError as error:
        return f"`{error.error_class}`"
    except UsageError:
        return "`usage`"
    return "accepted"


def row(root: str, client: str, options: dict[str, Any]) -> dict[str, str]:
    """Try every capability of one server with one client."""
    cells: dict[str, str] = {}
    with contextlib.closing(backend_for(root, client=client, retries=0, timeout_s=5, **options)) as backend:
        cells["put"] = refused(lambda: backend.put(f"{root}/k", BODY, overwrite=True))
        backend_put = cells["put"] == "accepted"
        if backend_put:
            backend.put(f"{root}/l", BODY, overwrite=True)
        cells["range"] = range_of(backend, f"{root}/k")
        got = bytes(backend.open(f"{root}/k").get()[0])
        cells["stat"] = "yes" if backend.stat(f"{root}/k").size == len(BODY) else "WRONG"
        cells["get"] = "yes" if got == BODY else "WRONG"
        if root.startswith("http"):  # a web server has no listing
            assert [info.uri for info in backend.list(f"{root}/k")] == [f"{root}/k"]
            cells["list"] = "one URL"
        else:
            listed = [info.uri for info in backend.list(root)]
            cells["list"] = "yes" if listed == [f"{root}/k", f"{root}/l"] else "WRONG"
        cells["odd keys"] = odd_keys(backend, root) if backend_put else "-"
        cells["create only"] = create_only(backend, root) if backend_put else "-"
        cells["missing key"] = refused(lambda: backend.stat(f"{root}/none"))
        elsewhere = (
            root.replace("bucket", "no-such-bucket", 1) if "bucket" in root else "az://no-such-container"
        )
        cells["missing bucket"] = "-" if root.startswith("http") else missing(backend, elsewhere)
        cells["put"] = "yes" if backend_put else f"read only: {cells['put']}"
    return cells


def range_of(backend: Any, uri: str) -> str:
    """Read a range past the end of the object."""
    buffer = backend.allocate(100)
    try:
        moved = backend.open(uri).read_into(4000, buffer)
    except BackendError as error:
        return f"`{error.error_class}`"
    return "yes" if bytes(buffer[: moved.nbytes]) == BODY[4000:] else "WRONG"


def odd_keys(backend: Any, root: str) -> str:
    from tracekit.backends.objects.uri import escape

    taken = []
    for key in ODD:
        uri = f"{root}/{escape(key)}"
        try:
            backend.put(uri, key.encode(), overwrite=True)
        except BackendError:
            continue
        try:
            if bytes(backend.open(uri).get()[0]) == key.encode():
                taken.append(uri)
        except BackendError:
            continue
    listed = [info.uri for info in backend.list(root)]
    assert len(listed) == len(set(listed)), "a key is listed twice"
    good = sum(uri in listed for uri in taken)
    return f"{good} of {len(ODD)}"


def create_only(backend: Any, root: str) -> str:
    backend.put(f"{root}/once", b"first")
    told = refused(lambda: backend.put(f"{root}/once", b"second"))
    assert bytes(backend.open(f"{root}/once").get()[0]) == b"first"
    assert told == "`exists`"
    return "asks first" if backend.ignores_create_only(root) else "yes"


def missing(backend: Any, root: str) -> str:
    try:
        backend.stat(f"{root}/k")
    except BackendError as error:
        named = "no such bucket" in str(error) or "no such container" in str(error)
        return "named" if named else f"`{error.error_class}`"
    return "WRONG"


def held(marker: str, name: tuple[str, ...], cells: list[str]) -> None:
    """Compare a row of a table on the page with what was measured, or write it."""
    line = f"| {' | '.join([*name, *cells])} |"
    text = PAGE.read_text(encoding="utf-8")
    table = re.search(rf"<!-- {marker} -->\n(.*?)<!-- end of {marker} -->", text, re.DOTALL)
    assert table is not None
    start = f"| {' | '.join(name)} |"
    lines = table[1].splitlines()
    now = [old for old in lines if old.startswith(start)]
    if os.environ.get("TRACEKIT_WRITE_MATRIX") and now != [line]:
        kept = [old for old in lines if not old.startswith(start) and old]
        fresh = "\n".join([*kept, line]) + "\n\n"
        PAGE.write_text(text.replace(table[1], "\n" + fresh.lstrip("\n")), encoding="utf-8")
        return
    assert now == [line], "run this test with TRACEKIT_WRITE_MATRIX=1 if the change is right"


@pytest.mark.server
@pytest.mark.parametrize(("server", "client"), CASES)
def test_a_row_of_the_matrix_is_what_was_measured(
    request: pytest.FixtureRequest, clean_env: pytest.MonkeyPatch, tmp_path: Path, server: str, client: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    try:
        with SERVERS[server][1](request, folder) as (root, env, options):
            for name, value in env.items():
                clean_env.setenv(name, value)
            cells = row(root, client, options)
    except servers.Unavailable as missing_server:
        pytest.skip(str(missing_server))
    assert "WRONG" not in cells.values(), cells
    held("matrix", (server, client), [cells[name] for name in CAPABILITIES])


CLIENTS_OF_FAULTS = [
    f"{scheme} {client}" for scheme in ("s3", "az", "gs", "http") for client in CLIENTS[scheme]
]
LENGTH = 50
AT_ONCE = 4


@pytest.mark.server
@pytest.mark.parametrize("client", CLIENTS_OF_FAULTS)
def test_every_fault_has_the_class_tries_and_bytes_of_the_table(
    clean_env: pytest.MonkeyPatch, client: str
) -> None:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)
    with ThreadPoolExecutor(AT_ONCE) as pool:  # most of the time is spent in waiting for time-outs
        shares = [list(FAULTS)[first::AT_ONCE] for first in range(AT_ONCE)]
        found = dict(chain.from_iterable(pool.map(lambda share: faults_of(client, share), shares)))
    library = client.partition(" ")[2]
    wanted = {fault: EXPECTED_OF.get((library, fault), EXPECTED[fault]) for fault in FAULTS}
    assert {fault: found[fault][:2] for fault in FAULTS} == wanted
    assert {moved for outcome, _, moved, _ in found.values() if outcome != "ok"} == {0}
    measured = {fault: "{} {} · {} B · {:.1f} s".format(*found[fault]) for fault in FAULTS}
    held_column("faults", client, measured)


def faults_of(client: str, faults: list[str]) -> list[tuple[str, tuple[str, int, int, float]]]:
    """Of each fault: the outcome, how often the request was sent, the bytes moved, and the seconds that it took."""
    scheme, _, library = client.partition(" ")
    now: list[Script] = [Handler.ranged]
    found = []
    with serving(lambda handler: now[0](handler)) as (endpoint, seen):
        uri, options = place(endpoint, scheme)
        backend = backend_for(uri, client=library, retries=1, timeout_s=1, total_timeout_s=2, **options)
        with contextlib.closing(backend):
            for fault in faults:
                now[0] = FAULTS[fault]
                before, began = len(seen), time.monotonic()
                outcome, tries, moved = attempt(backend, uri)
                found.append((fault, (outcome, tries, moved, time.monotonic() - began)))
                assert len(seen) - before == tries, f"{fault}: something was sent that was not counted"
                now[0] = Handler.ranged
                assert attempt(backend, uri) == ("ok", 1, LENGTH), f"after {fault}"
    return found


def attempt(backend: Any, uri: str) -> tuple[str, int, int]:
    """Read a range: the error class or ok, how often the request was sent, and the bytes moved."""
    buffer = backend.allocate(LENGTH)
    try:
        moved = backend.open(uri).read_into(100, buffer)
    except BackendError as error:
        return str(error.error_class), error.tries or 0, 0
    assert bytes(buffer[: moved.nbytes]) == BODY[100 : 100 + moved.nbytes]
    return "ok", moved.tries or 0, moved.nbytes


def held_column(marker: str, name: str, cells: dict[str, str]) -> None:
    """Compare a column of a table on the page with what was measured, but for the time; or write it."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {marker} -->\n(.*?)<!-- end of {marker} -->", text, re.DOTALL)
    assert found is not None
    head, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in found[1].split("\n") if line
    ]
    table = {line[0]: dict(zip(head, line, strict=True)) for line in lines}
    if os.environ.get("TRACEKIT_WRITE_MATRIX"):
        rows = [
            [fault, *(cells[fault] if each == name else table.get(fault, {}).get(each, "?") for each in CLIENTS_OF_FAULTS)]
            for fault in cells
        ]  # fmt: skip
        lines = [["fault", *CLIENTS_OF_FAULTS], ["---"] * (len(CLIENTS_OF_FAULTS) + 1), *rows]
        fresh = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        PAGE.write_text(text.replace(found[1], f"\n{fresh}\n"), encoding="utf-8")
        return
    timeless = {fault: table.get(fault, {}).get(name, "").rpartition(" · ")[0] for fault in cells}
    assert timeless == {fault: cell.rpartition(" · ")[0] for fault, cell in cells.items()}, (
        "run this test with TRACEKIT_WRITE_MATRIX=1 if the change is right"
    )
