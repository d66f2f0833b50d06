"""URIs as ops carry them: scheme, object, and never a secret.

`clean` is applied to every URI before it is recorded, `redact` to every text that
may quote one (errors, logs). File paths are taken raw, without percent-encoding,
because POSIX allows `?`, `#` and `%` in names; every other scheme loses its query,
fragment and user-info.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tracekit.errors import UsageError

__all__ = ["FILE_SCHEMES", "as_text", "clean", "from_path", "redact", "scheme_of", "to_path", "with_scheme"]

FILE_SCHEMES = ("file", "direct")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SURROGATE = re.compile("[\ud800-\udfff]")
_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")
_URL_IN_TEXT = re.compile(
    r"(?!(?:file|direct)://)\b([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/?#'\"]*@)?([^\s?#'\"<>]*)[?#][^\s'\"<>]*"
)
_USERINFO_IN_TEXT = re.compile(r"(?!(?:file|direct)://)\b([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#'\"]*@")
_SECRET_PAIR = re.compile(
    r"(?i)\b(sig|signature|x-amz-signature|x-amz-credential|x-amz-security-token|awsaccesskeyid|accountkey|"
    r"sharedaccesssignature|(?:aws_)?secret_?access_?key|(?:aws_)?session_?token|secret_?key|client_?secret|secret|"
    r"account_key|sas_token|password|token|authorization)"
    r"(\"?\s*[=:]\s*\"?)(?:(?:bearer|sharedkey|aws4-hmac-sha256)\s+)?[^\s&;,'\"<>]+"
)


def scheme_of(uri: str) -> str:
    """The scheme of `uri` in lower case, or `file` for a plain path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else "file"


def from_path(path: str | os.PathLike[str], scheme: str = "file") -> str:
    """`file:///abs/path` of a path; the path is made absolute, links are kept."""
    return f"{scheme}://{os.path.abspath(os.fspath(path))}"


def to_path(uri: str) -> Path:
    """The local path of a `file://` or `direct://` URI, or of a plain path.

    Raises UsageError for another scheme, a URI with a host part, or a NUL, which no name has.
    """
    if "\0" in uri:
        raise UsageError(f"{uri!r} names no local file", "a file's name holds no NUL")
    match = _SCHEME.match(uri)
    if match is None:
        return Path(uri)
    rest = uri[match.end() :]
    if match[1].lower() not in FILE_SCHEMES or not rest.startswith("/"):
        raise UsageError(f"{clean(uri)} names no local file", "write file:///absolute/path")
    return Path(rest)


def with_scheme(uri_or_path: str) -> str:
    """`uri_or_path` as a full URI: a plain path becomes an absolute `file://` one."""
    return uri_or_path if _SCHEME.match(uri_or_path) else from_path(uri_or_path)


def clean(uri: str) -> str:
    """`uri` without query, fragment or user-info, as valid text; file paths are otherwise unchanged.

    Bytes of a file's name that are no UTF-8 (lone surrogates to Python) become U+FFFD.
    """
    if not uri.isascii():
        uri = as_text(uri)
    if scheme_of(uri) in FILE_SCHEMES:
        return uri
    uri = _USERINFO.sub(r"\1", uri)
    for mark in ("?", "#"):
        uri = uri.partition(mark)[0]
    return uri


def as_text(name: str) -> str:
    """`name` as text that can be written: what was no UTF-8 is U+FFFD."""
    return _SURROGATE.sub("\ufffd", name)


def redact(text: str) -> str:
    """`text` with every URL's query and user-info, and every `key=secret` pair, removed."""
    text = _URL_IN_TEXT.sub(r"\1\2", text)
    text = _USERINFO_IN_TEXT.sub(r"\1", text)
    return _SECRET_PAIR.sub(r"\1\2***", text)
