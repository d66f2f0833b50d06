"""Every verb that takes a trace takes it by a path, `~`, a file:// URI and a glob; and every verb completes traces."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import tracekit
from tracekit.cli.app import VERBS, load, run

VERB_LINES: dict[str, list[str]] = {
    "info": ["info", "T"],
    "stats": ["stats", "T"],
    "query": ["query", "T", "FROM ops LIMIT 1"],
    "ask": ["ask", "T", "slowest-files"],
    "watch": ["watch", "T", "--json"],
    "replay": ["replay", "T", "--dry-run"],
    "materialize": ["materialize", "T", "--map", "DATA=OUT/copies"],
    "compare": ["compare", "T", "T", "T"],
    "report": ["report", "T", "-o", "OUT/r.html"],
    "plot": ["plot", "offsets", "T", "-o", "OUT/p.svg"],
    "export": ["export", "csv", "T", "-o", "OUT/x.csv"],
    "merge": ["merge", "T", "-o", "OUT/all"],
    "verify": ["verify", "T"],
    "repair": ["repair", "T"],
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with the trace `run.trace`."""
    folder = tmp_path / "home"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "a").write_bytes(bytes(8192))
    with tracekit.Recorder(folder / "run.trace") as recorder:
        for i in range(3):
            recorder.record(
                f"file://{folder}/data/a", i * 4096 % 8192, 4096, time.monotonic_ns(), 50_000, bytes=4096
            )
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.mark.parametrize("verb", VERB_LINES)
def test_a_verb_takes_a_trace_by_every_kind_of_name(
    home: Path, tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["~/run.trace", f"file://{home}/run.trace", f"{home}/r*.trace"]
    # Slow verbs open the trace as the others do: one of the names shows that, or all in one line.
    lines = (
        [names[2:]] if verb in ("report", "plot") else [names] if verb == "compare" else [[n] for n in names]
    )
    for number, given in enumerate(lines):
        out = tmp_path / f"out-{number}"
        out.mkdir()
        left = iter(given)
        line = [next(left) if word == "T" else word for word in VERB_LINES[verb]]
        line = [word.replace("OUT", str(out)).replace("DATA", str(home / "data")) for word in line]
        assert run(line) == 0, (line, capsys.readouterr().err)


def test_the_verbs_above_are_all_that_take_traces() -> None:
    serving = {"serve", "mcp"}  # they run until they are ended; tests/serving
    taking = {verb for verb in VERBS if any(p.name in ("trace", "traces", "a") for p in load(verb).params)}
    assert taking == set(VERB_LINES) | serving


def test_a_glob_of_directories_names_each_of_them_where_several_are_taken(home: Path, tmp_path: Path) -> None:
    with tracekit.Recorder(home / "rest.trace") as recorder:
        recorder.record("file:///d/b", 0, 1, time.monotonic_ns(), 5)
    assert tracekit.merge([f"{home}/r*.trace"], tmp_path / "all").traces == 2
    with tracekit.serve([f"{home}/r*.trace"]) as server:
        assert server.url.startswith("http://127.0.0.1:")


def test_a_dataset_and_a_store_are_named_below_the_home_too(home: Path, tmp_path: Path) -> None:
    assert tracekit.record("~/data", tmp_path / "t").ops > 0
    assert tracekit.doctor("~/data").ok


@pytest.mark.parametrize("verb", VERBS)
def test_completion_offers_traces_wherever_a_trace_is_taken(home: Path, verb: str) -> None:
    for parameter in load(verb).params:
        if parameter.name in ("trace", "traces", "a", "b", "others", "against"):
            for typed in ("~/r", f"{home}/r", f"file://{home}/r"):
                assert offered(parameter, typed) == [f"{typed}un.trace"]


def offered(parameter: Any, typed: str) -> list[str]:
    context = load("info").make_context("info", [], resilient_parsing=True)
    return [item.value for item in parameter.shell_complete(context, typed)]


@pytest.mark.parametrize("verb", VERBS)
def test_completion_offers_the_words_of_every_option_that_names_them(verb: str) -> None:
    for parameter in load(verb).params:
        if parameter.name in (
            "format",
            "kind",
            "question",
            "method",
            "profile",
            "hooks",
            "pace",
            "wait_unit",
            "object_by",
        ):
            assert offered(parameter, ""), parameter.name
