"""The same value means the same in Python and on the command line; help shows choices, types and defaults."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tracekit.capture.options import CAPTURE, PROXY
from tracekit.cli.arguments import with_values
from tracekit.cli.options import help_of, takes
from tracekit.options import CHECKPOINT, LOADER, MATERIALIZE, RECORD, REPLAY
from tracekit.validation import Kind, Option, Table, flag_of, parse, parse_all

TABLES: dict[str, Table] = {
    "record": {**RECORD, **CHECKPOINT, **LOADER}, "replay": REPLAY, "materialize": MATERIALIZE, "proxy": PROXY, "capture": CAPTURE,
}  # fmt: skip
EVERY = [
    pytest.param(table, o, id=f"{verb}-{o.name}") for verb, table in TABLES.items() for o in table.values()
]
TYPED = {Kind.SIZE: "96KiB", Kind.DURATION: "3s", Kind.TEXT: "a=b"}


def typed_value(option: Option) -> Any:
    """A value other than the default, as it is typed."""
    if option.kind is Kind.FLAG:
        return not option.default
    if option.choices:
        return next(choice for choice in option.choices if choice != option.default)
    if option.kind in TYPED:
        return TYPED[option.kind]
    return "0.5" if option.kind is Kind.NUMBER else "7"


def taken(table: Table, *arguments: str) -> dict[str, Any]:
    """The options that a verb over `table` hands to its function, checked as that checks them."""
    got: dict[str, Any] = {}
    app = typer.Typer()

    @app.command()
    @takes(table)
    def _verb(name: str, **options: Any) -> None:
        got.update(options)

    parameters = getattr(typer.main.get_command(app), "params")  # noqa: B009 - of a command
    done = CliRunner().invoke(app, ["x", *with_values(parameters, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return parse_all(table, got)


@pytest.mark.parametrize(("table", "option"), EVERY)
def test_a_value_means_the_same_in_python_and_as_a_flag(table: Table, option: Option) -> None:
    value = typed_value(option)
    if option.kind is Kind.FLAG:
        typed = [flag_of(option.name if value else f"no_{option.name}")]
    else:
        typed = [flag_of(option.name), value]
    assert taken(table, *typed) == parse_all(table, {option.name: value})
    if option.repeats:
        assert taken(table, *typed, *typed) == parse_all(table, {option.name: [value, value]})


def test_an_option_that_is_not_given_keeps_its_default() -> None:
    for table in TABLES.values():
        assert taken(table) == parse_all(table, {})


def test_none_and_a_count_of_shuffle_can_be_typed() -> None:
    assert taken(LOADER, "--target-request-bytes", "none")["target_request_bytes"] is None
    assert taken(LOADER, "--shuffle=64")["shuffle"] == parse(LOADER["shuffle"], 64) == 64
    assert taken(LOADER, "--shuffle")["shuffle"] is True
    assert taken(LOADER, "--no-shuffle")["shuffle"] is False


@pytest.mark.parametrize(("table", "option"), EVERY)
def test_help_names_choices_flags_and_the_default(table: Table, option: Option) -> None:
    text = help_of(option)
    assert all(choice in text for choice in option.choices)
    assert "`" not in text
    assert "Default: " in text or option.default == ()


@pytest.mark.parametrize("verb", TABLES)
def test_the_help_of_a_verb_shows_no_python_types(verb: str) -> None:
    shown = run(verb, "--help").stdout
    for option in TABLES[verb].values():
        assert flag_of(option.name) in shown
    for line in shown.splitlines():
        if any(flag in line for flag in map(flag_of, TABLES[verb])):
            assert not any(kind in line for kind in ("<bool>", "<str>", "<int>", "<float>", "list[")), line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "T", "--pace", "fast"], "--pace 'fast' is not valid (did you mean asap? give one of"),
        (["replay", "T", "--page-cache-mode", "direct"], "did you mean direct_io?"),
        (["replay", "T", "--max-bytes-in-flight", "lots"], "--max-bytes-in-flight 'lots' is not valid"),
        (["replay", "T", "--threads", "2.5"], "a whole number from 1 to 4,096"),
        (["replay", "T", "--op", "read", "--op", "stat"], "--op 'stat' is not valid"),
        (["replay", "T", "--start", "5"], "a duration such as 500ms"),
        (["replay", "T", "--cold", "--warm"], "--cold and --warm exclude each other"),
        (["record", "D", "-o", "O", "--reader-mode", "rnage"], "did you mean range?"),
        (["record", "D", "-o", "O", "--epochs", "0"], "--epochs '0' is not valid"),
        (["materialize", "T", "--map", "/a=/b", "--retries", "x"], "--retries 'x' is not valid"),
        (["materialize", "T"], "give --map"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_flag(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tracekit", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, env={"COLUMNS": "200", "PATH": ""}
    )
