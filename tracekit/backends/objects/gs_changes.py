"""Changes of one bucket of Google Cloud Storage: uploads in parts as S3 has them, copies as rewrites."""

from __future__ import annotations

import json

from tracekit.backends.objects.native.client import NativeClient
from tracekit.backends.objects.native.gs import COPY_SOURCE
from tracekit.backends.objects.s3_changes import S3Changes

__all__ = ["gs_changes"]


def gs_changes(client: NativeClient) -> S3Changes:
    """Return the changes of the client's bucket: the XML API has the uploads of S3."""
    return S3Changes(client, _copy)


def _copy(client: NativeClient, container: str, key: str, to_key: str) -> None:
    """Have the store copy an object; a large one takes several requests."""
    token = ""
    while True:
        query = {"rewriteToken": token} if token else {}
        source = {COPY_SOURCE: f"{container}/{key}"}
        told = json.loads(client.request("POST", to_key, query=query, headers=source)[1])
        if told.get("done"):
            return
        if told.get("rewriteToken", token) == token:
            raise ValueError("the store did not say how the copy goes on")
        token = str(told["rewriteToken"])
