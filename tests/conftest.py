"""Servers that several folders' tests share: started once a session, on free ports, stopped after."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import servers
from hypothesis import settings

# On CI the same examples every time: a new find belongs to whoever runs the tests by hand.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

_AMBIENT = ("AWS_", "AZURE_")
_SERVERS = {"moto", "azurite", "fault_proxy"}
_names = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a server's fixture, directly or not, with `server`."""
    for item in items:
        if isinstance(item, pytest.Function) and _SERVERS.intersection(item.fixturenames):
            item.add_marker("server")


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    """moto's S3 server; use `s3_env` too if the backend is to find it by the environment."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    with servers.moto_server(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.AzuriteServer]:
    """Azurite's blob server; skips with the reason where it is not installed."""
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
    """No credentials of whoever runs the tests: nothing but what the test sets."""
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
    """The environment points at moto, as a user's would at AWS."""
    for name, value in moto.env.items():
        clean_env.setenv(name, value)
    return moto


@pytest.fixture
def az_env(clean_env: pytest.MonkeyPatch, azurite: servers.AzuriteServer) -> servers.AzuriteServer:
    """The environment points at Azurite, as a user's would at Azure."""
    for name, value in azurite.env.items():
        clean_env.setenv(name, value)
    return azurite


@pytest.fixture
def s3_bucket(s3_env: servers.S3Server) -> str:
    """A fresh, empty bucket on moto, reached by the environment: its name."""
    name = f"bucket-{next(_names)}"
    s3_env.make_bucket(name)
    return name


@pytest.fixture
def az_container(az_env: servers.AzuriteServer) -> str:
    """A fresh, empty container on Azurite, reached by the environment: its name."""
    name = f"container-{next(_names)}"
    az_env.make_container(name)
    return name


@pytest.fixture(scope="session")
def many_objects(moto: servers.S3Server, azurite: servers.AzuriteServer) -> list[str]:
    """2,500 objects in the container `many` of each server: their keys, in order."""
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
    """Stand a proxy that misbehaves to order before an endpoint."""
    import contextlib

    with contextlib.ExitStack() as stack:
        yield lambda target: stack.enter_context(servers.fault_proxy(target))
