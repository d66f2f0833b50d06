"""Which files a capture keeps: globs over paths, and the defaults that leave out the interpreter's own.

Applied once per opened file by the hooks and once per distinct URI by `tracekit capture`,
so it may take its time; what it says about a path never changes.
"""

from __future__ import annotations

import functools
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate

from tracekit.uri import scheme_of

__all__ = ["PathFilter"]

_SYSTEM = ("/proc/", "/sys/", "/dev/", "/run/", "/etc/", "/usr/", "/lib/", "/lib64/", "/bin/", "/sbin/")
_OWN_SUFFIXES = (".py", ".pyc", ".pyi", ".pth", ".so", ".pyd", ".egg-link", ".dist-info", "pyvenv.cfg")
_PATTERNS = re.compile(r"\.so(\.\d+)*$|/lib/python\d|/site-packages/|/__pycache__|/\.tracekit-capture-")


@dataclass(frozen=True, slots=True)
class PathFilter:
    """Keeps a URI that an `include` glob matches (all, if there is none) and no `exclude` glob does.

    Without `include`, what belongs to the system and the interpreter is left out: their
    directories, modules and shared objects. A glob is matched with the whole path of a file
    (the whole URI of anything else); one without a `/` with its last part.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    own: tuple[str, ...] = field(default_factory=lambda: _interpreter_directories())

    def admits(self, uri: str) -> bool:
        """Whether ops on `uri` are kept."""
        is_file = scheme_of(uri) in ("file", "direct")
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


def _matches(glob: str, name: str) -> bool:
    if glob.endswith("/"):
        glob += "*"
    return _compiled(glob).match(name if "/" in glob else name.rsplit("/", 1)[-1]) is not None


@functools.lru_cache(maxsize=1024)
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


def _interpreter_directories() -> tuple[str, ...]:
    """Where Python and its packages live: not the root of a prefix, which may hold the user's home."""
    found: Iterable[str | None] = (
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")),
        *site.getsitepackages(),
        site.getusersitepackages(),
        os.path.dirname(os.path.realpath(sys.executable)),
    )
    return tuple(sorted({directory.rstrip("/") + "/" for directory in found if directory}))
