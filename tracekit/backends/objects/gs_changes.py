"""Changes of one bucket of Google Cloud Storage: uploads in parts as S3 has them, copies as rewrites.

Emulators have the JSON API alone. There, the parts of an upload are objects beside its own, which are composed.
"""

from __future__ import annotations

import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from tracekit.backends.objects.changing import ObjectChanges
from tracekit.backends.objects.failures import NO_STORE, Failure, ForeignAnswer
from tracekit.backends.objects.limits import CopyLimit
from tracekit.backends.objects.native.client import NativeClient
from tracekit.backends.objects.native.endpoint import too_long
from tracekit.backends.objects.native.gs import COMPOSED, COPY_SOURCE
from tracekit.backends.objects.s3_changes import Copy, S3Changes

__all__ = ["gs_changes"]

_AT_ONCE = 32
"""How many objects one request can compose."""


def gs_changes(
    client: NativeClient, count: Callable[[str], None], *, emulated: bool, total_timeout_s: float | None
) -> ObjectChanges:
    """Return the changes of the client's bucket, at Google or (`emulated`) anywhere else; `count` counts requests."""
    copy = partial(_copy, count, total_timeout_s)
    return _Emulated(client, copy) if emulated else S3Changes(client, copy)


def _copy(
    count: Callable[[str], None],
    total_timeout_s: float | None,
    client: NativeClient,
    container: str,
    key: str,
    to_key: str,
) -> None:
    """Have the store copy an object; a large one takes several requests, the first of which is counted already."""
    limit = CopyLimit(total_timeout_s)
    token = ""
    while True:
        query = {"rewriteToken": token} if token else {}
        source = {COPY_SOURCE: f"{container}/{key}"}
        told = _parsed(client.request("POST", to_key, query=query, headers=source)[1])
        if told.get("done"):
            return
        if told.get("rewriteToken", token) == token:
            raise ValueError("the store did not say how the copy goes on")
        if limit.over(str(told.get("totalBytesRewritten", ""))):
            raise too_long(limit.broken)
        token = str(told["rewriteToken"])
        count("copies")


def _parsed(text: bytes) -> dict[str, object]:
    try:
        told = json.loads(text)
    except ValueError:
        raise ForeignAnswer(NO_STORE) from None
    if not isinstance(told, dict):
        raise ForeignAnswer(NO_STORE)
    return told


class _Emulated:
    """One bucket of an emulator."""

    errors = NativeClient.errors

    def __init__(self, client: NativeClient, copy: Copy) -> None:
        self._client = client
        self._copy = copy
        self._beside: defaultdict[str, set[str]] = defaultdict(set)
        """Of each upload, the objects to remove at its end."""

    def relocate(self, region: str) -> bool:
        return False

    def begin(self, key: str) -> str:
        return secrets.token_hex(8)

    def part(self, key: str, upload: str, number: int, data: memoryview) -> str:
        name = f"{key}.{upload}.{number:05}"
        self._client.put(name, data, True)
        self._beside[upload].add(name)
        return name

    def complete(self, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> None:
        names = [name for _, name in parts]
        for joint in range(len(names)):
            if len(names) <= _AT_ONCE:
                break
            joined = f"{key}.{upload}.to-{joint}"
            self._compose(names[:_AT_ONCE], joined)
            self._beside[upload].add(joined)
            names = [joined, *names[_AT_ONCE:]]
        self._compose(names, key)
        self.abort(key, upload)

    def abort(self, key: str, upload: str) -> None:
        for name in self._beside.pop(upload, ()):
            self._client.remove(name)

    def copy(self, container: str, key: str, to_key: str) -> None:
        self._copy(self._client, container, key, to_key)

    def delete(self, key: str) -> None:
        self._client.remove(key)

    def failure(self, error: Exception) -> Failure:
        return self._client.failure(error)

    def close(self) -> None:
        self._client.close()

    def _compose(self, names: Sequence[str], key: str) -> None:
        wanted = {"sourceObjects": [{"name": name} for name in names], "destination": {"name": key}}
        body = json.dumps(wanted).encode()
        self._client.request(
            "POST", key, headers={COMPOSED: "true", "content-type": "application/json"}, body=body
        )
