"""`tracekit materialize`: make the objects that a trace reads, where they are lacking."""

from __future__ import annotations

from typing import Annotated

import typer

from tracekit.cli import screen
from tracekit.cli.options import (
    AccountOption,
    AnonymousOption,
    ClientOption,
    EndpointOption,
    JsonOption,
    RegionOption,
    RetriesOption,
    TimeoutOption,
    TraceArgument,
    examples,
)
from tracekit.replayer.materialize import materialize
from tracekit.store.reader import open_reader
from tracekit.units import format_count, format_size

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "materialize",
        epilog=examples("tracekit materialize run.trace --map file:///lustre/data=file:///mnt/nvme/data"),
    )(_materialize)


def _materialize(
    trace: TraceArgument,
    map_: Annotated[
        list[str],
        typer.Option("--map", metavar="FROM=TO", help="Where recorded URIs are to be made. Repeatable."),
    ],
    seed: Annotated[
        int | None,
        typer.Option(
            help="Fill files with seeded random bytes; else local files are sparse (zeros, no space)."
        ),
    ] = None,
    client: ClientOption = None,
    endpoint: EndpointOption = None,
    region: RegionOption = None,
    account: AccountOption = None,
    anonymous: AnonymousOption = None,
    timeout_s: TimeoutOption = None,
    retries: RetriesOption = None,
    json: JsonOption = False,
) -> None:
    """Make objects of the sizes that a trace reads. What is there and large enough is kept."""
    given = {
        "client": client, "endpoint": endpoint, "region": region, "account": account, "anonymous": anonymous,
        "timeout_s": timeout_s, "retries": retries,
    }  # fmt: skip
    store_options = {name: value for name, value in given.items() if value is not None}
    with screen.progress("materialize") as advance:
        done = materialize(open_reader(trace), map_, seed=seed, store_options=store_options, progress=advance)
    if json:
        screen.emit_json(done.to_dict())
    else:
        screen.console.print(
            f"made {format_count(done.made)} objects of {format_size(done.bytes)}, kept {format_count(done.kept)}"
        )
