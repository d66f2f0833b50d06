"""Selects the files and objects that a capture keeps, by glob, and by a hash for a sample of them.

Hooks apply a filter once per opened file, `tracekit capture` once per distinct URI. The
result for a URI never changes, so callers may cache it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate

from tracekit.uri import FILE_SCHEMES, scheme_of

__all__ = ["PathFilter"]

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

    def admits(self, uri: str) -> bool:
        """Whether ops on `uri` are kept."""
        uri = uri.removeprefix("app+")  # what a program read above a cache, of the same object
        return self._matches(uri) and (self.sample_rate >= 1 or _place_of(uri) < self.sample_rate)

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
