"""`tracekit serve`: the page over a trace, with a query box."""

from __future__ import annotations

import json as json_format
from typing import Annotated

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, MemoryOption, ThreadsOption, examples
from tracekit.cli.arguments import traces as complete
from tracekit.cli.until import until_ended, wait_for

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "serve",
        epilog=examples(
            "tracekit serve run.trace  # open the address that it prints",
            "tracekit serve run.trace again.trace --port 8080",
            "ssh -L 8080:127.0.0.1:8080 HOST tracekit serve run.trace --port 8080  # from another machine",
        ),
    )(_serve)


def _serve(
    traces: Annotated[
        list[str],
        typer.Argument(
            metavar="TRACE...", help="One or more traces; each has a page.", autocompletion=complete
        ),
    ],
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port on the loopback; 0 takes a free one.")
    ] = 0,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
    json: JsonOption = False,
) -> None:
    """Serve the page of each trace with a query box, on the loopback alone, until Ctrl-C or SIGTERM."""
    with until_ended() as ended, tracekit.serve(traces, port=port, threads=threads, memory=memory) as server:
        if json:
            typer.echo(json_format.dumps({"url": server.url, "port": server.port}))
        else:
            screen.say(server.url)
            screen.note("open this address in a browser on this machine; Ctrl-C ends the server")
        wait_for(ended)
