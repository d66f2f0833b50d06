"""How obstore is configured: by tracekit's settings alone, and to follow no redirect."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tracekit.backends.objects.native.endpoint import proxy_for, tls_context
from tracekit.backends.objects.options import Transport, untaken
from tracekit.errors import UsageError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

__all__ = [
    "NO_RETRIES",
    "check_version",
    "client_config",
    "documented_variables_only",
    "endpoint_url",
    "without_mark",
]

NO_RETRIES: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(seconds=0)}

_FOREIGN = frozenset(
    [
        "ALLOW_HTTP",
        "ALLOW_INVALID_CERTIFICATES",
        "BUCKET",
        "BUCKET_NAME",
        "CHECKSUM_ALGORITHM",
        "CONDITIONAL_PUT",
        "CONNECT_TIMEOUT",
        "CONTAINER_NAME",
        "COPY_IF_NOT_EXISTS",
        "DEFAULT_CONTENT_TYPE",
        "DEFAULT_HEADERS",
        "DISABLE_BULK_DELETE",
        "DISABLE_TAGGING",
        "ENCRYPTION_KEY",
        "ENDPOINT",
        "FABRIC_CLUSTER_IDENTIFIER",
        "FABRIC_SESSION_TOKEN",
        "FABRIC_TOKEN_SERVICE_URL",
        "FABRIC_WORKLOAD_HOST",
        "HTTP1_ONLY",
        "HTTP2_KEEP_ALIVE_INTERVAL",
        "HTTP2_KEEP_ALIVE_TIMEOUT",
        "HTTP2_KEEP_ALIVE_WHILE_IDLE",
        "HTTP2_MAX_FRAME_SIZE",
        "HTTP2_ONLY",
        "IMDSV1_FALLBACK",
        "METADATA_ENDPOINT",
        "POOL_IDLE_TIMEOUT",
        "POOL_MAX_IDLE_PER_HOST",
        "PROXY_CA_CERTIFICATE",
        "PROXY_EXCLUDES",
        "PROXY_URL",
        "RANDOMIZE_ADDRESSES",
        "READ_TIMEOUT",
        "REQUEST_PAYER",
        "REQUESTER_PAYS",
        "ROOT_CERTIFICATE",
        "S3_EXPRESS",
        "SERVER_SIDE_ENCRYPTION",
        "SKIP_SIGNATURE",
        "SSE_BUCKET_KEY_ENABLED",
        "SSE_CUSTOMER_KEY_BASE64",
        "SSE_KMS_KEY_ID",
        "TIMEOUT",
        "UNSIGNED_PAYLOAD",
        "USER_AGENT",
        "USE_AZURE_CLI",
        "USE_EMULATOR",
        "USE_FABRIC_ENDPOINT",
        "VIRTUAL_HOSTED_STYLE_REQUEST",
    ]
)
"""Variables, after AWS_, AZURE_ or GOOGLE_, that obstore reads and the vendors' own tools do not."""
_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_")
_environment_lock = threading.Lock()
_FOLLOWS_NONE = ("0.11", "0.12")
"""The versions that follow no redirect with the mark in the URL of the endpoint."""
_MARK = "%zz@"
"""A user name that obstore takes for one, though its percent-encoding is not valid."""


def endpoint_url(endpoint: str) -> str:
    """Return `endpoint` as obstore gets it, so that it follows no redirect: there is no option for that.

    obstore resolves a Location against the URL of the request, by a parser that refuses the user name in it. A
    redirect that cannot be resolved is given back as the answer. HTTP/1.1 sends no user name, and none is signed.
    """
    scheme, _, rest = endpoint.partition("://")
    return f"{scheme}://{_MARK}{rest}"


def check_version() -> None:
    """Raise UsageError for a version of obstore that is not known to be stopped by `endpoint_url`."""
    found = version("obstore")
    if ".".join(found.split(".")[:2]) not in _FOLLOWS_NONE:
        raise UsageError(
            f"obstore {found} is not known to leave redirects alone",
            "pip install 'obstore<0.13', or leave out client=",
        )


def without_mark(text: str) -> str:
    """Return an error's text with the URL as the user knows it."""
    return text.replace(_MARK, "")


def client_config(options: Transport, endpoint: str, ca_bundle: str | None, timeout_s: float) -> ClientConfig:
    """Return obstore's client options. `timeout_s` bounds the wait for the next byte, not the transfer.

    Every host but the endpoint's has a proxy that refuses connections, so that obstore looks for none in the
    environment, and could not reach another host.
    """
    untaken("obstore", client_cert=options.client_cert, verify_checksums=options.verify_checksums)
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if proxy_for(parts.scheme, host, options.proxy) is not None:
        untaken("obstore", proxy="a proxy")
    config: ClientConfig = {
        "timeout": timedelta(seconds=options.total_timeout_s or 86400),
        "read_timeout": timedelta(seconds=timeout_s),
        "connect_timeout": timedelta(seconds=options.connect_timeout_s),
        "pool_max_idle_per_host": str(options.pool_size),
        "user_agent": "tracekit",
        "http1_only": True,
        "proxy_url": f"http://127.0.0.1:{_guard_port()}",
        "proxy_excludes": host,
    }
    if parts.scheme == "http":
        config["allow_http"] = True
    elif ca_bundle is not None:
        tls_context(endpoint, ca_bundle, None)
        untaken("obstore", ca_bundle="a folder" if Path(ca_bundle).is_dir() else None)
        config["root_certificate"] = Path(ca_bundle).read_bytes()
    return config


_guard: list[socket.socket] = []


def _guard_port() -> int:
    """Return a port of this machine that refuses connections: it is bound, and nobody listens."""
    if not _guard:
        held = socket.socket()
        held.bind(("127.0.0.1", 0))
        _guard.append(held)
    return int(_guard[0].getsockname()[1])


@contextmanager
def documented_variables_only() -> Iterator[None]:
    """Hide the variables that only obstore reads: they are not part of the contract of `aws` and its like."""
    names = [
        name
        for name in os.environ
        if name.startswith(_PREFIXES) and name.partition("_")[2].removeprefix("STORAGE_") in _FOREIGN
    ]
    if not names:
        yield
        return
    with _environment_lock:
        hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(hidden)
