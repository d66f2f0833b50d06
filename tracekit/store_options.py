"""The options of object stores, described once: what a client needs to know, whichever client it is.

`tracekit.options` gives them to loaders and replays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from tracekit.keywords import AddressingStyle, Client
from tracekit.validation import Kind, Option, Table, shown_default, table

__all__ = ["BACKEND", "CLIENTS", "SPELLINGS", "STORE", "backend_table", "given_store_options"]

CLIENTS: dict[str, tuple[str, ...]] = {
    "s3": ("native", "obstore", "aiobotocore"),
    "az": ("native", "obstore", "azure-sdk"),
    "gs": ("native",),
    "http": ("native",),
    "https": ("native",),
}
"""The client libraries of each scheme, the default first."""

SPELLINGS = {"gcs": "gs", "abfs": "az", "abfss": "az"}
"""Other spellings of a scheme, which have its options."""

_GROUP = "Object stores"
_ALL = tuple(CLIENTS)
_STORES = ("s3", "az", "gs")
_ENVIRONMENT = "from the environment"


def _duration(name: str, help_: str, default: float | None, unset: str = "") -> Option:
    return Option(name, Kind.DURATION, help_, default, unset=unset, unit="s", above=0, high=1e6, schemes=_ALL)


_OPTIONS = (
    Option(
        "client",
        Kind.CHOICE,
        "Client library: native (tracekit's own), obstore, aiobotocore (s3) or azure-sdk (az).",
        "native",
        choices=get_args(Client),
        schemes=_ALL,
    ),
    Option(
        "endpoint",
        Kind.TEXT,
        "Endpoint, as http://host:port or https://host; for Azurite followed by /account; several, separated "
        "by commas, are used in turn (native).",
        unset=_ENVIRONMENT,
        metavar="URL",
        schemes=_STORES,
    ),
    Option("region", Kind.TEXT, "Region of the bucket (s3).", unset=_ENVIRONMENT, schemes=("s3",)),
    Option("account", Kind.TEXT, "Storage account (az).", unset=_ENVIRONMENT, schemes=("az",)),
    Option("anonymous", Kind.FLAG, "Send unsigned requests.", False, schemes=_STORES),
    _duration("timeout_s", "Longest wait for the next byte, not for a whole transfer.", 30.0),
    Option("retries", Kind.COUNT, "How often a failed request is sent again.", 4, low=0, schemes=_ALL),
    _duration("connect_timeout_s", "Longest wait for a connection.", 5.0),
    _duration("total_timeout_s", "Longest time of one request, with its whole transfer.", None, "no limit"),
    Option(
        "aws_profile",
        Kind.TEXT,
        "Profile of the AWS configuration files (s3).",
        unset=_ENVIRONMENT,
        schemes=("s3",),
    ),
    Option(
        "addressing_style",
        Kind.CHOICE,
        "How a request names its bucket (s3); auto is virtual at AWS and path at a custom endpoint.",
        "auto",
        choices=get_args(AddressingStyle),
        schemes=("s3",),
    ),
    Option(
        "ca_bundle",
        Kind.TEXT,
        "File of PEM certificates that are trusted in place of the system's.",
        unset=_ENVIRONMENT,
        metavar="FILE",
        schemes=_ALL,
    ),
    Option(
        "client_cert",
        Kind.TEXT,
        "PEM file of a client certificate with its key, or CERTIFICATE,KEY.",
        unset="none",
        metavar="FILE",
        schemes=_ALL,
    ),
    Option(
        "proxy",
        Kind.TEXT,
        "HTTP proxy, as http://host:port; none ignores the environment's.",
        unset=_ENVIRONMENT,
        metavar="URL",
        schemes=_ALL,
    ),
    Option("requester_pays", Kind.FLAG, "Agree to pay for requests (s3).", False, schemes=("s3",)),
    Option(
        "version_id", Kind.TEXT, "Read this version of the object (s3).", unset="the latest", schemes=("s3",)
    ),
    Option(
        "pool_size", Kind.COUNT, "Idle connections kept for reuse, per endpoint.", 1024, low=0, schemes=_ALL
    ),
    Option(
        "http2",
        Kind.FLAG,
        "Let the store choose HTTP/2 (native, with TLS); the other clients speak HTTP/1.1.",
        False,
        schemes=_ALL,
    ),
    Option(
        "verify_checksums",
        Kind.FLAG,
        "Hold whole objects against the checksum that the store sends, if it sends one.",
        False,
        schemes=_ALL,
    ),
)

BACKEND: Table = table(_GROUP, *_OPTIONS)
"""What the backends of object stores take."""

STORE: Table = {
    name: replace(option, default=None, unset=shown_default(option)) for name, option in BACKEND.items()
}
"""What loaders and replays pass on to object stores; None leaves the choice to the backend."""


def backend_table(scheme: str) -> Table:
    """The options that the backend of `scheme` takes, with the client libraries that read it."""
    known = {name: option for name, option in BACKEND.items() if scheme in option.schemes}
    return {**known, "client": replace(known["client"], choices=CLIENTS[scheme], default=CLIENTS[scheme][0])}


def given_store_options(options: object) -> dict[str, Any]:
    """The options for object stores that are not None: what the backend is to be given."""
    values = {name: getattr(options, name) for name in STORE}
    return {name: value for name, value in values.items() if value is not None}
