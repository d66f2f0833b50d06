"""Changes of one Azure container, through azure-storage-blob: blocks and block lists, copies, deletions.

The native client and obstore have no calls for single blocks.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Sequence
from functools import partial

from azure.storage.blob import BlobBlock, BlobClient

from tracekit.backends.objects.azure_account import AzureSettings
from tracekit.backends.objects.azure_sdk_client import AzureSdkClient
from tracekit.backends.objects.failures import Failure
from tracekit.backends.objects.options import Transport

__all__ = ["AzChanges"]

_COPY_POLL_S = 0.05


class AzChanges:
    """One container."""

    errors = AzureSdkClient.errors

    def __init__(self, container: str, settings: AzureSettings, options: Transport) -> None:
        self._connect = partial(AzureSdkClient, settings=settings, options=options)
        self._container = container
        self._sdk = self._connect(container)

    def relocate(self, region: str) -> bool:
        """Return False: the region is to be given."""
        return False

    def begin(self, key: str) -> str:
        """Choose a prefix for block names: an upload begins with its first block."""
        return secrets.token_hex(4)

    def part(self, key: str, upload: str, number: int, data: memoryview) -> str:
        """Stage a block."""
        name = base64.b64encode(f"{upload}{number:08d}".encode()).decode()
        self._blob(key).stage_block(name, bytes(data), len(data))
        return name

    def complete(self, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> None:
        """Commit the block list."""
        self._blob(key).commit_block_list([BlobBlock(block_id=name) for _, name in parts])

    def abort(self, key: str, upload: str) -> None:
        """Do nothing: Azure drops blocks that were not committed, after a week."""

    def copy(self, key: str, to_container: str, to_key: str) -> None:
        """Start a copy and wait for its end."""
        sdk = self._sdk if to_container == self._container else self._connect(to_container)
        target = sdk.blob(to_key)
        state: object = target.start_copy_from_url(self._blob(key).url)["copy_status"]
        while state == "pending":
            time.sleep(_COPY_POLL_S)
            state = target.get_blob_properties().copy.status
        if state != "success":
            raise OSError(f"the copy ended as {state}")

    def delete(self, key: str) -> None:
        self._blob(key).delete_blob()

    def failure(self, error: Exception) -> Failure:
        return self._sdk.failure(error)

    def close(self) -> None:
        self._sdk.close()

    def _blob(self, key: str) -> BlobClient:
        return self._sdk.blob(key)
