"""`gs://bucket/key`: Google Cloud Storage, with application default credentials.

Chooses the client library and the words of messages; everything else is done in `store`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tracekit.backends.objects.changing import ConnectChanges
from tracekit.backends.objects.failures import CREDENTIALS_MARK
from tracekit.backends.objects.options import check_endpoints
from tracekit.backends.objects.retrying import Dialect
from tracekit.backends.objects.store import ObjectStoreBackend
from tracekit.errors import UsageError
from tracekit.redaction import redact
from tracekit.store_options import backend_table
from tracekit.validation import assign

if TYPE_CHECKING:
    from tracekit.backends.objects.native.client import NativeClient

__all__ = ["GsOptions", "backend", "gcs_backend"]

_GOOGLE = "https://storage.googleapis.com"
_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)


@dataclass(frozen=True, slots=True, init=False)
class GsOptions:
    """The options of the `gs` scheme. Raises UsageError for an unknown name or an invalid value."""

    client: str
    endpoint: str | None
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
        assign(self, backend_table("gs"), options)


def backend(*, scheme: str = "gs", **options: Any) -> ObjectStoreBackend:
    """The backend of `gs://`, or of another spelling of it. Raises UsageError for an unknown option or an invalid value."""
    chosen = GsOptions(**options)
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    named = chosen.endpoint or (emulator if not emulator or "://" in emulator else f"http://{emulator}")
    endpoints = check_endpoints("gs", named or _GOOGLE)
    anonymous = chosen.anonymous or (chosen.endpoint is None and bool(emulator))
    if not anonymous and any(one.startswith("http://") for one in endpoints):
        raise UsageError(
            f"gs: a login token is not sent to {', '.join(endpoints)} without TLS",
            "give anonymous=True, or an https:// endpoint",
        )
    dialect = Dialect(
        scheme=scheme,
        container="bucket",
        endpoint=", ".join(endpoints),
        credentials_hint="run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS",
        region_hint="check the endpoint",
        bad_key_hint="",
        facts=lambda: {"identity": "anonymous" if anonymous else "application default credentials"},
        trusted=named is None,
    )
    connect = _native(endpoints, anonymous, chosen)
    return ObjectStoreBackend(dialect, connect, chosen.retries, _changes(connect, endpoints, chosen))


gcs_backend = partial(backend, scheme="gcs")


def _native(
    endpoints: tuple[str, ...], anonymous: bool, options: GsOptions
) -> Callable[[str, Callable[[str], None]], NativeClient]:
    from tracekit.backends.objects.native.client import NativeClient
    from tracekit.backends.objects.native.endpoint import endpoints_of, limits_of
    from tracekit.backends.objects.native.gs import GsService

    token = None if anonymous else _tokens()

    def connect(bucket: str, count: Callable[[str], None]) -> NativeClient:
        service = GsService(bucket, endpoints_of(endpoints, options), token)
        return NativeClient(service, limits_of(options), count, options.verify_checksums)

    return connect


def _changes(
    connect: Callable[[str, Callable[[str], None]], NativeClient],
    endpoints: tuple[str, ...],
    options: GsOptions,
) -> ConnectChanges:
    from tracekit.backends.objects.gs_changes import gs_changes

    hosts = [urlsplit(each).hostname or "" for each in endpoints]
    emulated = not all(host.endswith(".googleapis.com") for host in hosts)
    return lambda bucket, count: gs_changes(
        connect(bucket, count), count, emulated=emulated, total_timeout_s=options.total_timeout_s
    )


def _tokens() -> Callable[[], str]:
    """Return what gives a valid login token whenever it is called, from application default credentials."""
    import google.auth
    import google.auth.exceptions
    import google.auth.transport.requests

    failures = (google.auth.exceptions.GoogleAuthError, OSError, ValueError)
    held: list[Any] = []

    def token() -> str:
        try:
            if not held:
                held.append(google.auth.default(scopes=_SCOPES)[0])
            if not held[0].valid:
                held[0].refresh(google.auth.transport.requests.Request())
        except failures as error:
            raise RuntimeError(f"{CREDENTIALS_MARK}{redact(str(error))}") from None
        return str(held[0].token)

    return token
