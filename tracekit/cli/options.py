"""Command-line options made from the option tables: a verb declares the tables that it takes."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import typer

from tracekit.cli.arguments import OPTIONAL_COUNT, choices
from tracekit.validation import Kind, Option, Table, flag_of, shown_default

__all__ = ["help_of", "metavar_of", "takes"]

_METAVARS = {Kind.COUNT: "N", Kind.NUMBER: "X", Kind.SIZE: "SIZE", Kind.DURATION: "TIME"}
_SPELLED = {"on": True, "off": False}

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
        added = {name: _parameter_of(option) for name, option in table.items()}
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
    for name in given:
        if table[name].count_from is not None:
            given[name] = _SPELLED.get(given[name], given[name])
    return given


def _parameter_of(option: Option) -> inspect.Parameter:
    flag, help_ = flag_of(option.name), help_of(option)
    if option.kind is not Kind.FLAG:
        kind = list[str] if option.repeats else str
        settings = {"metavar": metavar_of(option), **(choices(option.choices) if option.choices else {})}
        return _parameter(option, kind, help_, flag, **settings)
    if option.count_from is not None:
        help_ += f" {flag_of('no_' + option.name)} turns it off."
        return _parameter(option, str, help_, flag, metavar=OPTIONAL_COUNT)
    both = f"{flag}/{flag_of('no_' + option.name)}"
    return _parameter(option, bool, help_, both, metavar="")


def _parameter(option: Option, kind: Any, help_: str, flag: str, **settings: Any) -> inspect.Parameter:
    panel = option.group or None
    option_ = typer.Option(flag, help=help_, rich_help_panel=panel, show_default=False, **settings)
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option_]
    )
