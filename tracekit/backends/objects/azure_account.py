"""The Azure storage account and its credential, from the environment of the Azure tools.

Order: `AZURE_STORAGE_CONNECTION_STRING`, an account key, a SAS token, then
`DefaultAzureCredential` (environment, workload or managed identity, az login). Nothing
here is logged; secrets stay out of reprs and are passed to a client library only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

from tracekit.backends.objects.failures import CREDENTIALS_MARK
from tracekit.backends.objects.options import check_endpoints
from tracekit.errors import UsageError
from tracekit.redaction import redact

if TYPE_CHECKING:
    from obstore.store import AzureCredential

__all__ = ["AzureSettings", "container_in", "resolve"]

_SCOPE = "https://storage.azure.com/.default"
_RENEWED_BEFORE = timedelta(minutes=5)
_EMULATOR = (
    "AccountName=devstoreaccount1;BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;AccountKey="
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
"""The meaning of `UseDevelopmentStorage=true`, as published in Azurite's documentation."""
_CONNECTION_NAMES = (
    *("AccountName", "AccountKey", "SharedAccessSignature"),
    *("BlobEndpoint", "DefaultEndpointsProtocol", "EndpointSuffix"),
)
"""The fields of a connection string that are used; their case does not matter."""
_ACCOUNT_NAMES = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
_KEY_NAMES = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY")
_SAS_NAMES = ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")


@dataclass(frozen=True, slots=True)
class AzureSettings:
    """An account, its blob endpoint, and its credential."""

    account: str
    endpoints: tuple[str, ...]
    kind: Literal["key", "sas", "default", "anonymous"]
    secret: str = field(default="", repr=False)

    @property
    def endpoint(self) -> str:
        """The first endpoint."""
        return self.endpoints[0]

    def bearer(self) -> Callable[[], str]:
        """Return what gives a valid login token whenever it is called."""
        provide = _default_token()
        held: list[AzureCredential] = []

        def token() -> str:
            expires_at = held[0]["expires_at"] if held else None
            if expires_at is None or expires_at < datetime.now(UTC) + _RENEWED_BEFORE:
                held[:] = [provide()]
            return str(cast(dict[str, Any], held[0])["token"])

        return token

    def obstore_credential(self) -> Callable[[], AzureCredential] | None:
        """Return obstore's credential provider; None for anonymous access."""
        if self.kind == "key":
            return lambda: {"access_key": self.secret, "expires_at": None}
        if self.kind == "sas":
            return lambda: {"sas_token": self.secret, "expires_at": None}
        return _default_token() if self.kind == "default" else None

    def sdk_credential(self, aio: bool) -> Any:
        """Return the `credential` argument of the Azure SDK."""
        if self.kind == "key":
            return {"account_name": self.account, "account_key": self.secret}
        if self.kind == "sas":
            from azure.core.credentials import AzureSasCredential

            return AzureSasCredential(self.secret)
        return _default_credential(aio) if self.kind == "default" else None


def resolve(endpoint: str | None, account: str | None, anonymous: bool) -> AzureSettings:
    """Complete the options from the environment. Raises UsageError if there is no account."""
    named = _connection_string()
    if account is not None and named.get("AccountName") not in (None, account):
        named = {}
    account = account or named.get("AccountName") or _env(_ACCOUNT_NAMES)
    endpoint = endpoint or named.get("BlobEndpoint") or _env(("AZURE_STORAGE_BLOB_ENDPOINT",))
    endpoints = check_endpoints("az", endpoint)
    account = account or _account_in(endpoints[0] if endpoints else None)
    if not account:
        raise UsageError(
            "az: no storage account",
            "set AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCOUNT, or account=",
        )
    if not endpoints:
        protocol = named.get("DefaultEndpointsProtocol", "https")
        endpoints = (f"{protocol}://{account}.blob.{named.get('EndpointSuffix', 'core.windows.net')}",)
    if anonymous:
        return AzureSettings(account, endpoints, "anonymous")
    key, sas = named.get("AccountKey"), named.get("SharedAccessSignature")
    if not key and not sas:
        key, sas = _env(_KEY_NAMES), _env(_SAS_NAMES)
    if key:
        return AzureSettings(account, endpoints, "key", key)
    if sas:
        return AzureSettings(account, endpoints, "sas", sas.lstrip("?"))
    if any(one.startswith("http://") for one in endpoints):
        raise UsageError(
            f"az: no key or SAS token is set, and a login token is not sent to {', '.join(endpoints)} without TLS",
            "set AZURE_STORAGE_CONNECTION_STRING, an https:// endpoint, or anonymous=True",
        )
    return AzureSettings(account, endpoints, "default")


def container_in(named: str, settings: AzureSettings) -> str:
    """Return the container of `container` or `container@account.dfs.core.windows.net`.

    Raises UsageError if the account, or its host, is not that of `settings`.
    """
    container, at, host = named.partition("@")
    account, _, domain = host.partition(".")
    if at and account != settings.account:
        raise UsageError(
            f"{named}: the account in use is {settings.account}",
            "read one account at a time, or map the URIs",
        )
    own = urlsplit(settings.endpoint).hostname or ""
    wanted = f"{account}.blob.{domain.partition('.')[2]}"
    if at and own.startswith(f"{account}.blob.") and own != wanted:
        raise UsageError(
            f"{named}: the endpoint in use is {settings.endpoint}", f"give endpoint=https://{wanted}"
        )
    return container


def _connection_string() -> dict[str, str]:
    text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    if "usedevelopmentstorage=true" in text.lower():
        text = _EMULATOR
    pairs = (part.partition("=") for part in text.split(";") if part.strip())
    given = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return {name: given[name.lower()] for name in _CONNECTION_NAMES if name.lower() in given}


def _env(names: tuple[str, ...]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _account_in(endpoint: str | None) -> str | None:
    """Return the account in an endpoint: the first label of its host, or the path on a bare host."""
    if not endpoint:
        return None
    parts = urlsplit(endpoint)
    first = parts.path.strip("/").partition("/")[0]
    return first or ((parts.hostname or "").partition(".")[0] if ".blob." in parts.netloc else None)


def _default_token() -> Callable[[], AzureCredential]:
    credential = _default_credential(aio=False)

    def provide() -> AzureCredential:
        from azure.core.exceptions import AzureError

        try:
            token = credential.get_token(_SCOPE)
        except (AzureError, ValueError) as error:
            raise RuntimeError(f"{CREDENTIALS_MARK}{redact(str(error))}") from None
        return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}

    return provide


def _default_credential(aio: bool) -> Any:
    try:
        if aio:
            from azure.identity.aio import DefaultAzureCredential as AsyncCredential

            return AsyncCredential()
        from azure.identity import DefaultAzureCredential

        return DefaultAzureCredential()
    except ImportError:
        raise UsageError(
            "az: no key or SAS token is set, and azure-identity is not installed",
            "set AZURE_STORAGE_CONNECTION_STRING, or pip install 'tracekit[clients]'",
        ) from None
