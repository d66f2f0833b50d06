"""Fixtures shared by several test folders: servers that run once per session on free ports."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import servers
from hypothesis import settings
from properties import QUICK

from tracekit.replayer.engines.jit import is_compiled

# CI runs the same examples every time, so that a push does not fail for an unrelated find.
settings.register_profile("ci", derandomize=True)
settings.register_profile(QUICK, max_examples=10, derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Some programs here may not write large files: half of a .pyc would stay. `make test` has compiled tracekit before.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

_AMBIENT = ("AWS_", "AZURE_")
_SERVERS = {"moto", "azurite", "fault_proxy"}
_names = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a server's fixture, directly or not, with `server`."""
    for item in items:
        if isinstance(item, pytest.Function) and _SERVERS.intersection(item.fixturenames):
            item.add_marker("server")


@pytest.fixture(scope="session", autouse=True)
def compiled_engine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile the replay engine once for this user, before a test expects silence on standard error."""
    if find_spec("numba") is None or is_compiled():
        return
    folder = tmp_path_factory.mktemp("compile")
    (folder / "data").write_bytes(b"a")
    (folder / "ops.csv").write_text(f"t_submit,uri,offset,len,latency\n0,file://{folder}/data,0,1,1\n")
    past_cache = ["--pace", "asap", "--page-cache-mode", "direct_io"]
    for command in (
        ["import", "csv", "ops.csv", "-o", "t"],
        ["replay", "t", "--engine", "compiled"],
        ["replay", "t", "--engine", "compiled", *past_cache],
    ):
        subprocess.run(
            [sys.executable, "-m", "tracekit", *command],
            cwd=folder,
            check=False,
            capture_output=True,
            timeout=300,
        )


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    """Run moto's S3 server. Use `s3_env` as well if the backend should find it by the environment."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    with servers.moto_server(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.AzuriteServer]:
    """Run Azurite's blob server. Skips with the reason if it is not installed."""
    log = tmp_path_factory.mktemp("azurite") / "log"
    try:
        with servers.azurite_server(log) as server:
            yield server
    except servers.Unavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture
def clean_env(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> pytest.MonkeyPatch:
    """Remove the credentials of the user who runs the tests from the environment."""
    import os

    for name in list(os.environ):
        if name.startswith(_AMBIENT):
            monkeypatch.delenv(name)
    nowhere = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(nowhere / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


@pytest.fixture
def s3_env(clean_env: pytest.MonkeyPatch, moto: servers.S3Server) -> servers.S3Server:
    """Point the environment at moto, as a user points it at AWS."""
    for name, value in moto.env.items():
        clean_env.setenv(name, value)
    return moto


@pytest.fixture
def az_env(clean_env: pytest.MonkeyPatch, azurite: servers.AzuriteServer) -> servers.AzuriteServer:
    """Point the environment at Azurite, as a user points it at Azure."""
    for name, value in azurite.env.items():
        clean_env.setenv(name, value)
    return azurite


@pytest.fixture
def s3_bucket(s3_env: servers.S3Server) -> str:
    """Make an empty bucket on moto, reached by the environment, and return its name."""
    name = f"bucket-{next(_names)}"
    s3_env.make_bucket(name)
    return name


@pytest.fixture
def az_container(az_env: servers.AzuriteServer) -> str:
    """Make an empty container on Azurite, reached by the environment, and return its name."""
    name = f"container-{next(_names)}"
    az_env.make_container(name)
    return name


@pytest.fixture(scope="session")
def many_objects(moto: servers.S3Server, azurite: servers.AzuriteServer) -> list[str]:
    """Make 2,500 objects in the container `many` of each server, and return their keys in order."""
    from tracekit.backends.registry import backend_for

    keys = [f"data/{index:05d}" for index in range(2500)]
    moto.make_bucket("many")
    azurite.make_container("many")
    with pytest.MonkeyPatch.context() as env:
        for name, value in {**moto.env, **azurite.env}.items():
            env.setenv(name, value)
        for backend in (backend_for("s3://"), backend_for("az://")):
            uris = [f"{backend.scheme}://many/{key}" for key in keys]
            with ThreadPoolExecutor(8) as pool:
                assert set(pool.map(backend.put, uris, itertools.repeat(b"1234"))) == {4}
    return keys


@pytest.fixture
def fault_proxy() -> Iterator[Callable[[str], servers.FaultProxy]]:
    """Return a function that puts a proxy with injected faults in front of an endpoint."""
    import contextlib

    with contextlib.ExitStack() as stack:
        yield lambda target: stack.enter_context(servers.fault_proxy(target))
