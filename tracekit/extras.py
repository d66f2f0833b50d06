"""Import optional packages, and name the extra that installs them. This module imports only `errors`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tracekit.errors import UsageError

__all__ = ["require"]


def require(module: str, *, extra: str) -> Any:
    """Import and return `module`. Raises UsageError with the install command if it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there, but something that it needs is not
        raise UsageError(
            f"the package {package} is not installed", f"pip install 'tracekit[{extra}]'"
        ) from error
