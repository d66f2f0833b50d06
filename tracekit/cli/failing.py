"""How a command says that it failed: one line on stderr and, with `--json`, the same as JSON.

Imports little, so that it works where hardly any memory is left.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from tracekit.printable import printable
from tracekit.redaction import redact

__all__ = ["discard_output", "fail"]

_JSON_ON_STDERR = ("capture", "mcp")
"""The verbs whose standard output belongs to others: the command that is run, and a client of MCP."""


def discard_output() -> int:
    """Succeed although the reader has gone, as in `tracekit ... | head`, and discard what is still buffered."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def fail(words: Sequence[str], message: str, code: int, hint: str = "") -> int:
    """Report an error: one line on stderr and, with `--json`, the same as JSON on stdout."""
    message, hint = (" ".join(redact(text).split()) for text in (message, hint))
    own = words[: words.index("--")] if "--" in words else words
    if "--json" in own:
        error = {"message": message, "hint": hint, "exit_code": code}
        stream = sys.stderr if own[0] in _JSON_ON_STDERR else sys.stdout
        try:
            stream.write(json.dumps({"error": error}) + "\n")
            stream.flush()
        except BrokenPipeError:
            discard_output()
    sys.stderr.write(printable(f"tracekit: {message}{f' ({hint})' if hint else ''}") + "\n")
    return code
