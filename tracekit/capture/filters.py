"""Selects the files and objects that a capture keeps, by glob, and by a hash for a sample of them.

Hooks apply a filter once per opened file, `tracekit capture` once per distinct URI. The
result for a URI never changes, so callers may cache it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import translate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracekit.uri import FILE_SCHEMES, scheme_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PathFilter", "paths_kept", "with_real_names"]

_SYSTEM = ("/proc/", "/sys/", "/dev/", "/run/", "/etc/", "/usr/", "/lib/", "/lib64/", "/bin/", "/sbin/")
_OWN_SUFFIXES = (".py", ".pyc", ".pyi", ".pth", ".so", ".pyd", ".egg-link", ".dist-info", "pyvenv.cfg")
_PATTERNS = re.compile(r"\.so(\.\d+)*$|/lib/python\d|/site-packages/|/__pycache__|/\.tracekit-capture-")


@dataclass(frozen=True, slots=True)
class PathFilter:
    """Keeps a URI that matches an `include` glob (all URIs if there is none) and no `exclude` glob.

    Without `include`, files of the system and the interpreter are left out: their directories,
    modules and shared objects. A glob that contains a `/` is matched against the whole path of
    a file or the whole URI of an object, any other glob against the last component.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    own: tuple[str, ...] = field(default_factory=lambda: _interpreter_directories())
    sample_rate: float = 1.0
    """The share of the files and objects that is kept, chosen by a hash of the URI: the same ones everywhere."""
    stream_salt: str = ""
    """If set, the share is that of the streams. The salt is drawn for each capture, because there are few streams and
    their names are always the same."""

    def admits(self, uri: str) -> bool:
        """Whether ops on `uri` are kept, in the streams that are."""
        uri = uri.removeprefix("app+")  # what a program read above a cache, of the same object
        chosen = self.sample_rate >= 1 or self.stream_salt or _place_of(uri) < self.sample_rate
        return self._matches(uri) and bool(chosen)

    def admits_stream(self, rank: int, worker: int) -> bool:
        """Whether the ops of this stream are kept."""
        return not self.stream_salt or _place_of(f"{self.stream_salt}/{rank}/{worker}") < self.sample_rate

    def of_streams(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The ops of the streams that are kept."""
        if not self.stream_salt:
            return batch
        streams = list(zip(*(batch.column(name).to_pylist() for name in ("rank", "worker")), strict=True))
        kept = {stream for stream in set(streams) if self.admits_stream(*stream)}
        import pyarrow as pa

        return batch.filter(pa.array([stream in kept for stream in streams], pa.bool_()))

    @property
    def admits_memory(self) -> bool:
        """Whether files of /dev/shm may be kept."""
        return bool(self.include)

    @property
    def sample_by(self) -> str:
        """What `sample_rate` chooses from, as the option is spelled."""
        return "stream" if self.stream_salt else "file"

    def sampled(self, rate: float, by: str, salt: str = "") -> PathFilter:
        """The same filter for a share of the files, or of the streams."""
        drawn = (salt or secrets.token_hex(8)) if by == "stream" and rate < 1 else ""
        return replace(self, sample_rate=rate, stream_salt=drawn)

    def _matches(self, uri: str) -> bool:
        is_file = scheme_of(uri) in FILE_SCHEMES
        name = uri.partition("://")[2] if is_file and "://" in uri else uri
        if any(_matches(glob, name) for glob in self.exclude):
            return False
        if self.include:
            return any(_matches(glob, name) for glob in self.include)
        return not is_file or not self._is_own(name)

    def _is_own(self, path: str) -> bool:
        return (
            path.startswith(_SYSTEM)
            or path.startswith(self.own)
            or path.endswith(_OWN_SUFFIXES)
            or _PATTERNS.search(path) is not None
        )


def paths_kept(
    include: Iterable[str], exclude: Iterable[str], trace: Path, options: Mapping[str, Any], *, salt: str = ""
) -> PathFilter:
    """The filter of a capture into `trace`: never what it writes and ships itself."""
    shipped = () if options["ship"] is None else (f"{options['ship'].rstrip('/')}/",)
    own = (f"{trace}/", str(trace), *shipped)
    paths = PathFilter(with_real_names(include), with_real_names((*exclude, *own)))
    return paths.sampled(options["sample_rate"], options["sample_by"], salt)


def with_real_names(globs: Iterable[str]) -> tuple[str, ...]:
    """Return `globs`, and those that lead through symbolic links once more by the names that the kernel uses.

    A file that a process inherited or mapped is known by the kernel's name alone, and so is every file to strace.
    """
    found: dict[str, None] = {}
    for glob in globs:
        fixed = re.split(r"[*?\[]", glob, maxsplit=1)[0]
        whole = fixed == glob and not glob.endswith("/")
        named = fixed if whole else fixed.rpartition("/")[0]
        found |= dict.fromkeys(
            [glob, os.path.realpath(named) + glob[len(named) :]] if named[:1] == "/" else [glob]
        )
    return tuple(found)


def _place_of(uri: str) -> float:
    """A number from 0 to 1 that depends on the URI alone."""
    digest = hashlib.blake2b(uri.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _matches(glob: str, name: str) -> bool:
    if glob.endswith("/"):
        glob += "*"
    return _compiled(glob).match(name if "/" in glob else name.rsplit("/", 1)[-1]) is not None


@functools.lru_cache(maxsize=1024)
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


def _interpreter_directories() -> tuple[str, ...]:
    """The directories of Python and its packages. The prefix itself is not one: it may contain a home directory."""
    found: Iterable[str | None] = (
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")),
        *site.getsitepackages(),
        site.getusersitepackages(),
        os.path.dirname(os.path.realpath(sys.executable)),
    )
    return tuple(sorted({directory.rstrip("/") + "/" for directory in found if directory}))
