"""Command-line options made from the option tables: a verb declares the tables that it takes."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import typer

from tracekit.cli.arguments import choices
from tracekit.errors import UsageError
from tracekit.validation import Kind, Option, Table, flag_of, shown_default

__all__ = ["COUNT_SUFFIX", "help_of", "metavar_of", "takes"]

_METAVARS = {Kind.COUNT: "N", Kind.NUMBER: "X", Kind.SIZE: "SIZE", Kind.DURATION: "TIME"}
COUNT_SUFFIX = "_buffer"
"""Ends the second flag of an option that is a flag or a count: `--shuffle`, `--shuffle-buffer 64`."""

_T = TypeVar("_T")


def takes(*tables: Table) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """Give a verb, whose last parameter is `**options`, the options of `tables` as command-line options.

    The verb gets those that were typed, as text, booleans or lists: the public function that it passes
    them to checks and converts them, as it does for a caller in Python.
    """
    table = {name: option for part in tables for name, option in part.items()}

    def decorate(verb: Callable[..., _T]) -> Callable[..., _T]:
        @functools.wraps(verb)
        def call(**typed: Any) -> _T:
            own = {name: value for name, value in typed.items() if name in fixed}
            return verb(**own, **_given(table, typed))

        signature = inspect.signature(verb, eval_str=True)
        fixed = {
            name: parameter
            for name, parameter in signature.parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }
        added = {name: made for option in table.values() for name, made in _parameters(option).items()}
        parameters = {**fixed, **added}
        call.__dict__["__signature__"] = signature.replace(parameters=list(parameters.values()))
        call.__annotations__ = {name: made.annotation for name, made in parameters.items()}
        return call

    return decorate


def metavar_of(option: Option) -> str:
    """The placeholder of the option's value in help."""
    if option.unit == "s":
        return "SECONDS"
    return option.metavar or _METAVARS.get(option.kind) or option.name.rpartition("_")[2].upper()


def help_of(option: Option) -> str:
    """The option's help, with its choices and default, naming flags instead of parameters."""
    parts = [re.sub("`([a-z_]+)`", lambda name: flag_of(name[1]), option.help)]
    if any(choice not in option.help for choice in option.choices):
        parts.append(f"One of {', '.join(option.choices)}.")
    if option.repeats:
        parts.append("Repeatable.")
    if option.default != ():
        parts.append(f"Default: {shown_default(option)}.")
    return " ".join(parts)


def _given(table: Table, typed: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: typed[name] for name in table if typed.get(name) not in (None, [], ())}
    for name, option in table.items():
        if option.count_from is not None and (count := typed.get(name + COUNT_SUFFIX)) is not None:
            if given.get(name) is False:
                flag = flag_of(name + COUNT_SUFFIX)
                raise UsageError(f"{name}=False and {flag} exclude each other", "give one of them")
            given[name] = count
    return given


def _parameters(option: Option) -> dict[str, inspect.Parameter]:
    flag, help_ = flag_of(option.name), help_of(option)
    if option.kind is not Kind.FLAG:
        kind = list[str] if option.repeats else str
        settings = {"metavar": metavar_of(option), **(choices(option.choices) if option.choices else {})}
        return {option.name: _parameter(option, option.name, kind, help_, flag, **settings)}
    both = f"{flag}/{flag_of('no_' + option.name)}"
    made = {option.name: _parameter(option, option.name, bool, help_, both, metavar="")}
    if option.count_from is not None:
        name = option.name + COUNT_SUFFIX
        help_ = f"As {flag}, but through a buffer of N samples, at least {option.count_from}."
        made[name] = _parameter(option, name, str, help_, flag_of(name), metavar="N")
    return made


def _parameter(
    option: Option, name: str, kind: Any, help_: str, flag: str, **settings: Any
) -> inspect.Parameter:
    panel = option.group or None
    option_ = typer.Option(flag, help=help_, rich_help_panel=panel, show_default=False, **settings)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option_]
    )
