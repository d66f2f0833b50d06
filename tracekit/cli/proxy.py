"""`tracekit proxy`: record the requests of S3 and Azure clients of any language."""

from __future__ import annotations

import json as json_format
from typing import Annotated, Any

import typer

from tracekit.capture.options import PROXY
from tracekit.capture.proxy.run import Proxy, ProxyResult, proxy
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, examples
from tracekit.cli.flags import with_flags
from tracekit.cli.options import takes
from tracekit.cli.until import until_ended, wait_for
from tracekit.reporting.table import counted

__all__ = ["register"]

_EXAMPLES = examples(
    "tracekit proxy s3://bucket/train -o run.trace --port 9900",
    "tracekit proxy --upstream http://minio:9000 -o run.trace",
    "tracekit proxy az://container -o run.trace  # the account of AZURE_STORAGE_CONNECTION_STRING",
    "AWS_ENDPOINT_URL=http://127.0.0.1:9900 AWS_ALLOW_HTTP=true python read_with_polars.py  # in another shell",
)


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("proxy", epilog=_EXAMPLES)(_proxy)


@takes(PROXY)
def _proxy(
    out: Annotated[str, typer.Option("-o", "--out", metavar="TRACE", help="Write the trace here.")],
    uri: Annotated[
        str,
        typer.Argument(
            metavar="[URI]", help="Record what lies below it: s3://, s3://bucket, az://container or a prefix."
        ),
    ] = "s3://",
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Record the requests of S3 or Azure clients by a reverse proxy on the loopback, until Ctrl-C or SIGTERM."""
    with until_ended() as ended:
        running = proxy(out, uri, **options)
        _say_where(running, json=json)
        wait_for(ended)
        result = running.close()
    _say_what(result, json=json)


def _say_where(running: Proxy, *, json: bool) -> None:
    if json:
        facts = {
            "endpoint": running.endpoint,
            "upstream": running.upstream,
            "path": str(running.path),
            "environment": running.environment(shown=True),
            "note": running.note,
        }
        typer.echo(json_format.dumps(facts))
        return
    say = screen.console.print
    say(f"requests to {running.endpoint} go to {running.upstream}", soft_wrap=True)
    for name, value in running.environment(shown=True).items():
        say(f"export {name}={value}", soft_wrap=True)
    if running.note:
        say(with_flags(running.note), soft_wrap=True)
    say("Ctrl-C ends the proxy", soft_wrap=True)


def _say_what(result: ProxyResult, *, json: bool) -> None:
    if json:
        typer.echo(json_format.dumps(result.to_dict()))
    else:
        what = f"{counted(result.requests, 'request')}, {counted(result.ops, 'op')} recorded in {result.path}"
        screen.console.print(what, soft_wrap=True)
