"""URIs as ops carry them: scheme and object, never a secret.

`clean` is applied to every URI before it is recorded, `from_name` to every name in
another tool's log; a text that may quote a URI is `redaction`'s. File paths are kept raw,
without percent-encoding, because POSIX allows `?`, `#` and `%` in names; every other
scheme loses its query, fragment and user-info.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from tracekit.errors import UsageError
from tracekit.redaction import CONTAINER_BEFORE_ACCOUNT, redact

__all__ = [
    "FILE_SCHEMES",
    "as_text",
    "clean",
    "from_name",
    "from_path",
    "has_scheme",
    "local_file",
    "renamed",
    "scheme_of",
    "to_path",
    "with_scheme",
]

FILE_SCHEMES = ("file", "direct")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_SURROGATE = re.compile("[\ud800-\udfff]")
_USERINFO = re.compile(
    rf"^(?!{CONTAINER_BEFORE_ACCOUNT})"
    r"([A-Za-z][A-Za-z0-9+.-]*://?|//)(?:[^/?#]*@|[A-Z0-9]{16,128}:[^\s@]*@)"
)
"""A login; the secret behind an access key of AWS may hold slashes that nobody encoded."""
_MAY_HOLD_SECRETS = re.compile(
    r"\s+(?=\S*:/|//)|(?![A-Za-z]:/)[A-Za-z][A-Za-z0-9+.-]*:/(?!/)|[A-Za-z][A-Za-z0-9+.-]*::|//[^?#]*\?[^=]*="
)
"""Spellings of a URI that is not taken for one."""
_ONE_SLASH = re.compile(r"(?!(?:file|direct):)[A-Za-z][A-Za-z0-9+.-]+:/", re.IGNORECASE)


def scheme_of(uri: str) -> str:
    """Return the scheme of `uri` in lower case, or `file` for a plain path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else "file"


def has_scheme(name: str) -> bool:
    """Return whether `name` is a URI with a scheme. `C:/data` and `C://data` are Windows paths."""
    return _SCHEME.match(name) is not None and _WINDOWS.match(name) is None


def from_name(name: str, base: str | None = None) -> str:
    """Return the URI of a name in a log: the one rule that importers and capture tools share.

    - A name with a scheme is a URI already and is returned as it is; one with blanks before it, or without a
      slash or two (`s3:/b/k`, `//host/k?sig=`), loses its query and user-info first.
    - Any other name is placed under `base` (default `file:///`) with exactly one slash
      between: `/a` and `a` under `s3://bucket` are both `s3://bucket/a`. Under a bare scheme,
      the name starts with the host or bucket: `a/b` under `s3://` is `s3://a/b`.
    - Under `file` and `direct`, `.`, `..` and repeated slashes are resolved, as in `from_path`;
      object keys are literal and keep them.
    - The backslashes of a Windows path (`C:\\data`, `\\\\host\\share`) become slashes. Anywhere else
      a backslash is part of the name.

    `base` may be an absolute path. Raises UsageError if `name` is empty or `base` is not a URI.
    """
    if not name:
        raise UsageError("the name is empty", "give the name of a file or object")
    if _MAY_HOLD_SECRETS.match(name):
        name = clean(name)
    if _WINDOWS.match(name):
        name = name.replace("\\", "/")
    elif _SCHEME.match(name):
        return name
    prefix = _prefix(base or "file://")
    if scheme_of(prefix) not in FILE_SCHEMES:
        return prefix + name.lstrip("/")
    scheme, _, root = prefix.partition("://")
    path = posixpath.normpath(f"/{root}{name}")
    return f"{scheme}://{path[1:] if path.startswith('//') else path}"


def _prefix(base: str) -> str:
    """Return `base` as a URI that a relative name can follow."""
    uri = clean(f"file://{base}" if base.startswith("/") else base)
    scheme = _SCHEME.match(uri)
    if scheme is None:
        raise UsageError(
            f"base={redact(base)} is not a URI", "give one with a scheme, such as base=s3://bucket/"
        )
    rest = uri[scheme.end() :].rstrip("/")
    return scheme[0] + (f"{rest}/" if rest else "")


def from_path(path: str | os.PathLike[str], scheme: str = "file") -> str:
    """Return `file:///abs/path` for a path; the path is made absolute, links are kept."""
    return f"{scheme}://{os.path.abspath(os.fspath(path))}"


def to_path(uri: str) -> Path:
    """Return the local path of a `file://` or `direct://` URI, or of a plain path.

    Raises UsageError for another scheme, a URI with a host part, or a NUL byte.
    """
    if "\0" in uri:
        raise UsageError(f"{uri!r} is not a local file", "remove the NUL byte")
    match = _SCHEME.match(uri)
    if match is None:
        return Path(uri)
    rest = uri[match.end() :]
    if match[1].lower() not in FILE_SCHEMES or not rest.startswith("/"):
        raise UsageError(f"{clean(uri)} is not a local file", "write file:///absolute/path")
    return Path(rest)


def local_file(name: str | os.PathLike[str]) -> Path:
    """Return the local path that a user names: a plain path, one below `~`, or a `file://` URI.

    A name that exists is literal, and so is `~name` if there is no such user. Raises UsageError for another scheme.
    """
    path = to_path(os.fspath(name))
    if not str(path).startswith("~") or path.exists():
        return path
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such user: the name is literal, as a shell takes it
        return path


def renamed(name: str, old: str, new: str) -> str:
    """Return what `name` is called after `old`, which may be a directory that it is in, was renamed to `new`."""
    return new + name.removeprefix(old) if name == old or name.startswith(f"{old}/") else name


def with_scheme(uri_or_path: str) -> str:
    """Return `uri_or_path` as a full URI: a plain path, or one below `~`, becomes an absolute `file://` one."""
    return uri_or_path if _SCHEME.match(uri_or_path) else from_path(local_file(uri_or_path))


def clean(uri: str) -> str:
    """Return `uri` as valid text, without query, fragment and user-info; file paths keep `?` and `#`.

    Bytes of a file name that are not UTF-8 (lone surrogates in Python) become U+FFFD. Each part of a
    chained URI (`simplecache::s3://…`) is treated alike, as are `//host/…` and `s3:/…`. The container of
    `abfss://container@account.dfs.core.windows.net/path` is kept.
    """
    if not uri.isascii():
        uri = as_text(uri)
    if not any(mark in uri for mark in "@?#"):
        return uri
    stripped = uri.lstrip()
    if stripped.partition("://")[0].lower() in FILE_SCHEMES:
        return uri
    if "::" not in uri:
        return _clean_part(stripped) if _is_remote(stripped) else uri
    parts = []
    for part in stripped.split("::"):
        parts.append(_clean_part(part))
        if parts[-1] != part and ("?" in part or "#" in part):  # what follows may be the rest of a query
            break
    return "::".join(parts)


def _is_remote(uri: str) -> bool:
    return uri.startswith("//") or _SCHEME.match(uri) is not None or _ONE_SLASH.match(uri) is not None


def _clean_part(uri: str) -> str:
    if uri.partition("://")[0].lower() in FILE_SCHEMES:
        return uri
    return re.split("[?#]", _USERINFO.sub(r"\1", uri), maxsplit=1)[0]


def as_text(name: str) -> str:
    """Return `name` as text that can be encoded: bytes that were not UTF-8 become U+FFFD."""
    return _SURROGATE.sub("\ufffd", name)
