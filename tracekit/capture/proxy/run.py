"""Starts and stops the recording proxy: `tracekit.proxy`, and `capture` with `proxy=True`."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tracekit.backends.objects.aws import AwsSettings, resolve
from tracekit.backends.objects.azure_account import AzureSettings
from tracekit.backends.objects.azure_account import resolve as resolve_azure
from tracekit.backends.objects.options import check_endpoint
from tracekit.backends.objects.uri import join, split
from tracekit.capture.filters import PathFilter
from tracekit.capture.options import PROXY
from tracekit.capture.proxy.exchange import Exchanges, Sink
from tracekit.errors import UsageError
from tracekit.extras import require
from tracekit.keywords import Count, Flag
from tracekit.recorder import Recorder
from tracekit.store.locate import local_path
from tracekit.store.target import claiming
from tracekit.uri import clean, scheme_of
from tracekit.validation import parse_all

if TYPE_CHECKING:
    from tracekit.capture.proxy.server import Server

__all__ = ["Proxy", "ProxyResult", "RunningProxy", "azure_settings", "proxy", "settings_of"]

_ANY = "s3://"
_AZURE = ("az", "azure", "abfs", "abfss")


@dataclass(frozen=True, slots=True)
class ProxyResult:
    """What a proxy recorded: `requests` that it passed on, and `ops`, the rows in the trace `path`."""

    path: Path
    requests: int
    ops: int

    def to_dict(self) -> dict[str, Any]:
        return {"path": str(self.path), "requests": self.requests, "ops": self.ops}


class RunningProxy:
    """A proxy that serves in a thread of its own, at `endpoint`, until it is closed."""

    def __init__(
        self,
        settings: AwsSettings | AzureSettings,
        sink: Sink,
        kept: PathFilter,
        *,
        within: str = "",
        port: int = 0,
        ca_bundle: str | None = None,
    ) -> None:
        require("aiohttp", extra="proxy")
        from tracekit.capture.proxy.azure import AzureUpstream
        from tracekit.capture.proxy.server import Server
        from tracekit.capture.proxy.upstream import S3Upstream, Upstream

        upstream: Upstream = (
            AzureUpstream(settings) if isinstance(settings, AzureSettings) else S3Upstream(settings)
        )
        self._store = upstream
        self.upstream = upstream.shown
        self.unsigned_because = upstream.unsigned_because
        """Why requests are not signed again; empty if they are."""
        self.exchanges = Exchanges(sink, lambda uri: uri.startswith(within) and kept.admits(uri))
        self._server: Server = Server(upstream, self.exchanges, ca_bundle)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tracekit-proxy", daemon=True)
        self._thread.start()
        self._closed = False
        try:
            self.port = asyncio.run_coroutine_threadsafe(self._server.start(port), self._loop).result()
        except BaseException:
            self._end_loop()
            raise

    @property
    def endpoint(self) -> str:
        """The URL that clients are to use as the endpoint of the store."""
        return f"http://127.0.0.1:{self.port}{self._store.path}"

    def environment(self, *, shown: bool = False) -> dict[str, str]:
        """The environment variables that lead clients to the proxy; if `shown`, only those without a credential."""
        variables = self._store.shown_environment if shown else self._store.environment
        found = variables(self.endpoint)
        for name in ("NO_PROXY", "no_proxy"):
            found[name] = ",".join(part for part in (os.environ.get(name), "127.0.0.1") if part)
        return found

    def close(self) -> None:
        """End the requests under way, and serve no more."""
        if not self._closed:
            self._closed = True
            asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result()
            self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Proxy:
    """A recording proxy, as `tracekit.proxy` starts it. As a context manager, it is closed on exit."""

    def __init__(self, running: RunningProxy, recorder: Recorder, path: Path) -> None:
        self._running, self._recorder = running, recorder
        self.path = path

    @property
    def endpoint(self) -> str:
        """The URL that clients are to use as the endpoint of the store, such as http://127.0.0.1:9000."""
        return self._running.endpoint

    @property
    def upstream(self) -> str:
        """The store that requests are sent to."""
        return self._running.upstream

    @property
    def note(self) -> str:
        """What the user of the proxy should know, if anything."""
        why = self._running.unsigned_because
        return f"requests are passed on as they are signed: {why}" if why else ""

    def environment(self, *, shown: bool = False) -> dict[str, str]:
        """Return the environment variables that lead clients to the proxy; if `shown`, only those without a credential."""
        return self._running.environment(shown=shown)

    def close(self) -> ProxyResult:
        """End the requests under way, complete the trace, and return what was recorded."""
        self._running.close()
        self._recorder.close()
        return ProxyResult(self.path, self._running.exchanges.requests, self._running.exchanges.rows)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def proxy(
    out: str | os.PathLike[str],
    uri: str = _ANY,
    *,
    upstream: str | None = None,
    port: Count = 0,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    region: str | None = None,
    aws_profile: str | None = None,
    account: str | None = None,
    anonymous: Flag = False,
    ca_bundle: str | None = None,
    overwrite: Flag = False,
) -> Proxy:
    """Start a reverse proxy for S3 or Azure on the loopback, and record each request that it passes on in the trace `out`.

    Point a client's endpoint at `endpoint` of the result, or run a program under its `environment()`. The client may
    be in any language. Requests go to `upstream`, by default the endpoint that the environment or the
    profile names, else AWS, or the Azure account that the environment names (`uri` such as `az://`). What lies below `uri` is recorded; everything is passed on.

    A request that is signed with the user's own credentials, as AWS tools find them, is signed again for the store. One
    without a signature stays without, and one that others signed is passed on as it is. The proxy serves until `close`.

    Raises UsageError for an invalid option, an existing `out` or a port that is taken.
    """
    options = parse_all(
        PROXY,
        {
            "upstream": upstream,
            "port": port,
            "include": include,
            "exclude": exclude,
            "region": region,
            "aws_profile": aws_profile,
            "account": account,
            "anonymous": anonymous,
            "ca_bundle": ca_bundle,
            "overwrite": overwrite,
        },
    )
    target = Path(os.path.abspath(local_path(out)))
    settings = azure_settings(options) if scheme_of(uri) in _AZURE else settings_of(options)
    within = _prefix(uri)
    kept = PathFilter(options["include"], options["exclude"])
    upstream = settings.endpoint if isinstance(settings, AzureSettings) else settings.shown_endpoint
    described: dict[str, Any] = {"method": "proxy", "uri": within, "upstream": upstream}
    described |= {name: list(options[name]) for name in ("include", "exclude")}
    with claiming(target, overwrite=options["overwrite"]):
        recorder = Recorder(target, source="capture", options=described)
        try:
            running = RunningProxy(
                settings,
                recorder,
                kept,
                within=within,
                port=options["port"],
                ca_bundle=options["ca_bundle"],
            )
        except BaseException:
            recorder.close()
            raise
    return Proxy(running, recorder, target)


def settings_of(options: Mapping[str, Any]) -> AwsSettings:
    """Return the store that the options, and the user's environment and profile, name."""
    endpoint = options["upstream"]
    if endpoint is not None:
        endpoint = check_endpoint("s3", endpoint, name="upstream")
    found = resolve(
        endpoint,
        options["region"],
        options["aws_profile"],
        options["anonymous"],
        "path",
        options["ca_bundle"],
    )
    if len(found.endpoints) > 1:
        raise UsageError(
            f"the proxy sends requests to one endpoint, not {len(found.endpoints)}", "give upstream="
        )
    return found


def azure_settings(options: Mapping[str, Any]) -> AzureSettings:
    """Return the account that the options and the user's environment name."""
    endpoint = options["upstream"]
    if endpoint is not None:
        endpoint = check_endpoint("az", endpoint, name="upstream")
    return resolve_azure(endpoint, options["account"], options["anonymous"])


def _prefix(uri: str) -> str:
    """The beginning of the URIs that are recorded."""
    scheme = scheme_of(uri)
    if scheme != "s3" and scheme not in _AZURE:
        raise UsageError(
            f"{clean(uri)}: the proxy understands S3 and Azure only",
            "give s3://, s3://bucket/prefix, az:// or az://container/prefix",
        )
    known = "s3" if scheme == "s3" else "az"
    if uri.rstrip("/") == f"{scheme}:":
        return f"{known}://"
    container, key = split(uri)
    return join(known, container.partition("@")[0], key)
