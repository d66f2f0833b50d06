"""The command line as a whole: which verbs there are, and how they end.

Each verb is a module with `register(app)`. Here every error becomes one line on stderr
and an exit code (0 done, 1 a check failed, 2 bad usage or input, 130 interrupted), and no
traceback reaches a user unless TRACEKIT_DEBUG is set.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from tracekit import __version__
from tracekit.errors import TracekitError
from tracekit.uri import redact

__all__ = ["app", "main", "run"]

VERBS = (
    "demo",
    "record",
    "capture",
    "importing",
    "info",
    "stats",
    "replay",
    "materialize",
    "compare",
    "report",
    "check",
)
"""Modules of `tracekit.cli` that register verbs, in the order of `--help`."""

app = typer.Typer(
    name="tracekit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Record how a loader really reads storage, understand it with SQL, re-drive it faithfully.",
    epilog="Start with: [bold]tracekit demo[/bold]. A trace is a directory of Parquet files; see docs/trace.md.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tracekit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Options of no verb in particular."""


for _verb in VERBS:
    importlib.import_module(f"tracekit.cli.{_verb}").register(app)


def run(arguments: list[str] | None = None) -> int:
    """Run one command line; the exit code. Prints at most one line about what went wrong."""
    try:
        code = app(args=arguments, prog_name="tracekit", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except TracekitError as error:
        return _fail(str(error), error.exit_code)
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
            return 2
        return _fail(f"{error.format_message()} (see tracekit --help)", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 2)
    except Exception as error:
        if str(error) == "Query interrupted":  # what DuckDB makes of Ctrl-C
            return _fail("interrupted", 130)
        if os.environ.get("TRACEKIT_DEBUG"):
            raise
        return _fail(
            f"internal error: {type(error).__name__}: {error} (a defect; please report it with TRACEKIT_DEBUG=1)",
            2,
        )


def main() -> None:
    """The console script."""
    sys.exit(run())


def _fail(message: str, code: int) -> int:
    line = " ".join(redact(message).split())
    sys.stderr.write(f"tracekit: {line}\n")
    return code
