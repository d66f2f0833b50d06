"""How a capture is described in the environment of other processes, from which they join it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracekit.capture.filters import PathFilter

__all__ = ["environment", "lines_of", "with_bootstrap"]

_BOOTSTRAP = str(Path(__file__).parent / "bootstrap")


def environment(
    trace: Path,
    hooks: Sequence[str],
    paths: PathFilter,
    below: Iterable[str] = (),
    logs: Path | None = None,
    limits: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The environment variables from which `join` reads a capture."""
    kept = {
        f"TRACEKIT_{name.upper()}": str(value) for name, value in (limits or {}).items() if value is not None
    }
    return {
        **kept,
        "TRACEKIT_TRACE": str(trace),
        "TRACEKIT_HOOKS": ",".join(hooks),
        "TRACEKIT_INCLUDE": ":".join(paths.include),
        "TRACEKIT_EXCLUDE": ":".join(paths.exclude),
        "TRACEKIT_SAMPLE_RATE": str(paths.sample_rate),
        "TRACEKIT_SAMPLE_BY": paths.sample_by,
        "TRACEKIT_SAMPLE_SALT": paths.stream_salt,
        "TRACEKIT_BELOW": ",".join(sorted(below)),
        **({} if logs is None else {"TRACEKIT_OPLOGS": str(logs)}),
    }


def with_bootstrap(pythonpath: str | None) -> str:
    """`pythonpath` preceded by the directory whose `sitecustomize` joins the capture."""
    rest = [part for part in (pythonpath or "").split(os.pathsep) if part and part != _BOOTSTRAP]
    return os.pathsep.join([_BOOTSTRAP, *rest])


def lines_of(text: str | None) -> list[str]:
    """The globs in a `:`-separated text. The colon of a URI scheme does not separate."""
    return [part for part in re.split(r":(?!//)", text or "") if part]
