"""`python -m tracekit.cli.reference FILE`: docs/cli-reference.md, made from the verbs themselves."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import typer.main

from tracekit.cli.app import app

__all__ = ["reference"]

_MARKUP = re.compile(r"\[/?(?:bold|dim)\]")


def reference() -> str:
    """The reference as Markdown: each verb with its arguments, options and examples."""
    group: Any = typer.main.get_command(app)
    parts = [
        "# Command-line reference",
        "",
        "Made by `make docs` from `--help`; a test fails when it is stale. Exit codes: 0 done, 1 a check failed",
        "(parity, verify), 2 bad usage or bad input, 130 interrupted, 143 terminated.",
    ]
    for name, command in group.commands.items():
        parts += ["", f"## tracekit {name}", "", (command.help or "").strip(), ""]
        for parameter in command.params:
            parts.append(_line(parameter))
        if command.epilog:
            parts += ["", "```text", _examples(command.epilog), "```"]
    return "\n".join(parts) + "\n"


def _line(parameter: Any) -> str:
    help_ = (getattr(parameter, "help", None) or "").strip()
    metavar = f" {parameter.metavar}" if parameter.metavar else ""
    if parameter.param_type_name == "argument":
        return f"- `{parameter.metavar or parameter.name.upper()}`: {help_}"
    names = ", ".join((*parameter.opts, *parameter.secondary_opts))
    value = "" if parameter.is_flag else metavar
    default = parameter.default
    shown = (
        ""
        if default in (None, False, "", [])
        or callable(default)
        or not getattr(parameter, "show_default", True)
        else f" Default: `{getattr(default, 'value', default)}`."
    )
    return f"- `{names}{value}`: {help_}{shown}"


def _examples(epilog: str) -> str:
    return _MARKUP.sub("", epilog).removeprefix("Examples:\n")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
