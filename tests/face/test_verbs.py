"""Command line and Python say the same: each verb has one public function with the same option names."""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tracekit
from tracekit.cli.app import VERBS, load
from tracekit.cli.flags import use_flags_of, with_flags

PACKAGE = Path(tracekit.__file__).parent
COMMANDS: dict[str, Any] = {verb: load(verb) for verb in VERBS}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "demo": tracekit.demo,
    "record": tracekit.record,
    "capture": tracekit.capture.run,
    "proxy": tracekit.proxy,
    "import": tracekit.import_trace,
    "export": tracekit.export_trace,
    "info": tracekit.Trace.info,
    "stats": tracekit.Trace.snapshot,
    "query": tracekit.Trace.query,
    "ask": tracekit.ask,
    "watch": tracekit.watch,
    "report": tracekit.report,
    "plot": tracekit.plot,
    "serve": tracekit.serve,
    "mcp": tracekit.mcp,
    "replay": tracekit.replay,
    "materialize": tracekit.materialize,
    "compare": tracekit.compare,
    "merge": tracekit.merge,
    "verify": tracekit.verify,
    "repair": tracekit.repair,
    "doctor": tracekit.doctor,
}
PRINTING = {
    "json": "how a result is printed",
    "csv": "how a result is printed",
    "safe_csv": "how a query is printed",
    "format": "how a query is printed",
    "parquet": "how a query is printed",
    "out": "where a snapshot, a query or facts are printed",
    "dry_run": "the function dry_run",
    "live": "how progress is shown",
    "presets": "a list is printed instead",
    "macros": "a list is printed instead",
    "sql": "the query of a question is printed instead",
}
"""Options of the command line that say how to print; `out` only of verbs whose function has none."""
PYTHON_ONLY = {
    "self": "the trace",
    "options": "a value that holds the options",
    "params": "parameters of an SQL statement",
    "watch": "a callback that reports progress",
}
OPENED = ("info", "stats", "query")
"""Verbs that are methods of an open trace."""


def keywords(function: Callable[..., Any]) -> set[str]:
    """The parameters of a function, those of its typed keywords among them."""
    names: set[str] = set()
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            unpacked = eval(parameter.annotation, function.__globals__)
            (typed,) = typing.get_args(unpacked)
            names |= typed.__required_keys__ | typed.__optional_keys__
        else:
            names.add(name)
    return names


def test_every_verb_has_a_function() -> None:
    assert set(COMMANDS) == set(FUNCTIONS)


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_a_verb_and_its_function_have_the_same_options(verb: str) -> None:
    ours = {parameter.name for parameter in COMMANDS[verb].params}
    theirs = keywords(FUNCTIONS[verb])
    if verb == "replay":  # with --dry-run, the verb of another function
        theirs |= keywords(tracekit.dry_run)
    if verb in OPENED:
        ours -= {"trace"}
    printing = set(PRINTING) - theirs
    assert ours - printing == theirs - set(PYTHON_ONLY)


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_a_flag_is_the_parameter_with_dashes(verb: str) -> None:
    for parameter in COMMANDS[verb].params:
        if parameter.param_type_name == "option":
            assert f"--{parameter.name.replace('_', '-')}" in parameter.opts, parameter.name


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_every_verb_prints_json(verb: str) -> None:
    assert any(parameter.name == "json" for parameter in COMMANDS[verb].params)


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_defaults_agree(verb: str) -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(FUNCTIONS[verb]).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    for parameter in COMMANDS[verb].params:
        if parameter.name in defaults and parameter.default is not None and not callable(parameter.default):
            ours, theirs = parameter.default, defaults[parameter.name]
            assert str(ours) == str(theirs) or (ours in ([], ()) and not theirs), parameter.name


def strings(file: Path) -> list[tuple[int, str]]:
    """The strings of a module that are not docstrings, with their lines."""
    tree = ast.parse(file.read_text())
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented
    ]


def test_no_message_below_the_command_line_names_a_flag() -> None:
    """Messages of the library name Python parameters; `tracekit.cli.flags` translates them."""
    flags = {
        name
        for command in COMMANDS.values()
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("-")
    }
    ours = re.compile(
        rf"(?<![\w-])(?:{'|'.join(sorted(map(re.escape, flags), key=len, reverse=True))})(?![\w-])"
    )
    found = [
        f"{file.relative_to(PACKAGE)}:{line}: {text!r}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if file.relative_to(PACKAGE).parts[0] != "cli" and file.name not in OTHER_PROGRAMS
        for line, text in strings(file)
        if ours.search(text)
    ]
    assert not found, "\n".join(found)


OTHER_PROGRAMS = ("strace.py", "build.py", "c_library.py")
"""Modules that start other programs, which have flags of their own."""


@pytest.mark.parametrize(
    ("message", "translated"),
    [
        ("x exists (choose another out=, or give overwrite=True)", "x exists (choose another --out, or give --overwrite)"),
        ("speed=-1 is not positive", "--speed -1 is not positive"),
        ("max_bytes_in_flight='lots' is not a size", "--max-bytes-in-flight 'lots' is not a size"),
        ("drop_last=False reads every batch", "--no-drop-last reads every batch"),
        ("leave out threads=.", "leave out --threads."),
        ("the URL http://host/?speed=3 and FROM=TO and unknown=3 stay", "the URL http://host/?speed=3 and FROM=TO and unknown=3 stay"),
        ("trace= is missing", "TRACE is missing"),
    ],
)  # fmt: skip
def test_parameters_in_messages_become_flags(message: str, translated: str) -> None:
    use_flags_of(COMMANDS["record" if "drop_last" in message else "replay"])
    assert with_flags(message) == translated
