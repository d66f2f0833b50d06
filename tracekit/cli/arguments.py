"""Arguments that several verbs share, completion of choices, and examples below a verb's help."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from tracekit.errors import UsageError
from tracekit.store.layout import SEGMENT_SUFFIX, is_trace_file
from tracekit.uri import local_file
from tracekit.validation import choosing

__all__ = [
    "OPTIONAL_COUNT",
    "AgainstOption",
    "JsonOption",
    "MemoryOption",
    "OptionalTraceArgument",
    "OutOption",
    "OverwriteOption",
    "ThreadsOption",
    "TraceArgument",
    "check_choice",
    "choices",
    "examples",
    "output",
    "traces",
    "with_values",
]

_FILE = "file://"
_TRACE = "A trace directory, a Parquet file, or a quoted glob of Parquet files; a path or a URI (file://, s3://, az://, gs://)."


def traces(incomplete: str) -> list[str]:
    """Complete the name of a trace. Without a match the shell completes any file."""
    folder, slash, _ = incomplete.removeprefix(_FILE).rpartition("/")
    base = Path(folder or slash or ".").expanduser()
    shown = incomplete[: incomplete.rfind("/") + 1]
    try:
        entries = sorted(base.iterdir())
    except OSError:
        return []
    names = [f"{shown}{entry.name}" for entry in entries if _is_trace(entry)]
    return [name for name in names if name.startswith(incomplete)]


def _is_trace(path: Path) -> bool:
    if path.suffix == SEGMENT_SUFFIX:
        return not path.name.startswith((".", "_"))
    try:
        return path.is_dir() and any(is_trace_file(entry.name) for entry in path.iterdir())
    except OSError:
        return False


TraceArgument = Annotated[str, typer.Argument(metavar="TRACE", help=_TRACE, autocompletion=traces)]
OptionalTraceArgument = Annotated[
    str | None, typer.Argument(metavar="TRACE", help=_TRACE, autocompletion=traces)
]
AgainstOption = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="B",
        help="A second trace: the replay, or the run after.",
        autocompletion=traces,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and errors as JSON too.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        parser=local_file,
        metavar="FILE",
        help="Write here instead of printing; - is standard output.",
    ),
]


OPTIONAL_COUNT = "[=N]"
"""The metavar of a flag that may take a count: `--shuffle`, `--no-shuffle` or `--shuffle=64`."""

ThreadsOption = Annotated[int | None, typer.Option(metavar="N", min=1, help="Threads for the queries.")]
MemoryOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Memory for the queries, such as 4GiB.")
]


def with_values(parameters: Iterable[Any], words: Iterable[str]) -> list[str]:
    """Return the `words` of a command line with `on` or `off` given to each flag that stands without a count."""
    flags = [p.opts[0] for p in parameters if getattr(p, "metavar", None) == OPTIONAL_COUNT]
    spelled = {flag: f"{flag}=on" for flag in flags}
    spelled |= {flag.replace("--", "--no-", 1): f"{flag}=off" for flag in flags}
    return [spelled.get(word, word) for word in words]


def output(path: Path) -> Path:
    """Return the file that `-o` names: `-` is standard output."""
    return Path("/dev/stdout") if str(path) == "-" else path


def choices(known: Iterable[str]) -> dict[str, Any]:
    """Return the Typer settings of a parameter that takes one of the words `known`: their completion.

    The public function checks the word, so that Python and the command line say the same.
    """
    words = tuple(known)

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return {"autocompletion": complete}


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Raise UsageError, with the nearest known word, if `value` is not one of the words `known`."""
    words = tuple(known)
    if value not in words:
        raise UsageError(f"unknown {name} {value!r}", choosing(value, words))


def examples(*commands: str) -> str:
    """Return the text below a verb's help: a command a line, with what follows `  #` as a remark."""
    lines = (command.partition("  #") for command in commands)
    return "\n".join(["Examples:", *(f"[bold]{typed}[/bold]{mark}{said}" for typed, mark, said in lines)])
