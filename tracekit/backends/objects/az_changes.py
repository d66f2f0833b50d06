"""Changes of one Azure container: blocks and block lists, copies, deletions.

They go through the native client whichever client reads: obstore has no calls for single blocks.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Sequence
from urllib.parse import quote

from tracekit.backends.objects.azure_account import AzureSettings, container_in
from tracekit.backends.objects.failures import NO_STORE, Failure, ForeignAnswer, check_taken
from tracekit.backends.objects.limits import CopyLimit
from tracekit.backends.objects.native.checks import HttpFailure
from tracekit.backends.objects.native.client import NativeClient
from tracekit.backends.objects.native.endpoint import Broken, too_long
from tracekit.backends.objects.native.wire import Answer
from tracekit.errors import ErrorClass

__all__ = ["AzChanges"]

_COPY_POLL_S = 0.05
_ID, _STATE, _SOURCE = "x-ms-copy-id", "x-ms-copy-status", "x-ms-copy-source"
_PROGRESS = "x-ms-copy-progress"


class AzChanges:
    """One container. A copy ends by its limit, with all questions about it; `count` counts these."""

    errors = NativeClient.errors

    def __init__(
        self,
        client: NativeClient,
        settings: AzureSettings,
        total_timeout_s: float | None,
        count: Callable[[str], None],
    ) -> None:
        self._client = client
        self._settings = settings
        self._total_s = total_timeout_s
        self._count = count

    def relocate(self, region: str) -> bool:
        """Return False: Azure has no regions."""
        return False

    def begin(self, key: str) -> str:
        """Choose a prefix for block names: an upload begins with its first block."""
        return secrets.token_hex(4)

    def part(self, key: str, upload: str, number: int, data: memoryview) -> str:
        """Stage a block."""
        name = base64.b64encode(f"{upload}{number:08d}".encode()).decode()
        self._put_block(key, {"comp": "block", "blockid": name}, data)
        return name

    def complete(self, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> None:
        """Commit the block list."""
        listed = "".join(f"<Latest>{name}</Latest>" for _, name in parts)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
        self._put_block(key, {"comp": "blocklist"}, body)

    def abort(self, key: str, upload: str) -> None:
        """Do nothing: Azure drops blocks that were not committed, after a week."""

    def copy(self, container: str, key: str, to_key: str) -> None:
        """Start a copy and wait for its end; one that is not done in time is aborted."""
        limit = CopyLimit(self._total_s)
        answer = self._begun(container, key, to_key)
        ours = answer.headers.get(_ID, "")
        while answer.headers.get(_STATE) == "pending":
            if limit.over(answer.headers.get(_PROGRESS, "")):
                answer = self._ended(to_key, ours, limit.broken)
                break
            time.sleep(_COPY_POLL_S)
            answer = self._asked(to_key, ours)
        if _STATE not in answer.headers:
            raise ForeignAnswer(NO_STORE)
        if answer.headers[_STATE] != "success":
            why = answer.headers.get(f"{_STATE}-description", "no reason given")
            raise OSError(f"the copy ended as {answer.headers[_STATE]}: {why}")

    def delete(self, key: str) -> None:
        self._client.request("DELETE", key)

    def failure(self, error: Exception) -> Failure:
        return self._client.failure(error)

    def close(self) -> None:
        self._client.close()

    def _put_block(self, key: str, query: dict[str, str], body: bytes | memoryview) -> None:
        _, told = self._client.request("PUT", key, query=query, body=body)
        check_taken(told)

    def _begun(self, container: str, key: str, to_key: str) -> Answer:
        """Start a copy; a pending one of the same object is that of an earlier try, whose answer was lost."""
        source = self._url(container, key)
        try:
            return self._client.request("PUT", to_key, headers={_SOURCE: source})[0]
        except HttpFailure as error:
            if error.answer.headers.get("x-ms-error-code") != "PendingCopyOperation":
                raise
            answer = self._asked(to_key)
            if answer.headers.get(_SOURCE, "").partition("?")[0] != source.partition("?")[0]:
                raise
            return answer

    def _asked(self, to_key: str, copy_id: str | None = None) -> Answer:
        """Ask how a copy goes. Raises Broken if the object is of another one."""
        self._count("heads")
        answer = self._client.request("HEAD", to_key)[0]
        if copy_id is not None and answer.headers.get(_ID, "") != copy_id:
            raise Broken(ErrorClass.CONFLICT, "another request replaced the object of the copy", False)
        return answer

    def _ended(self, to_key: str, copy_id: str, broken: str) -> Answer:
        """Abort a copy. Raises Broken, unless it ended before; then its answer is returned."""
        self._count("aborts")
        query = {"comp": "copy", "copyid": copy_id}
        try:
            self._client.request("PUT", to_key, query=query, headers={"x-ms-copy-action": "abort"})
        except self.errors as error:
            if isinstance(error, HttpFailure) and error.answer.status == 409:
                answer = self._asked(to_key, copy_id)
                if answer.headers.get(_STATE) != "pending":
                    return answer
            why = self._client.failure(error).detail
            raise too_long(f"{broken} and goes on: {why}") from None
        raise too_long(f"{broken} and was aborted")

    def _url(self, container: str, key: str) -> str:
        """The address of an object, as the store itself reads it."""
        path = quote(
            f"{container_in(container, self._settings)}/{key}", safe="/-_.~", errors="surrogateescape"
        )
        sas = f"?{self._settings.secret}" if self._settings.kind == "sas" else ""
        return f"{self._settings.endpoint.rstrip('/')}/{path}{sas}"
