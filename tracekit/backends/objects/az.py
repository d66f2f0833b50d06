"""`az://container/key`: Azure Blob Storage. The account is given by the environment or an option.

Chooses the client library and the words of messages; everything else is done in `store`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tracekit.backends.objects.azure_account import AzureSettings, container_in, resolve
from tracekit.backends.objects.changing import ConnectChanges
from tracekit.backends.objects.client import ObjectClient
from tracekit.backends.objects.options import one_endpoint, untaken
from tracekit.backends.objects.retrying import Dialect
from tracekit.backends.objects.store import Connect, ObjectStoreBackend
from tracekit.store_options import backend_table
from tracekit.validation import assign

if TYPE_CHECKING:
    from obstore.store import AzureConfig, AzureStore

    from tracekit.backends.objects.native.client import NativeClient

_IDENTITIES = {
    "key": "the account's key",
    "sas": "a SAS token",
    "default": "the login of DefaultAzureCredential",
    "anonymous": "anonymous",
}

__all__ = ["AzOptions", "abfs_backend", "abfss_backend", "backend"]


@dataclass(frozen=True, slots=True, init=False)
class AzOptions:
    """The options of the `az` scheme; the environment of the Azure tools supplies those that are not given.

    Secrets are never options: options are kept in a trace's metadata. Raises UsageError for an unknown
    name or an invalid value.
    """

    client: str
    endpoint: str | None
    account: str | None
    anonymous: bool
    timeout_s: float
    retries: int
    connect_timeout_s: float
    total_timeout_s: float | None
    ca_bundle: str | None
    client_cert: str | None
    proxy: str | None
    pool_size: int
    http2: bool
    verify_checksums: bool

    def __init__(self, **options: Any) -> None:
        assign(self, backend_table("az"), options)


def backend(*, scheme: str = "az", **options: Any) -> ObjectStoreBackend:
    """The backend of `az://`, or of another spelling of it. Raises UsageError for an unknown option or an invalid value."""
    chosen = AzOptions(**options)
    settings = resolve(chosen.endpoint, chosen.account, chosen.anonymous)
    dialect = Dialect(
        scheme=scheme,
        container="container",
        endpoint=", ".join(settings.endpoints),
        credentials_hint="check AZURE_STORAGE_CONNECTION_STRING, or the key or SAS token in the environment",
        region_hint="check the account and its endpoint",
        facts=lambda: {"account": settings.account, "identity": _IDENTITIES[settings.kind]},
        bad_key_hint='client="azure-sdk" reads such keys, except those with . or .. between slashes',
    )
    if chosen.client != "native":
        untaken(chosen.client, http2=chosen.http2)
    connect = {"native": _native, "obstore": _obstore, "azure-sdk": _azure_sdk}[chosen.client]
    clients, changes = connect(settings, chosen), _changes(settings, chosen)
    return ObjectStoreBackend(
        dialect,
        lambda named, count: clients(container_in(named, settings), count),
        chosen.retries,
        lambda named, count: changes(container_in(named, settings), count),
    )


abfs_backend = partial(backend, scheme="abfs")
abfss_backend = partial(backend, scheme="abfss")


def _native(
    settings: AzureSettings, options: AzOptions
) -> Callable[[str, Callable[[str], None]], NativeClient]:
    from tracekit.backends.objects.native.az import AzService
    from tracekit.backends.objects.native.client import NativeClient
    from tracekit.backends.objects.native.endpoint import endpoints_of, limits_of

    def connect(container: str, count: Callable[[str], None]) -> NativeClient:
        service = AzService(
            container,
            settings.account,
            endpoints_of(settings.endpoints, options),
            key=settings.secret if settings.kind == "key" else "",
            sas=settings.secret if settings.kind == "sas" else "",
            token=settings.bearer() if settings.kind == "default" else None,
        )
        return NativeClient(service, limits_of(options), count, options.verify_checksums)

    return connect


def _obstore(settings: AzureSettings, options: AzOptions) -> Connect:
    from tracekit.backends.objects.obstore_client import ObstoreClient

    one_endpoint("obstore", settings.endpoints)
    native = _native(settings, options)

    def connect(container: str, count: Callable[[str], None]) -> ObjectClient:
        credential = settings.obstore_credential()

        def make_store(timeout_s: float, _: str | None) -> AzureStore:
            return _store(settings, options, container, credential, timeout_s)

        return ObstoreClient(make_store, options, native(container, count), count)

    return connect


def _store(
    settings: AzureSettings, options: AzOptions, container: str, credential: Any, timeout_s: float
) -> AzureStore:
    from obstore.store import AzureStore

    from tracekit.backends.objects.obstore_config import NO_RETRIES, client_config, endpoint_url

    # obstore reads AZURE_* itself: the resolved settings are given, so that the environment cannot change them.
    config: AzureConfig = {
        "account_name": settings.account,
        "endpoint": endpoint_url(settings.endpoint),
        "skip_signature": settings.kind == "anonymous",
        "use_emulator": False,
    }
    return AzureStore(
        container,
        config=config,
        client_options=client_config(options, settings.endpoint, options.ca_bundle, timeout_s),
        retry_config=NO_RETRIES,
        credential_provider=credential,
    )


def _azure_sdk(settings: AzureSettings, options: AzOptions) -> Connect:
    from tracekit.backends.objects.azure_sdk_client import AzureSdkClient

    one_endpoint("azure-sdk", settings.endpoints)
    return lambda container, count: AzureSdkClient(container, settings, options, count)


def _changes(settings: AzureSettings, options: AzOptions) -> ConnectChanges:
    from tracekit.backends.objects.az_changes import AzChanges

    native = _native(settings, options)
    return lambda container, count: AzChanges(
        native(container, count), settings, options.total_timeout_s, count
    )
