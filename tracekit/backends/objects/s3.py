"""`s3://bucket/key`: Amazon S3 and compatible stores.

Chooses the client library and the words of messages; everything else is done in `store`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracekit.backends.objects.aws import AwsSettings, resolve
from tracekit.backends.objects.changing import ConnectChanges
from tracekit.backends.objects.client import ObjectClient
from tracekit.backends.objects.options import one_endpoint, untaken
from tracekit.backends.objects.retrying import Dialect
from tracekit.backends.objects.store import Connect, ObjectStoreBackend
from tracekit.store_options import backend_table
from tracekit.validation import assign

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Store

    from tracekit.backends.objects.native.client import NativeClient

__all__ = ["S3Options", "backend"]


@dataclass(frozen=True, slots=True, init=False)
class S3Options:
    """The options of the `s3` scheme; AWS's own chain supplies those that are not given.

    Secrets are never options: options are kept in a trace's metadata. Raises UsageError for an unknown
    name or an invalid value.
    """

    client: str
    endpoint: str | None
    region: str | None
    anonymous: bool
    timeout_s: float
    retries: int
    connect_timeout_s: float
    total_timeout_s: float | None
    aws_profile: str | None
    addressing_style: str
    ca_bundle: str | None
    client_cert: str | None
    proxy: str | None
    requester_pays: bool
    version_id: str | None
    pool_size: int
    http2: bool
    verify_checksums: bool

    def __init__(self, **options: Any) -> None:
        assign(self, backend_table("s3"), options)


def backend(**options: Any) -> ObjectStoreBackend:
    """The backend of `s3://`. Raises UsageError for an unknown option or an invalid value."""
    chosen = S3Options(**options)
    settings = resolve(
        chosen.endpoint,
        chosen.region,
        chosen.aws_profile,
        chosen.anonymous,
        chosen.addressing_style,
        chosen.ca_bundle,
    )
    dialect = Dialect(
        scheme="s3",
        container="bucket",
        endpoint=settings.shown_endpoint,
        credentials_hint="check AWS_PROFILE or the keys in the environment; anonymous=True if public",
        region_hint="give the bucket's own region=, or its endpoint=",
        facts=lambda: {"region": settings.region, "identity": settings.identity()},
        trusted=settings.endpoint is None,
        bad_key_hint='client="aiobotocore" reads such keys',
    )
    if chosen.client != "native":
        untaken(chosen.client, http2=chosen.http2)
    connect = {"native": _native, "obstore": _obstore, "aiobotocore": _aiobotocore}[chosen.client]
    return ObjectStoreBackend(dialect, connect(settings, chosen), chosen.retries, _changes(settings, chosen))


def _native(
    settings: AwsSettings, options: S3Options
) -> Callable[[str, Callable[[str], None]], NativeClient]:
    from tracekit.backends.objects.native.client import NativeClient
    from tracekit.backends.objects.native.endpoint import Endpoint, endpoint_of, limits_of
    from tracekit.backends.objects.native.s3 import S3Service, Signer

    def connect(bucket: str, count: Callable[[str], None]) -> NativeClient:
        virtual = settings.is_virtual(bucket)

        def locate(region: str) -> list[Endpoint]:
            urls = settings.endpoints or (settings.aws_endpoint(None, region),)
            return [
                endpoint_of(url, options, ca_bundle=settings.ca_bundle, bucket=bucket if virtual else "")
                for url in urls
            ]

        service = S3Service(
            bucket,
            settings.region,
            virtual,
            None if settings.anonymous else Signer(settings.frozen()),
            locate,
            requester_pays=options.requester_pays,
            version_id=options.version_id,
            checksums=options.verify_checksums,
        )
        return NativeClient(service, limits_of(options), count, options.verify_checksums)

    return connect


def _obstore(settings: AwsSettings, options: S3Options) -> Connect:
    from tracekit.backends.objects.obstore_client import ObstoreClient

    one_endpoint("obstore", settings.endpoints)
    untaken("obstore", version_id=options.version_id)
    native = _native(settings, options)

    def connect(bucket: str, count: Callable[[str], None]) -> ObjectClient:
        credentials = None if settings.anonymous else settings.credentials()

        def make_store(timeout_s: float, region: str | None) -> S3Store:
            return _store(settings, options, bucket, credentials, timeout_s, region or settings.region)

        return ObstoreClient(make_store, options, native(bucket, count), count)

    return connect


def _store(
    settings: AwsSettings, options: S3Options, bucket: str, credentials: Any, timeout_s: float, region: str
) -> S3Store:
    from obstore.store import S3Store

    from tracekit.backends.objects.obstore_config import NO_RETRIES, client_config, endpoint_url

    virtual, endpoint = settings.style(bucket)
    # obstore reads AWS_* itself, also names that no AWS tool knows: every setting that decides where
    # a request goes and how it is signed is given here, so that the environment cannot change it.
    endpoint = endpoint or settings.aws_endpoint(bucket if virtual else None, region)
    config: S3Config = {
        "region": region,
        "skip_signature": settings.anonymous,
        "virtual_hosted_style_request": virtual,
        "s3_express": False,
        "unsigned_payload": False,
        "request_payer": options.requester_pays,
        "endpoint": endpoint_url(endpoint),
        "aws_endpoint_url_s3": endpoint_url(endpoint),
    }
    return S3Store(
        bucket,
        config=config,
        client_options=client_config(options, endpoint, settings.ca_bundle, timeout_s),
        retry_config=NO_RETRIES,
        credential_provider=credentials,
    )


def _aiobotocore(settings: AwsSettings, options: S3Options) -> Connect:
    from tracekit.backends.objects.aiobotocore_client import AiobotocoreClient

    one_endpoint("aiobotocore", settings.endpoints)
    return lambda bucket, count: AiobotocoreClient(bucket, settings, options, count)


def _changes(settings: AwsSettings, options: S3Options) -> ConnectChanges:
    from tracekit.backends.objects.s3_changes import S3Changes

    native = _native(settings, options)
    return lambda bucket, count: S3Changes(native(bucket, count))
