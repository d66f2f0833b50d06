"""The command line as a whole: which verbs there are, and how they end.

Each verb is a module with `register(app)`. Here every error becomes one line on stderr
and an exit code (0 done, 1 a check failed, 2 bad usage or input, 130 interrupted, 143 terminated), and no
traceback reaches a user unless TRACEKIT_DEBUG is set.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import duckdb
import typer
import typer.main
from typer.core import TyperGroup
from typer.exceptions import TyperException

from tracekit.cli.flags import spellings, with_flags
from tracekit.errors import TracekitError
from tracekit.uri import redact
from tracekit.version import __version__

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


_RECORDING = (["record"], ["replay"], ["demo"])


class _Interrupted(Exception):
    """An interrupt that no verb took care of."""


class _Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """As Typer's own, which would end an interrupted verb without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted from error
        except Exception as error:
            if _is_interrupt(error):
                raise _Interrupted from error
            raise


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether it, or what caused it, is what DuckDB makes of Ctrl-C: while it runs, or while it asks us for rows."""
    while error is not None:
        said = str(error)
        if isinstance(error, duckdb.InterruptException) or said == "Query interrupted":
            return True
        if isinstance(error, duckdb.InvalidInputException) and "failed: KeyboardInterrupt" in said:
            return True
        error = error.__cause__
    return False


app = typer.Typer(
    name="tracekit",
    cls=_Verbs,
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
    """Run one command line; the exit code. Prints at most one line about what went wrong.

    A request to end (SIGTERM, SIGHUP) ends a verb that records as Ctrl-C does, with 128 + its number
    as the code. It ends any other verb at once: there is nothing to finish.
    """
    verb = (sys.argv[1:] if arguments is None else arguments)[:1]
    if verb not in _RECORDING:
        return _run(arguments)
    with _ending_on_request() as asked:
        code = _run(arguments)
    return 128 + asked[0] if asked and code in (0, 130) else code


def _run(arguments: list[str] | None) -> int:
    try:
        code = app(args=arguments, prog_name="tracekit", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except TracekitError as error:
        return _fail(with_flags(str(error), _spellings(arguments)), error.exit_code)
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
            return 2
        return _fail(f"{error.format_message()} (see tracekit --help)", 2)
    except (KeyboardInterrupt, _Interrupted, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        return _nobody_reads()
    except SystemExit as left:  # so Typer takes a pipe whose reader has gone
        if isinstance(left.__context__, BrokenPipeError):
            return _nobody_reads()
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 2)
    except Exception as error:
        if os.environ.get("TRACEKIT_DEBUG"):
            raise
        return _fail(
            f"internal error: {type(error).__name__}: {error} (a defect; please report it with TRACEKIT_DEBUG=1)",
            2,
        )


def _spellings(arguments: list[str] | None) -> dict[str, tuple[str, str]]:
    """Return how the verb of this command line spells the parameters of its public function."""
    words = sys.argv[1:] if arguments is None else arguments
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    verb = next((commands[word] for word in words if word in commands), None)
    return {} if verb is None else spellings(verb)


def main() -> None:
    """The console script."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us: what is said goes nowhere
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - for as long as the process lives
    sys.exit(run())


@contextmanager
def _ending_on_request() -> Iterator[list[int]]:
    """Have SIGTERM and SIGHUP interrupt what runs, whoever handles interrupts; the signals that came."""
    asked: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        asked.append(number)
        if callable(signal.getsignal(signal.SIGINT)):
            signal.raise_signal(signal.SIGINT)
        else:  # a shell has its background jobs ignore SIGINT
            raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGHUP) if ours else ()
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield asked
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _nobody_reads() -> int:
    """`tracekit ... | head` is no failure; and nothing more can be said there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _fail(message: str, code: int) -> int:
    line = " ".join(redact(message).split())
    sys.stderr.write(f"tracekit: {line}\n")
    return code
