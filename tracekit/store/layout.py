"""Where the files of a trace lie, what they are called, and which epoch they share.

A trace directory holds one manifest (`trace.json`, made by whoever comes first),
finished segments (`*.parquet`) and the journals (`*.arrows`) of segments still being
written or left by a crash. A journal and the segment made of it share their stem, so a
reader that sees both takes the segment. This module reads no ops.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tracekit.errors import TraceFormatError, UsageError
from tracekit.schema import META_PREFIX, SCHEMA_VERSION
from tracekit.uri import as_text
from tracekit.whole import fsync_dir

__all__ = [
    "JOURNAL_SUFFIX",
    "MANIFEST_NAME",
    "SEGMENT_SUFFIX",
    "UPGRADE",
    "Manifest",
    "check_name",
    "check_version",
    "create_or_join",
    "new_manifest",
    "process_stem",
    "read_manifest",
    "segment_metadata",
    "write_manifest",
]

MANIFEST_NAME = "trace.json"
JOURNAL_SUFFIX = ".arrows"
SEGMENT_SUFFIX = ".parquet"
UPGRADE = "upgrade tracekit"
"""The hint of errors about what a newer tracekit wrote."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What all segments of a trace agree on.

    `epoch_unix_ns` is the zero of every time column. `epoch_mono_ns` is the same instant
    on the monotonic clock of the boot `boot_id`, so that processes of one machine line
    up to the ns and processes of others as well as their wall clocks do.
    """

    trace_id: str
    epoch_unix_ns: int
    epoch_mono_ns: int | None
    boot_id: str | None
    schema_version: int = SCHEMA_VERSION

    def local_epoch_mono_ns(self) -> int:
        """The epoch on this process's monotonic clock."""
        if self.epoch_mono_ns is not None and self.boot_id == _boot_id():
            return self.epoch_mono_ns
        return self.epoch_unix_ns - (time.time_ns() - time.monotonic_ns())


def new_manifest(epoch_unix_ns: int | None = None) -> Manifest:
    """A manifest for a trace that starts now, or (imports) at `epoch_unix_ns`."""
    if epoch_unix_ns is not None:
        return Manifest(secrets.token_hex(8), epoch_unix_ns, None, None)
    mono, unix = time.monotonic_ns(), time.time_ns()
    return Manifest(secrets.token_hex(8), unix, mono, _boot_id())


def create_or_join(path: Path) -> Manifest:
    """The manifest of the trace at `path`; made, with the directory, if there is none.

    Any number of processes may call this at once: one creates, the others join.
    Raises UsageError if `path` is something other than a trace or an empty directory, or
    nothing can be written there.
    """
    try:
        check_name(path)
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file, not a trace directory", "choose another -o path")
        return _create_or_join(path)
    except OSError as error:
        raise UsageError(
            f"no trace can be written at {path}: {error.strerror or error}", "choose another -o path"
        ) from error


def check_name(path: Path) -> None:
    """Raise UsageError for a name with a NUL, or of bytes that are no UTF-8: the Parquet libraries do not open it."""
    text = str(path)
    if as_text(text) != text or "\0" in text:
        raise UsageError(f"{as_text(text)!r} is no name for a trace", "choose another, of valid UTF-8")


def _create_or_join(path: Path) -> Manifest:
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    existing = read_manifest(path)
    if existing is not None:
        return existing
    strangers = [entry.name for entry in path.iterdir() if not entry.name.startswith((".", MANIFEST_NAME))]
    if strangers:
        # A process that came at the same time may have made the manifest and a segment since.
        existing = read_manifest(path)
        if existing is not None:
            return existing
        raise UsageError(f"{path} holds {strangers[0]} and is no trace", "choose an empty or new directory")
    try:
        write_manifest(path, new_manifest())
    except OSError:
        if made:
            with contextlib.suppress(OSError):  # another process may have come
                path.rmdir()
        raise
    manifest = read_manifest(path)
    if manifest is None:
        raise TraceFormatError(f"{path / MANIFEST_NAME} vanished while the trace was made", "record again")
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Publish `manifest` in `path` whole, unless another process was first (then keep theirs)."""
    temporary = path / f".{MANIFEST_NAME}.{os.getpid()}.{secrets.token_hex(4)}"
    values = {f"{META_PREFIX}{key}": value for key, value in asdict(manifest).items()}
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(json.dumps(values, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path / MANIFEST_NAME)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links: the rename may replace an equal-aged twin
            if not (path / MANIFEST_NAME).exists():
                temporary.replace(path / MANIFEST_NAME)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_dir(path)


def read_manifest(path: Path) -> Manifest | None:
    """The manifest in `path`, or None where there is none. Raises TraceFormatError if unreadable."""
    file = path / MANIFEST_NAME
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        values = {key.removeprefix(META_PREFIX): value for key, value in raw.items()}
        check_version(int(values["schema_version"]), file)
        mono, boot_id = values["epoch_mono_ns"], values["boot_id"]
        return Manifest(
            trace_id=str(values["trace_id"]),
            epoch_unix_ns=int(values["epoch_unix_ns"]),
            epoch_mono_ns=None if mono is None else int(mono),
            boot_id=None if boot_id is None else str(boot_id),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceFormatError(
            f"{file} is no trace manifest: {error}", f"remove it to read the {SEGMENT_SUFFIX} files alone"
        ) from error


def check_version(version: int, where: Path) -> None:
    """Raise TraceFormatError if `version` is newer than this tracekit knows."""
    if version > SCHEMA_VERSION:
        raise TraceFormatError(
            f"{where} has op schema version {version}; this tracekit reads up to {SCHEMA_VERSION}",
            UPGRADE,
        )


def process_stem() -> str:
    """A file-name stem that no other process, here or on another host, will choose."""
    return f"seg-{time.time_ns() // 1_000_000:x}-{os.getpid()}-{secrets.token_hex(4)}"


def segment_metadata(
    manifest: Manifest,
    *,
    segment: str,
    source: str,
    options: dict[str, Any] | None,
    rank: int | None,
    world_size: int | None,
) -> dict[bytes, bytes]:
    """File metadata of one segment, keys prefixed `tracekit.`."""
    from tracekit.version import __version__

    values: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "trace_id": manifest.trace_id,
        "segment": segment,
        "epoch_unix_ns": manifest.epoch_unix_ns,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "rank": 0 if rank is None else rank,
        "world_size": 1 if world_size is None else world_size,
        "source": source,
        "options": json.dumps(options or {}, sort_keys=True, default=str),
        "version": __version__,
    }
    return {f"{META_PREFIX}{key}".encode(): str(value).encode() for key, value in values.items()}


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
