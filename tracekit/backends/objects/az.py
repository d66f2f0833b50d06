"""`az://container/key`: Azure Blob Storage. The account is never in the URI but in the environment.

Picks the client library and words what is Azure's own; everything else is `object_store`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracekit.backends.objects.azure_account import AzureSettings, resolve
from tracekit.backends.objects.client import ObjectClient
from tracekit.backends.objects.options import parse_options, require_choice
from tracekit.backends.objects.store import Dialect, ObjectStoreBackend

if TYPE_CHECKING:
    from obstore.store import AzureConfig, AzureStore

__all__ = ["CLIENTS", "AzOptions", "backend"]

CLIENTS = ("obstore", "azure-sdk")


@dataclass(frozen=True, slots=True)
class AzOptions:
    """Options of the `az` scheme; what is not given comes from the Azure tools' environment.

    `timeout_s` bounds the wait for the next byte. Secrets are no options: they would end
    in a trace's metadata.
    """

    client: str = "obstore"
    endpoint: str | None = None
    account: str | None = None
    anonymous: bool = False
    timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    retries: int = 4


def backend(**options: Any) -> ObjectStoreBackend:
    """The backend of `az://`. Raises UsageError for an option that cannot be meant."""
    chosen = parse_options(AzOptions, options, "az")
    require_choice("az", "client", chosen.client, CLIENTS)
    settings = resolve(chosen.endpoint, chosen.account, chosen.anonymous)
    dialect = Dialect(
        scheme="az",
        container="container",
        endpoint=settings.endpoint,
        credentials_hint="check AZURE_STORAGE_CONNECTION_STRING, or the key or SAS token in the environment",
        region_hint="check the account and its endpoint",
        bad_key_hint='client="azure-sdk" reads such keys, unless a part of one is . or ..: nothing does',
    )
    connect = _azure_sdk if chosen.client == "azure-sdk" else _obstore
    return ObjectStoreBackend(dialect, connect(settings, chosen), chosen.retries)


def _obstore(settings: AzureSettings, options: AzOptions) -> Callable[[str], ObjectClient]:
    from tracekit.backends.objects.obstore_client import ObstoreClient

    def connect(container: str) -> ObjectClient:
        credential = settings.obstore_credential()

        def make_store(timeout_s: float) -> AzureStore:
            return _store(settings, options, container, credential, timeout_s)

        return ObstoreClient(make_store, options.timeout_s)

    return connect


def _store(
    settings: AzureSettings, options: AzOptions, container: str, credential: Any, timeout_s: float
) -> AzureStore:
    from obstore.store import AzureStore

    from tracekit.backends.objects.obstore_client import NO_RETRIES, client_config

    # obstore reads AZURE_* itself: whatever we have resolved is said outright, so that it cannot differ.
    config: AzureConfig = {
        "account_name": settings.account,
        "endpoint": settings.endpoint,
        "skip_signature": settings.kind == "anonymous",
        "use_emulator": False,
    }
    return AzureStore(
        container,
        config=config,
        client_options=client_config(timeout_s, options.connect_timeout_s, settings.endpoint),
        retry_config=NO_RETRIES,
        credential_provider=credential,
    )


def _azure_sdk(settings: AzureSettings, options: AzOptions) -> Callable[[str], ObjectClient]:
    from tracekit.backends.objects.azure_sdk_client import AzureSdkClient

    return lambda container: AzureSdkClient(container, settings, options.timeout_s, options.connect_timeout_s)
