"""Every option of the object stores, described once, as `options` does for the loader and the replayer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from tracekit.keywords import AddressingStyle, Client
from tracekit.validation import Kind, Option, Table, shown_default, table

__all__ = ["BACKEND", "CLIENTS", "STORE", "backend_table", "given_store_options"]

CLIENTS: dict[str, tuple[str, ...]] = {"s3": ("obstore", "aiobotocore"), "az": ("obstore", "azure-sdk")}
"""The client libraries of each scheme, the default first."""

BACKEND: Table = table(
    "Object stores",
    Option(
        "client",
        Kind.CHOICE,
        "Client library: obstore, aiobotocore (s3) or azure-sdk (az).",
        "obstore",
        choices=get_args(Client),
        schemes=("s3", "az"),
    ),
    Option(
        "endpoint",
        Kind.TEXT,
        "Endpoint, as http://host:port or https://host; for Azurite followed by /account.",
        unset="from the environment",
        metavar="URL",
        schemes=("s3", "az"),
    ),
    Option("region", Kind.TEXT, "Region of the bucket (s3).", unset="from the environment", schemes=("s3",)),
    Option("account", Kind.TEXT, "Storage account (az).", unset="from the environment", schemes=("az",)),
    Option("anonymous", Kind.FLAG, "Send unsigned requests.", False, schemes=("s3", "az")),
    Option(
        "timeout_s",
        Kind.DURATION,
        "Longest wait for the next byte, not for a whole transfer.",
        30.0,
        unit="s",
        above=0,
        high=1e6,
        schemes=("s3", "az"),
    ),
    Option(
        "retries", Kind.COUNT, "How often a failed request is sent again.", 4, low=0, schemes=("s3", "az")
    ),
    Option(
        "connect_timeout_s",
        Kind.DURATION,
        "Longest wait for a connection.",
        5.0,
        unit="s",
        above=0,
        high=1e6,
        schemes=("s3", "az"),
    ),
    Option(
        "profile",
        Kind.TEXT,
        "Profile of the AWS configuration files (s3).",
        unset="from the environment",
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
)
"""What the backends of object stores take."""

_SHARED = ("client", "endpoint", "region", "account", "anonymous", "timeout_s", "retries")
STORE: Table = {
    name: replace(BACKEND[name], default=None, unset=shown_default(BACKEND[name])) for name in _SHARED
}
"""What loaders and replays pass on to object stores; None leaves the choice to the backend."""


def backend_table(scheme: str) -> Table:
    """The options that the backend of `scheme` takes, with the client libraries that read it."""
    table = {name: option for name, option in BACKEND.items() if scheme in option.schemes}
    return {**table, "client": replace(table["client"], choices=CLIENTS[scheme])}


def given_store_options(options: object) -> dict[str, Any]:
    """The options for object stores that are not None: what the backend is to be given."""
    values = {name: getattr(options, name) for name in STORE}
    return {name: value for name, value in values.items() if value is not None}
