"""Which module reads which URI scheme. A scheme's module is imported when it is first used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Unpack, cast

from tracekit.backends.base import Backend
from tracekit.backends.objects.uri import account_in
from tracekit.errors import UsageError
from tracekit.keywords import StoreKeywords
from tracekit.store_options import BACKEND, SPELLINGS
from tracekit.uri import clean, scheme_of

__all__ = ["applicable", "backend_for", "known_schemes", "schemes_in_words"]

_SCHEMES = {
    "file": "tracekit.backends.local.backend:file_backend",
    "direct": "tracekit.backends.local.backend:direct_backend",
    "s3": "tracekit.backends.objects.s3:backend",
    "az": "tracekit.backends.objects.az:backend",
    "gs": "tracekit.backends.objects.gs:backend",
    "https": "tracekit.backends.objects.http:backend",
    "http": "tracekit.backends.objects.http:http_backend",
    "abfs": "tracekit.backends.objects.az:abfs_backend",
    "abfss": "tracekit.backends.objects.az:abfss_backend",
    "gcs": "tracekit.backends.objects.gs:gcs_backend",
}
"""Of each scheme, the module and its function that makes a backend."""


def known_schemes() -> tuple[str, ...]:
    """Return the URI schemes that can be read."""
    return tuple(_SCHEMES)


def schemes_in_words() -> str:
    """Return the URI schemes that can be read, for a message."""
    return ", ".join(f"{scheme}://" for scheme in _SCHEMES)


def applicable(uri: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the loader's or replay's `options` that the scheme of `uri` has: none of a local file."""
    scheme = SPELLINGS.get(scheme_of(uri), scheme_of(uri))
    return {name: value for name, value in options.items() if scheme in BACKEND[name].schemes}


def backend_for(uri: str, **options: Unpack[StoreKeywords]) -> Backend:
    """Make a backend for the scheme of `uri` (a plain path is `file`), and the account in it, with its options.

    Raises UsageError for an unknown scheme, an unknown option, or a client library that is not installed.
    """
    scheme = scheme_of(uri)
    account = account_in(uri)
    if account is not None and options.get("account") is None:
        options["account"] = account
    if scheme not in _SCHEMES:
        raise UsageError(f"{clean(uri)}: unknown scheme {scheme!r}", f"known are {schemes_in_words()}")
    try:
        module, _, name = _SCHEMES[scheme].partition(":")
        return cast(Backend, getattr(importlib.import_module(module), name)(**options))
    except ModuleNotFoundError as error:
        client = f" with client={options['client']!r}" if options.get("client") else ""
        raise UsageError(
            f"{scheme}://{client} needs the package {error.name}, which is not installed",
            "pip install 'tracekit[clients]'",
        ) from None
