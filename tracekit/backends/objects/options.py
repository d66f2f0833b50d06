"""Options of a backend, checked: a name or a value that cannot be meant is refused, none is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints
from urllib.parse import urlsplit

from tracekit.errors import UsageError

__all__ = ["check_endpoint", "parse_options", "require_choice"]

_MOST_SECONDS = 1e9
_T = TypeVar("_T")


def parse_options(cls: type[_T], given: Mapping[str, Any], scheme: str) -> _T:
    """An instance of the frozen dataclass `cls`; raises UsageError for an unknown name or a wrong type."""
    kinds = get_type_hints(cls)
    for name, value in given.items():
        if name not in kinds:
            raise UsageError(f"{scheme}: option {name!r} is unknown", f"one of {', '.join(kinds)}")
        kind = kinds[name] | int if kinds[name] is float else kinds[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kinds[name] is not bool):
            raise UsageError(f"{scheme}: {name}={value!r} is not what it takes", f"a {_shown(kinds[name])}")
        if isinstance(value, int | float) and value < 0:
            raise UsageError(f"{scheme}: {name}={value!r} is negative")
        if kinds[name] is float and not 0 < value < _MOST_SECONDS:
            raise UsageError(f"{scheme}: {name}={value!r} is no time to wait", "seconds, more than 0")
    made: _T = cls(**given)
    return made


def require_choice(scheme: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise UsageError if `value` is none of `choices`."""
    if value not in choices:
        raise UsageError(f"{scheme}: {name}={value!r} is unknown", f"one of {', '.join(choices)}")


def check_endpoint(scheme: str, endpoint: str) -> str:
    """`endpoint` without a trailing slash; raises UsageError if it is no URL or carries a secret."""
    hint = "write http://host:port or https://host; credentials go into the environment"
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in endpoint or parts.query or parts.fragment:
        shown = endpoint.partition("?")[0].partition("#")[0].rpartition("@")[2]
        raise UsageError(f"{scheme}: endpoint {shown!r} cannot be used", hint)
    return endpoint.rstrip("/")


def _shown(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind)).replace(" | None", "")
