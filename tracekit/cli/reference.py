"""`python -m tracekit.cli.reference FILE` writes docs/cli-reference.md from the verbs.

It also makes the tables of options anew on the pages in and below the folder of FILE.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from tracekit.cli.app import VERBS, load
from tracekit.cli.tables import refresh

__all__ = ["reference"]

_HEAD = """\
# Command-line reference

`make docs` writes this page from `--help`; a test fails when it is stale. Each verb calls one function of the
[Python API](api/python-api.md) with the same option names.

- **Exit codes**: 0 done, 1 a check failed (parity, verify), 2 bad usage or bad input, 130 interrupted, 143 terminated.
  `tracekit capture` exits as its command does.
- **Errors** are one line on standard error: what happened, where, and what to do.
- **JSON**: every verb takes `--json`. An error is then also printed on standard output, as
  `{"error": {"message": ..., "hint": ..., "exit_code": ...}}`. Where standard output belongs to something else (the
  command of `tracekit capture`, an output `-o -`), JSON goes to standard error.
- **Traces** are named by a path, a path below `~`, or a `file://` URI: a trace directory, a Parquet file, or a quoted
  glob of Parquet files, which are read as one trace. A name that exists is taken literally.
- **Outputs** appear whole or not at all. `-o -` is standard output, for text and Parquet; pipes and devices work, too.
- **Completion**: `tracekit --install-completion` completes verbs, flags, formats, kinds of pictures and other choices."""
_MARKUP = re.compile(r"\[/?(?:bold|dim)\]")


def reference() -> str:
    """Return the reference as Markdown: each verb with its arguments, options and examples."""
    parts = [_HEAD]
    for name in VERBS:
        command = load(name)
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
    page = Path(sys.argv[1])
    page.write_text(reference(), encoding="utf-8")
    refresh(page.parent)
