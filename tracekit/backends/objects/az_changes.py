"""Changes of one Azure container: blocks and block lists, copies, deletions.

They go through the native client whichever client reads: obstore has no calls for single blocks.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Sequence
from urllib.parse import quote

from tracekit.backends.objects.azure_account import AzureSettings, container_in
from tracekit.backends.objects.failures import Failure
from tracekit.backends.objects.native.client import NativeClient

__all__ = ["AzChanges"]

_COPY_POLL_S = 0.05
_STATE = "x-ms-copy-status"


class AzChanges:
    """One container."""

    errors = NativeClient.errors

    def __init__(self, client: NativeClient, settings: AzureSettings) -> None:
        self._client = client
        self._settings = settings

    def relocate(self, region: str) -> bool:
        """Return False: Azure has no regions."""
        return False

    def begin(self, key: str) -> str:
        """Choose a prefix for block names: an upload begins with its first block."""
        return secrets.token_hex(4)

    def part(self, key: str, upload: str, number: int, data: memoryview) -> str:
        """Stage a block."""
        name = base64.b64encode(f"{upload}{number:08d}".encode()).decode()
        self._client.request("PUT", key, query={"comp": "block", "blockid": name}, body=data)
        return name

    def complete(self, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> None:
        """Commit the block list."""
        listed = "".join(f"<Latest>{name}</Latest>" for _, name in parts)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
        self._client.request("PUT", key, query={"comp": "blocklist"}, body=body)

    def abort(self, key: str, upload: str) -> None:
        """Do nothing: Azure drops blocks that were not committed, after a week."""

    def copy(self, container: str, key: str, to_key: str) -> None:
        """Start a copy and wait for its end."""
        source = self._url(container, key)
        answer = self._client.request("PUT", to_key, headers={"x-ms-copy-source": source})[0]
        while answer.headers.get(_STATE) == "pending":
            time.sleep(_COPY_POLL_S)
            answer = self._client.request("HEAD", to_key)[0]
        if answer.headers.get(_STATE) != "success":
            raise OSError(f"the copy ended as {answer.headers.get(_STATE)}")

    def delete(self, key: str) -> None:
        self._client.request("DELETE", key)

    def failure(self, error: Exception) -> Failure:
        return self._client.failure(error)

    def close(self) -> None:
        self._client.close()

    def _url(self, container: str, key: str) -> str:
        """The address of an object, as the store itself reads it."""
        path = quote(
            f"{container_in(container, self._settings)}/{key}", safe="/-_.~", errors="surrogateescape"
        )
        sas = f"?{self._settings.secret}" if self._settings.kind == "sas" else ""
        return f"{self._settings.endpoint.rstrip('/')}/{path}{sas}"
