"""Azure only: the account, credentials from the environment of the Azure tools, errors without secrets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import servers

from tracekit.backends.objects import az
from tracekit.backends.objects.azure_account import resolve
from tracekit.backends.objects.store import ObjectStoreBackend
from tracekit.backends.registry import backend_for
from tracekit.errors import BackendError, TracekitError, UsageError
from tracekit.store_options import CLIENTS

WITH_EACH_CLIENT = pytest.mark.parametrize("client", CLIENTS["az"])
WRONG_KEY = "d3Jvbmcta2V5LXdyb25nLWtleS13cm9uZy1rZXk="


def read(backend: ObjectStoreBackend, uri: str) -> bytes:
    return bytes(backend.open(uri).get()[0])


def sas_for(container: str, hours: float, may_list: bool = True) -> str:
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    return generate_container_sas(
        servers.AZURITE_ACCOUNT,
        container,
        account_key=servers.AZURITE_KEY,
        permission=ContainerSasPermissions(read=True, list=may_list),
        start=datetime.now(UTC) - timedelta(hours=5),
        expiry=datetime.now(UTC) + timedelta(hours=hours),
    )


@pytest.fixture
def filled(az_container: str) -> str:
    """A container with the object `k`."""
    az.backend().put(f"az://{az_container}/k", b"0123456789")
    return az_container


def test_the_account_is_resolved_in_the_order_of_the_azure_tools(clean_env: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no storage account"):
        resolve(None, None, False)
    clean_env.setenv("AZURE_STORAGE_ACCOUNT", "acc")
    found = resolve(None, None, False)
    assert (found.account, found.endpoint, found.kind) == (
        "acc",
        "https://acc.blob.core.windows.net",
        "default",
    )
    clean_env.setenv("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=abc")
    assert (resolve(None, None, False).kind, resolve(None, None, False).secret) == ("sas", "sv=1&sig=abc")
    clean_env.setenv("AZURE_STORAGE_KEY", "a2V5")
    assert resolve(None, None, False).kind == "key"
    assert resolve(None, None, True).kind == "anonymous"
    clean_env.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        "DefaultEndpointsProtocol=https;AccountName=other;AccountKey=b3RoZXI=;EndpointSuffix=core.example.net",
    )
    found = resolve(None, None, False)
    assert (found.account, found.endpoint) == ("other", "https://other.blob.core.example.net")
    assert found.secret == "b3RoZXI="
    assert resolve(None, "acc", False).endpoint == "https://acc.blob.core.windows.net"
    clean_env.setenv("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true")
    assert resolve(None, None, False).endpoint == "http://127.0.0.1:10000/devstoreaccount1"


def test_an_endpoint_names_its_account(clean_env: pytest.MonkeyPatch) -> None:
    assert resolve("https://acc.blob.core.windows.net/", None, True).account == "acc"
    assert resolve("http://127.0.0.1:10000/devstoreaccount1", None, True).account == "devstoreaccount1"
    with pytest.raises(UsageError, match="is not valid"):
        resolve("localhost", "acc", True)


def test_a_connection_string_is_read_in_any_case(
    az_container: str, clean_env: pytest.MonkeyPatch, azurite: servers.AzuriteServer
) -> None:
    names, values = zip(
        *(part.split("=", 1) for part in azurite.connection_string.strip(";").split(";")), strict=True
    )
    shouted = ";".join(f"{name.upper()}={value}" for name, value in zip(names, values, strict=True))
    clean_env.setenv("AZURE_STORAGE_CONNECTION_STRING", shouted)
    assert list(az.backend().list(f"az://{az_container}")) == []


def test_a_login_token_is_not_sent_over_plain_http(clean_env: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="without TLS"):
        resolve("http://127.0.0.1:1/acc", "acc", False)
    assert resolve("https://127.0.0.1:1/acc", "acc", False).kind == "default"
    assert resolve("http://127.0.0.1:1/acc", "acc", True).kind == "anonymous"


@WITH_EACH_CLIENT
def test_a_missing_object_is_not_found_where_listing_is_forbidden(
    filled: str, azurite: servers.AzuriteServer, clean_env: pytest.MonkeyPatch, client: str
) -> None:
    clean_env.delenv("AZURE_STORAGE_CONNECTION_STRING")
    clean_env.setenv("AZURE_STORAGE_SAS_TOKEN", sas_for(filled, hours=1, may_list=False))
    backend = az.backend(endpoint=azurite.endpoint, client=client)
    assert backend.stat(f"az://{filled}/k").size == 10
    with pytest.raises(BackendError) as raised:
        backend.stat(f"az://{filled}/none")
    assert raised.value.error_class == "not_found"
    for key in ("x/../k", "./k"):  # with a SAS token the SDK would read k, and nobody would notice
        with pytest.raises(BackendError) as raised:
            read(backend, f"az://{filled}/{key}")
        assert raised.value.error_class == "bad_key"
    backend.close()


def test_secrets_are_in_no_repr(clean_env: pytest.MonkeyPatch) -> None:
    clean_env.setenv("AZURE_STORAGE_ACCOUNT", "acc")
    clean_env.setenv("AZURE_STORAGE_KEY", WRONG_KEY)
    assert WRONG_KEY not in repr(resolve(None, None, False))


@WITH_EACH_CLIENT
def test_an_account_key_of_the_environment_opens_the_account(
    filled: str, azurite: servers.AzuriteServer, clean_env: pytest.MonkeyPatch, client: str
) -> None:
    clean_env.delenv("AZURE_STORAGE_CONNECTION_STRING")
    clean_env.setenv("AZURE_STORAGE_ACCOUNT", servers.AZURITE_ACCOUNT)
    clean_env.setenv("AZURE_STORAGE_KEY", servers.AZURITE_KEY)
    backend = az.backend(endpoint=azurite.endpoint, client=client)
    assert read(backend, f"az://{filled}/k") == b"0123456789"
    backend.close()


@WITH_EACH_CLIENT
def test_a_sas_token_reads_until_it_ends_and_is_never_shown(
    filled: str, azurite: servers.AzuriteServer, clean_env: pytest.MonkeyPatch, client: str
) -> None:
    clean_env.delenv("AZURE_STORAGE_CONNECTION_STRING")
    clean_env.setenv("AZURE_STORAGE_SAS_TOKEN", sas_for(filled, hours=1))
    backend = az.backend(endpoint=azurite.endpoint, client=client)
    assert read(backend, f"az://{filled}/k") == b"0123456789"
    assert len(list(backend.list(f"az://{filled}"))) == 1
    backend.close()

    ended = sas_for(filled, hours=-1)
    signature = ended.partition("sig=")[2].partition("&")[0]
    clean_env.setenv("AZURE_STORAGE_SAS_TOKEN", ended)
    backend = az.backend(endpoint=azurite.endpoint, client=client)
    for call in (
        lambda: backend.preflight(f"az://{filled}/k"),
        lambda: list(backend.list(f"az://{filled}")),
        lambda: read(backend, f"az://{filled}/k"),
        lambda: backend.put(f"az://{filled}/new", b"x"),
    ):
        with pytest.raises(BackendError, match="access denied") as raised:
            call()
        assert raised.value.error_class == "permission"
        assert signature not in str(raised.value) and "sig=" not in str(raised.value)
        assert "\n" not in str(raised.value)
    backend.close()


@WITH_EACH_CLIENT
def test_a_wrong_key_is_one_line_without_the_key(
    filled: str, azurite: servers.AzuriteServer, clean_env: pytest.MonkeyPatch, client: str
) -> None:
    wrong = azurite.connection_string.replace(servers.AZURITE_KEY, WRONG_KEY)
    clean_env.setenv("AZURE_STORAGE_CONNECTION_STRING", wrong)
    backend = az.backend(client=client)
    for call in (
        lambda: backend.preflight(f"az://{filled}"),
        lambda: backend.stat(f"az://{filled}/k"),
        lambda: read(backend, f"az://{filled}/k"),
    ):
        with pytest.raises(BackendError, match="access denied") as raised:
            call()
        assert raised.value.error_class == "permission"
        assert "\n" not in str(raised.value) and "AZURE_STORAGE" in str(raised.value)
        assert WRONG_KEY not in str(raised.value)
    backend.close()


@WITH_EACH_CLIENT
def test_anonymous_reads_a_public_container(
    az_env: servers.AzuriteServer, clean_env: pytest.MonkeyPatch, client: str
) -> None:
    name = f"public-{client}"
    az_env.make_container(name, public_access="container")
    az.backend().put(f"az://{name}/k", b"open to all")
    clean_env.delenv("AZURE_STORAGE_CONNECTION_STRING")
    backend = az.backend(endpoint=az_env.endpoint, anonymous=True, client=client)
    assert read(backend, f"az://{name}/k") == b"open to all"
    assert [info.uri for info in backend.list(f"az://{name}")] == [f"az://{name}/k"]
    backend.close()


@WITH_EACH_CLIENT
def test_a_default_credential_without_a_login_is_reported_in_one_line(
    clean_env: pytest.MonkeyPatch, client: str
) -> None:
    clean_env.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")  # ask no network
    backend = az.backend(account="acc", client=client, endpoint="https://127.0.0.1:1/acc", retries=0)
    with pytest.raises(BackendError) as raised:
        read(backend, "az://c/k")
    assert raised.value.error_class == "permission"
    assert "\n" not in str(raised.value)
    backend.close()


def test_sas_urls_leave_no_signature_in_any_error(az_env: servers.AzuriteServer) -> None:
    sas = "sv=2024-01-01&se=2099-01-01&sr=c&sp=r&sig=5e9f7d0c1b2a%3D"
    for uri in (f"az://c/k?{sas}", f"https://acc.blob.core.windows.net/c/k?{sas}"):
        with pytest.raises(TracekitError) as raised:
            backend_for(uri).stat(uri)
        assert "5e9f7d0c1b2a" not in str(raised.value) and "sig=" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": "x"}, "unknown option 'region'"),
        ({"client": "aiobotocore"}, "client='aiobotocore' is not valid"),
    ],
)
def test_invalid_azure_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        az.backend(**options)
