"""The command line: which verbs there are, and how a command ends.

Each verb is in a module with `register(app)`, which is imported when the verb is used. Here every error becomes one line on stderr and an exit
code: 0 done, 1 a check failed, 2 bad usage or input, 130 interrupted, 143 terminated. With `--json`
the error is also JSON on stdout. No traceback reaches a user unless TRACEKIT_DEBUG is set.
"""

from __future__ import annotations

import ast
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from tracekit.cli.arguments import with_values
from tracekit.cli.failing import discard_output, fail
from tracekit.cli.flags import use_flags_of, with_flags
from tracekit.cli.lean import leave_out
from tracekit.errors import TracekitError
from tracekit.printable import printable
from tracekit.version import __version__

__all__ = ["VERBS", "app", "load", "main", "run"]

VERBS = {
    "demo": "demo",
    "record": "record",
    "capture": "capture",
    "proxy": "proxy",
    "import": "importing",
    "export": "exporting",
    "info": "info",
    "stats": "stats",
    "query": "query",
    "ask": "ask",
    "replay": "replay",
    "materialize": "materialize",
    "compare": "compare",
    "watch": "watch",
    "report": "report",
    "plot": "plot",
    "merge": "merging",
    "serve": "serve",
    "mcp": "mcp",
    "verify": "verify",
    "repair": "repair",
    "doctor": "doctor",
}
"""Verb -> the module of `tracekit.cli` that registers it, in the order of `--help`. `info` is the function `_info`."""

_MORE_MEMORY = "free some, allow the process more, or work on a part of the trace"
_RECORDING = ("record", "replay", "demo")


class _Interrupted(Exception):
    """An interrupt that no verb handled."""


def _without_flag_types(parameters: list[Any]) -> list[Any]:
    """Leave out the type of flags, which take no value, from the help."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters


class _Verb(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_flag_types(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_values(self.params, args))


class _Verbs(TyperGroup):
    """The verbs, each known by its summary alone until it is used: loading all takes half a second."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {verb: _Verb(verb, help=_summary(verb)) for verb in VERBS}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        verb, command, rest = super().resolve_command(ctx, args)
        if verb in VERBS:
            command = load(verb)
            use_flags_of(command)
        return verb, command, rest

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_flag_types(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Invoke as Typer does, but report an interrupt, which Typer would pass over in silence."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted from error
        except Exception as error:
            if _is_interrupt(error):
                raise _Interrupted from error
            raise


class _App(typer.Typer):
    def command(self, name: str | None = None, **settings: Any) -> Any:
        return super().command(name, cls=_Verb, **settings)


def _summary(verb: str) -> str:
    """Return the docstring of the verb's function, read without importing its module."""
    source = Path(__file__).with_name(f"{VERBS[verb]}.py").read_text(encoding="utf-8")
    found = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    return next(ast.get_docstring(node) or "" for node in found if node.name == f"_{verb}")


def load(verb: str) -> Any:
    """Import the module of `verb` and return its command."""
    verbs = _App(rich_markup_mode="rich")
    verbs.callback()(_root)  # so that Typer makes a group also of a module with one verb
    importlib.import_module(f"tracekit.cli.{VERBS[verb]}").register(verbs)
    return getattr(typer.main.get_command(verbs), "commands")[verb]  # noqa: B009 - of a group


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether `error`, or what caused it, is DuckDB's report of Ctrl-C, during a query or a callback."""
    duckdb = sys.modules.get("duckdb")
    while error is not None and duckdb is not None:
        text = str(error)
        if isinstance(error, duckdb.InterruptException) or text == "Query interrupted":
            return True
        if isinstance(error, duckdb.InvalidInputException) and "failed: KeyboardInterrupt" in text:
            return True
        error = error.__cause__
    return False


app = _App(
    name="tracekit",
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Record how a loader reads storage, understand it with SQL, replay it faithfully.",
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
    """Hold the options that belong to no verb."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Prints at most one line about an error.

    SIGTERM and SIGHUP end a verb that records as Ctrl-C does, with 128 + the signal's number as the
    exit code. They end any other verb at once, since it leaves nothing to finish.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in _RECORDING:
        return _run(words)
    with _ending_on_request() as received:
        code = _run(words)
    return 128 + received[0] if received and code in (0, 130) else code


def _says_memory(error: Exception) -> bool:
    """Whether a library got no memory, and says so in an error of another kind."""
    from tracekit.store.memory import lacks_memory

    return lacks_memory(error)


def _run(words: list[str]) -> int:
    use_flags_of(None)
    try:
        code = app(args=words, prog_name="tracekit", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except TracekitError as error:
        return fail(words, with_flags(error.message), error.exit_code, with_flags(error.hint))
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(printable(error.format_message()), err=True)
            return 2
        verb = f" {words[0]}" if words and words[0] in VERBS else ""
        return fail(words, error.format_message().strip(), 2, f"see tracekit{verb} --help")
    except (KeyboardInterrupt, _Interrupted, typer.Abort):
        return fail(words, "interrupted", 130)
    except BrokenPipeError:
        return discard_output()
    except SystemExit as left:  # how Typer handles a pipe that its reader closed
        if isinstance(left.__context__, BrokenPipeError):
            return discard_output()
        raise
    except MemoryError:
        return fail(words, "out of memory", 2, _MORE_MEMORY)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return fail(words, f"{where}{error.strerror or error}", 2)
    except Exception as error:
        if os.environ.get("TRACEKIT_DEBUG"):
            raise
        if _says_memory(error):
            return fail(words, "out of memory", 2, _MORE_MEMORY)
        message = f"internal error: {type(error).__name__}: {error}"
        return fail(words, message, 2, "a defect; please report it with TRACEKIT_DEBUG=1")


def main() -> None:
    """Run the console script."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the caller closed it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - open until the process ends
    leave_out(sys.argv[1:])
    try:
        code = run()
    except KeyboardInterrupt:  # just after the verb's own handling
        code = 130
    if callable(
        signal.getsignal(signal.SIGINT)
    ):  # Python would report an interrupt of its shutdown as a crash
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    sys.exit(code)


@contextmanager
def _ending_on_request() -> Iterator[list[int]]:
    """Make SIGTERM and SIGHUP interrupt the verb as Ctrl-C does; yields the signals that came."""
    received: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        received.append(number)
        if callable(signal.getsignal(signal.SIGINT)):
            signal.raise_signal(signal.SIGINT)
        else:  # a shell makes its background jobs ignore SIGINT
            raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGHUP) if ours else ()
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
