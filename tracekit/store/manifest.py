"""The manifest: the identity and the epoch that all segments of a trace share.

Any number of processes may open one trace at once: the first writes the manifest, the others join it.
The manifest carries a digest of itself, because a damaged epoch would shift every time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracekit.errors import TraceFormatError, UsageError
from tracekit.processes import clock_instant, clock_offset_ns, clock_shift_ns
from tracekit.schema import META_PREFIX, SCHEMA_VERSION
from tracekit.store.footer import is_sealed, read_footer
from tracekit.store.layout import (
    MANIFEST_NAME,
    OLD_MANIFEST_NAME,
    SEALED_NAME,
    SEGMENT_SUFFIX,
    check_name,
    is_leftover,
    partial_path,
)
from tracekit.whole import file_bytes, fsync_dir

__all__ = [
    "MANIFEST_KEY",
    "UPGRADE",
    "Manifest",
    "boot_id",
    "check_version",
    "create_or_join",
    "machine",
    "manifest_values",
    "new_manifest",
    "read_manifest",
    "sealed_metadata",
    "signed",
    "unsigned",
    "write_manifest",
]

UPGRADE = "upgrade tracekit"
"""The hint of errors about what a newer tracekit wrote."""
MANIFEST_KEY = f"{META_PREFIX}manifest".encode()
"""The key of the manifest in the file metadata of `_trace.parquet`."""
_DIGEST = f"{META_PREFIX}digest"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What all segments of a trace agree on.

    `epoch_unix_ns` is the zero of every time column. `epoch_mono_ns` is the same instant on the
    monotonic clock of the boot `boot_id`, which is `mono_shift_ns` ahead of that of the machine: processes of that
    machine agree to the nanosecond, whatever their time namespaces, processes of other machines as closely as
    their wall clocks. `machine` tells another machine from an earlier boot of the same one; None if unknown.
    """

    trace_id: str
    epoch_unix_ns: int
    epoch_mono_ns: int | None
    boot_id: str | None
    schema_version: int = SCHEMA_VERSION
    mono_shift_ns: int | None = 0
    machine: str | None = None

    @property
    def machine_epoch_ns(self) -> int | None:
        """The epoch on the monotonic clock of the machine, outside of all time namespaces; None if it is unknown."""
        known = self.epoch_mono_ns is not None and self.mono_shift_ns is not None
        return (self.epoch_mono_ns or 0) - (self.mono_shift_ns or 0) if known else None

    def local_epoch_mono_ns(self) -> int:
        """Return the epoch on this process's monotonic clock."""
        shift, theirs = clock_shift_ns("monotonic"), self.mono_shift_ns
        if self.epoch_mono_ns is not None and self.boot_id == boot_id() and None not in (shift, theirs):
            return self.epoch_mono_ns + (shift or 0) - (theirs or 0)
        return self.epoch_unix_ns - clock_offset_ns()


def new_manifest(epoch_unix_ns: int | None = None) -> Manifest:
    """Return a manifest for a trace that starts now, or (imports) at `epoch_unix_ns`."""
    if epoch_unix_ns is not None:
        return Manifest(secrets.token_hex(8), epoch_unix_ns, None, None)
    mono, unix = clock_instant()
    return Manifest(
        secrets.token_hex(8),
        unix,
        mono,
        boot_id(),
        mono_shift_ns=clock_shift_ns("monotonic"),
        machine=machine(),
    )


def create_or_join(path: Path) -> Manifest:
    """Return the manifest of the trace at `path`; create both if there is none.

    A symbolic link is followed, also one to a directory that does not exist yet. Raises UsageError if
    `path` is neither a trace nor an empty directory, or is not writable.
    """
    try:
        check_name(path)
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file, not a trace directory", "choose another path")
        return _create_or_join(path)
    except OSError as error:
        raise UsageError(
            f"no trace can be written at {path}: {error.strerror or error}", "choose another path"
        ) from error


def _create_or_join(path: Path) -> Manifest:
    created = not path.exists()
    Path(os.path.realpath(path)).mkdir(parents=True, exist_ok=True)
    existing = read_manifest(path)
    if existing is not None:
        return existing
    others = [entry.name for entry in path.iterdir() if not is_leftover(entry.name)]
    if others:
        # Another process may have written the manifest and a segment since.
        existing = read_manifest(path)
        if existing is not None:
            return existing
        raise UsageError(f"{path} is not a trace: it holds {others[0]}", "choose an empty or new directory")
    try:
        write_manifest(path, new_manifest())
    except OSError:
        if created:
            with contextlib.suppress(OSError):  # another process may have come
                path.rmdir()
        raise
    manifest = read_manifest(path)
    if manifest is None:
        raise TraceFormatError(f"{path}: the manifest vanished while the trace was created", "record again")
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> bool:
    """Write `manifest` into `path`, whole, unless another process was first; return whether it is ours that is there."""
    target = path / MANIFEST_NAME
    temporary = partial_path(target)
    first = True
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(json.dumps(manifest_values(manifest), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, target)
        except FileExistsError:
            first = False
        except OSError:  # a file system without hard links: the rename may replace another process's manifest
            first = not target.exists()
            if first:
                temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_dir(path)
    return first


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest of the directory `path`, or None if it has none.

    Raises TraceFormatError if it is damaged or newer than this tracekit.
    """
    for name in (MANIFEST_NAME, SEALED_NAME, OLD_MANIFEST_NAME):
        file = path / name
        try:
            return _manifest(_sealed_text(file) if name == SEALED_NAME else file_bytes(file).decode(), file)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            raise TraceFormatError(f"{file}: {error.strerror}", "run as a user who may read it") from error
        except (ValueError, KeyError, TypeError, AttributeError, OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise TraceFormatError(
                f"{file}: the trace manifest is damaged: {reason}",
                f"remove it to read the {SEGMENT_SUFFIX} files alone",
            ) from error
    return None


def _manifest(text: str, file: Path) -> Manifest:
    raw = json.loads(text)
    values = {key.removeprefix(META_PREFIX): value for key, value in raw.items()}
    check_version(int(values["schema_version"]), file)
    if file.name != OLD_MANIFEST_NAME:
        unsigned(raw)
    mono, boot, shift = values["epoch_mono_ns"], values["boot_id"], values.get("mono_shift_ns", 0)
    return Manifest(
        trace_id=str(values["trace_id"]),
        epoch_unix_ns=int(values["epoch_unix_ns"]),
        epoch_mono_ns=None if mono is None else int(mono),
        boot_id=None if boot is None else str(boot),
        mono_shift_ns=None if shift is None else int(shift),
        machine=values.get("machine"),
    )


def _sealed_text(file: Path) -> str:
    return sealed_metadata(file)[MANIFEST_KEY].decode()


def sealed_metadata(file: Path) -> Mapping[bytes, bytes]:
    """Return the file metadata of a `_trace.parquet`. Raises FileNotFoundError, pa.ArrowException."""
    footer = read_footer(file)
    if not is_sealed(footer):  # the key of the digest itself is damaged
        raise pa.ArrowInvalid("its footer has no digest")
    found: Mapping[bytes, bytes] = footer.metadata or {}
    return found


def manifest_values(manifest: Manifest) -> dict[str, Any]:
    """Return the JSON object of `manifest`, with its digest."""
    return signed({f"{META_PREFIX}{key}": value for key, value in asdict(manifest).items()})


def signed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with a digest of themselves, against damage (not against forgery)."""
    return {**values, _DIGEST: _digest_of(values)}


def unsigned(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` without their digest. Raises ValueError if it does not match."""
    plain = {key: value for key, value in values.items() if key != _DIGEST}
    if values.get(_DIGEST) != _digest_of(plain):
        raise ValueError("its digest does not match")
    return plain


def _digest_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def check_version(version: int, where: Path) -> None:
    """Raise TraceFormatError if `version` is newer than this tracekit knows."""
    if version > SCHEMA_VERSION:
        raise TraceFormatError(
            f"{where} has op schema version {version}; this tracekit reads up to {SCHEMA_VERSION}", UPGRADE
        )


def boot_id() -> str | None:
    """Return the kernel's identifier of this boot, or None where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def machine() -> str | None:
    """Return what stays the same from one boot of this machine to the next, or None where nothing says.

    It is a digest of the machine's identifier, which is not to be shown, and of the host name, which copies of an image differ in.
    """
    try:
        identifier = Path("/etc/machine-id").read_text().strip()
    except OSError:
        return None
    named = f"tracekit {identifier} {socket.gethostname()}"
    return hashlib.sha256(named.encode()).hexdigest()[:16] if identifier else None
