"""Endpoint, region and credentials of S3, resolved by botocore as the AWS SDKs do.

Profiles, SSO, web identity and instance roles work as in every AWS tool. Nothing here
is logged; secrets are passed to a client library only.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from tracekit.backends.objects.failures import CREDENTIALS_MARK, one_line
from tracekit.backends.objects.options import check_endpoints
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.redaction import redact

if TYPE_CHECKING:
    from obstore.store import S3Credential

__all__ = [
    "AwsSettings",
    "check_sendable",
    "credential_errors",
    "resolve",
    "shipped_data",
    "why_no_credentials",
]

_REFRESHED_AFTER = timedelta(minutes=15)
"""botocore renews credentials 10 minutes before they expire; obstore asks again 5 minutes before this."""


@dataclass(frozen=True, slots=True)
class AwsSettings:
    """What a client needs. No `endpoints` mean AWS itself; `session` is botocore's."""

    endpoints: tuple[str, ...]
    region: str
    virtual: bool
    anonymous: bool
    profile: str | None
    ca_bundle: str | None
    dualstack: bool
    fips: bool
    session: Any

    @property
    def endpoint(self) -> str | None:
        """The first endpoint; None for AWS itself."""
        return self.endpoints[0] if self.endpoints else None

    @property
    def shown_endpoint(self) -> str:
        """The endpoint as messages show it."""
        return ", ".join(self.endpoints) or f"AWS S3 in {self.region}"

    def is_virtual(self, bucket: str) -> bool:
        """Return whether to reach `bucket` by a virtual host.

        A bucket with a dot in its name is reached by path: no certificate covers its host name.
        """
        return self.virtual and "." not in bucket

    def style(self, bucket: str) -> tuple[bool, str | None]:
        """Return whether to reach `bucket` by a virtual host, and the endpoint (None: AWS's own)."""
        virtual = self.is_virtual(bucket)
        if self.endpoint is None or not virtual:
            return virtual, self.endpoint
        parts = urlsplit(self.endpoint)
        return True, f"{parts.scheme}://{bucket}.{parts.netloc}{parts.path}"

    def aws_endpoint(self, bucket: str | None, region: str) -> str:
        """Return AWS's own endpoint of the region, with `bucket` as its virtual host if one is given."""
        host = _aws_host(region, self.dualstack, self.fips)
        return f"https://{bucket}.{host}" if bucket else f"https://{host}"

    def identity(self) -> str:
        """Return who signs requests, as a person would recognize it: no secret."""
        if self.anonymous:
            return "anonymous"
        try:
            found = self.session.get_credentials()
            return (
                f"access key ending in {found.access_key[-4:]} ({found.method})"
                if found
                else "no credentials"
            )
        except credential_errors() as error:
            return f"no credentials: {why_no_credentials(error)}"

    def frozen(self) -> Callable[[], Any]:
        """Return what gives valid credentials whenever it is called; botocore renews them.

        Raises BackendError if there are none. What it returns raises RuntimeError if they cannot be renewed.
        """
        try:
            found = self.session.get_credentials()
        except credential_errors() as error:
            raise _no_credentials(why_no_credentials(error)) from None
        if found is None:
            raise _no_credentials("none in the environment, profile, SSO cache or instance")
        return lambda: _frozen(found)

    def credentials(self) -> Callable[[], S3Credential]:
        """Return obstore's credential provider. Raises BackendError if there are no credentials."""
        from botocore.credentials import RefreshableCredentials

        provider = self.frozen()
        expires = isinstance(self.session.get_credentials(), RefreshableCredentials)

        def provide() -> S3Credential:
            frozen = provider()
            return {
                "access_key_id": frozen.access_key,
                "secret_access_key": frozen.secret_key,
                "token": frozen.token,
                "expires_at": datetime.now(UTC) + _REFRESHED_AFTER if expires else None,
            }

        return provide


@functools.lru_cache
def shipped_data() -> Any:
    """Return botocore's loader of API models and endpoint rules, of those that it ships and no others.

    By itself it would also read AWS_DATA_PATH and ~/.aws/models, which can lead requests to other hosts.
    """
    from botocore.loaders import Loader

    return Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)


@functools.lru_cache
def _aws_host(region: str, dualstack: bool, fips: bool) -> str:
    """Return the host of S3 in a region, by the rules that botocore ships."""
    from botocore.endpoint_provider import EndpointProvider
    from botocore.exceptions import BotoCoreError

    loader = shipped_data()
    rules = loader.load_service_model("s3", "endpoint-rule-set-1")
    provider = EndpointProvider(rules, loader.load_data("partitions"))
    switches = ("Accelerate", "UseGlobalEndpoint", "DisableMultiRegionAccessPoints", "ForcePathStyle")
    try:
        found = provider.resolve_endpoint(
            Region=region, UseDualStack=dualstack, UseFIPS=fips, **dict.fromkeys(switches, False)
        )
    except BotoCoreError as error:
        raise UsageError(f"s3: no endpoint in {region}: {one_line(str(error))}", "give endpoint=") from None
    return str(urlsplit(found.url).netloc)


def _frozen(found: Any) -> Any:
    try:
        frozen = found.get_frozen_credentials()
        check_sendable(frozen.access_key, frozen.token)
    except credential_errors() as error:
        raise RuntimeError(f"{CREDENTIALS_MARK}{why_no_credentials(error)}") from None
    return frozen


def credential_errors() -> tuple[type[Exception], ...]:
    """Return what resolving credentials may raise: botocore passes some of its helpers' errors on."""
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError, OSError, ValueError


def why_no_credentials(error: Exception) -> str:
    """Return the reason in one line without secrets. Output of a credential process is not shown."""
    if isinstance(error, json.JSONDecodeError):
        return "the credential_process did not print JSON"
    return one_line(str(error))


def check_sendable(*values: str | None) -> None:
    """Raise ValueError if an access key or a token cannot be a header: client libraries crash on it."""
    if not all(value is None or (value.isascii() and value.isprintable()) for value in values):
        raise ValueError("the access key or the session token contains a line break or an invalid character")


def resolve(
    endpoint: str | None,
    region: str | None,
    profile: str | None,
    anonymous: bool,
    addressing_style: str,
    ca_bundle: str | None = None,
) -> AwsSettings:
    """Complete the options from the environment and the profile: the one place that decides for all clients."""
    import botocore.session
    from botocore.exceptions import BotoCoreError

    session = botocore.session.Session(profile=profile)
    session.register_component("data_loader", shipped_data())
    try:
        scoped = session.get_scoped_config()
        region = (
            region or os.environ.get("AWS_REGION") or session.get_config_variable("region") or "us-east-1"
        )
        ca_bundle = ca_bundle or session.get_config_variable("ca_bundle") or None
    except BotoCoreError as error:
        raise UsageError(redact(str(error)), "check aws_profile= and AWS_PROFILE") from None
    if re.fullmatch(r"[A-Za-z0-9-]+", region) is None:
        raise UsageError(f"s3: invalid region {region!r}", "use letters, digits and hyphens, as in us-east-1")
    endpoint = endpoint or _configured_endpoint(session, scoped)
    s3_section = scoped.get("s3")
    if addressing_style == "auto" and isinstance(s3_section, dict):
        addressing_style = s3_section.get("addressing_style", "auto")
    return AwsSettings(
        endpoints=check_endpoints("s3", endpoint),
        region=region,
        virtual=addressing_style == "virtual" or (addressing_style == "auto" and endpoint is None),
        anonymous=anonymous,
        profile=profile,
        ca_bundle=ca_bundle,
        dualstack=endpoint is None and session.get_config_variable("use_dualstack_endpoint") is True,
        fips=endpoint is None and session.get_config_variable("use_fips_endpoint") is True,
        session=session,
    )


def _configured_endpoint(session: Any, scoped: dict[str, Any]) -> str | None:
    """Return AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or the profile's services section or endpoint_url."""
    if str(session.get_config_variable("ignore_configured_endpoint_urls")).lower() == "true":
        return None
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if os.environ.get(name):
            return os.environ[name]
    services = session.full_config.get("services", {}).get(scoped.get("services"), {})
    s3_services = services.get("s3") if isinstance(services, dict) else None
    if isinstance(s3_services, dict) and s3_services.get("endpoint_url"):
        return cast(str, s3_services["endpoint_url"])
    return scoped.get("endpoint_url")


def _no_credentials(why: str) -> BackendError:
    return BackendError(
        f"no AWS credentials: {why}",
        "set AWS_PROFILE or AWS_ACCESS_KEY_ID, or give anonymous=True for a public bucket",
        ErrorClass.PERMISSION,
    )
