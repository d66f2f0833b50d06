"""The labels of a segment: who recorded it, with which options. No secret gets past this module.

The labels become the `tracekit.*` file metadata of the segment and of its journal.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import Any

from tracekit.errors import UsageError
from tracekit.processes import start_of
from tracekit.redaction import redact, redact_value
from tracekit.schema import META_PREFIX, SCHEMA_VERSION
from tracekit.store.clocks import CLOCK, Clock
from tracekit.store.manifest import Manifest, boot_id, machine
from tracekit.version import __version__

__all__ = ["Labels", "check_numbers"]


@dataclass(frozen=True, slots=True)
class Labels:
    """What a producer says about its ops: `source` (loader, replay, import:FORMAT, capture), options, rank.

    Raises UsageError if a number does not fit its column or `options` is not JSON.
    """

    source: str
    options: dict[str, Any] | None = None
    rank: int | None = None
    world_size: int | None = None
    """The number of ranks; None, in the metadata an empty value, if unknown."""
    completeness: dict[str, Any] | None = None
    """The share of what a program really moved that a capture or an import saw."""
    has: tuple[str, ...] | None = None
    """The columns that the source of an import knows; a null in another column is unknown."""
    clock_error_ns: int | None = None
    """The bound on the error of the recording host's wall clock; None if unknown."""

    def __post_init__(self) -> None:
        check_numbers(rank=self.rank, world_size=self.world_size)
        try:
            json.dumps(self.options, sort_keys=True, default=str)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"options= cannot be written as JSON: {error}", "give a dict with text as keys"
            ) from error

    def metadata(self, manifest: Manifest, segment: str) -> dict[bytes, bytes]:
        """Return the file metadata of the segment named `segment`."""
        options = redact_value(json.loads(json.dumps(self.options or {}, sort_keys=True, default=str)))
        values: dict[str, object] = {
            "schema_version": SCHEMA_VERSION,
            "trace_id": manifest.trace_id,
            "segment": segment,
            "epoch_unix_ns": manifest.epoch_unix_ns,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": start_of(os.getpid()) or "",
            "boot_id": boot_id() or "",
            "machine": machine() or "",
            "rank": self.rank or 0,
            "world_size": "" if self.world_size is None else self.world_size,
            "source": redact(self.source),
            "options": json.dumps(options, sort_keys=True),
            "version": __version__,
        }
        if self.completeness is not None:
            values["completeness"] = json.dumps(redact_value(self.completeness), sort_keys=True)
        if self.has is not None:
            values["has"] = ",".join(self.has)
        if self.clock_error_ns is not None:
            values[CLOCK] = Clock(error_ns=self.clock_error_ns).to_json()
        return {f"{META_PREFIX}{key}".encode(): str(value).encode() for key, value in values.items()}


def check_numbers(**numbers: int | None) -> None:
    """Raise UsageError for a number that does not fit an int32 column, or is negative."""
    for name, value in numbers.items():
        if value is not None and not (hasattr(value, "__index__") and 0 <= value < 1 << 31):
            raise UsageError(f"{name}={value!r} is not allowed", "give a whole number, 0 or more")
