"""Translates the Python parameters in a message to the flags of a verb: `overwrite=True` to `--overwrite`.

The library's messages name parameters as `name=value` or `name=`. This is the only place that
knows how a verb spells them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

__all__ = ["spellings", "use_flags_of", "with_flags"]

_used: ContextVar[Mapping[str, tuple[str, str]]] = ContextVar("tracekit_flags", default={})  # noqa: B039

_VALUE = r"'[^']*'|\"[^\"]*\"|\([^()]*\)|\[[^\[\]]*\]|[^\s,;()'\"]+"
_NAMED = re.compile(rf"(?<![\w.&?/-])(?P<name>[a-z][a-z0-9_]*)=(?P<value>{_VALUE})?")


def spellings(command: Any) -> dict[str, tuple[str, str]]:
    """Return, by Python name, how `command` spells each of its parameters, and how it spells a false flag."""
    found = {}
    for parameter in command.params:
        name = parameter.name.rstrip("_")  # `map_` is the parameter map
        if parameter.param_type_name == "argument":
            shown = parameter.metavar or parameter.name.upper()
            found[name] = (shown, shown)
        else:
            flag = next(opt for opt in parameter.opts if opt.startswith("--"))
            off = parameter.secondary_opts[0] if parameter.secondary_opts else f"no {flag}"
            found[name] = (flag, off if parameter.is_flag else "")
    return found


def use_flags_of(command: Any) -> None:
    """Make `command` the verb whose flags `with_flags` uses from now on; None for no verb."""
    _used.set({} if command is None else spellings(command))


def with_flags(message: str) -> str:
    """Return `message` with every `name=value` that names a parameter spelled as on the command line."""
    known = _used.get()

    def spell(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if name not in known:
            return match[0]
        flag, off = known[name]
        stop = value[-1] if value and value[-1] in ".:" else ""
        value = value.removesuffix(stop) if value else ""
        if off and value in ("", "True", "False") and flag.startswith("--"):
            return (off if value == "False" else flag) + stop
        return (f"{flag} {'none' if value == 'None' else value}" if value else flag) + stop

    return _NAMED.sub(spell, message)
