"""What a command line takes and gives: names of traces, streams, JSON, suggestions, completion."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_screen import on_a_terminal

import tracekit
from tracekit.cli.app import run
from tracekit.reporting.table import label

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    with tracekit.Recorder(tmp_path / "t.trace") as recorder:
        start = time.monotonic_ns()
        for i in range(100):
            recorder.record(
                f"file:///data/{i % 7}", i * 4096, 4096 << i % 3, start + i * 1_000_000, 50_000, bytes=4096
            )
        recorder.count("consumer_wait_ns", 352_000_000)
    return tmp_path / "t.trace"


@pytest.fixture
def parquet(trace: Path, tmp_path: Path) -> list[Path]:
    """Two Parquet files of 60 and 40 ops."""
    files = [tmp_path / "part[1]-a.parquet", tmp_path / "part[1]-b.parquet"]
    for file, limits in zip(files, ("LIMIT 60", "LIMIT 40 OFFSET 60"), strict=True):
        sql = f"SELECT uri, 'read' AS op, ops.offset, len, t_submit, sample_id, latency FROM ops {limits}"
        assert run(["query", str(trace), sql, "--parquet", "-o", str(file)]) == 0
    return files


def info(capsys: pytest.CaptureFixture[str], name: str) -> int:
    capsys.readouterr()
    assert run(["info", name, "--json"]) == 0
    ops: int = json.loads(capsys.readouterr().out)["ops"]
    return ops


def test_a_trace_is_named_by_a_path_a_uri_or_a_path_below_the_home(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(trace.parent))
    for name in (str(trace), f"file://{trace}", "~/t.trace"):
        assert info(capsys, name) == 100
        assert tracekit.open_trace(name).ops == 100


def test_an_output_is_named_in_the_same_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "log.jsonl").write_text('{"uri": "/a", "offset": 0, "len": 1, "t_submit": 1, "latency": 1}\n')
    for index, out in enumerate((f"file://{tmp_path}/0.trace", "~/1.trace")):
        assert run(["import", "jsonl", str(tmp_path / "log.jsonl"), "-o", out]) == 0
        assert tracekit.open_trace(tmp_path / f"{index}.trace").ops == 1
    with tracekit.Recorder(f"file://{tmp_path}/2.trace") as recorder:
        recorder.record("file:///a", 0, 1, 1, 1)
    assert tracekit.open_trace(tmp_path / "2.trace").ops == 1


@pytest.mark.parametrize("place", ["~", "uri"])
@pytest.mark.parametrize(
    "verb",
    [
        ["stats", "TRACE", "--json"], ["query", "TRACE", "FROM ops", "--csv"],
        ["export", "csv", "TRACE"], ["plot", "offsets", "TRACE"], ["report", "TRACE"],
    ],
    ids=lambda verb: verb[0],
)  # fmt: skip
def test_a_file_to_write_is_named_in_the_same_ways(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: list[str], place: str
) -> None:
    suffix = {"plot": ".svg", "report": ".html"}.get(verb[0], ".txt")
    folder = {"~": "~", "uri": f"file://{tmp_path}"}[place]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = [str(trace) if word == "TRACE" else word for word in verb]
    assert run([*words, "-o", f"{folder}/made{suffix}"]) == 0
    assert (tmp_path / f"made{suffix}").stat().st_size > 0


@pytest.mark.parametrize("verb", ["verify", "repair"])
def test_verify_and_repair_take_a_glob_of_one_trace(
    trace: Path, tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trace, tmp_path / "one.trace")
    assert run([verb, f"{tmp_path}/on?.trace"]) == 0
    shutil.copytree(trace, tmp_path / "ono.trace")
    assert run([verb, f"{tmp_path}/on*.trace"]) == 2
    assert "names 2 files (name one trace at a time)" in capsys.readouterr().err


def test_a_log_is_named_below_the_home_too(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(["export", "csv", str(trace), "-o", "~/log.csv"]) == 0
    assert run(["import", "csv", "~/log.csv", "-o", "~/again.trace"]) == 0
    assert (tmp_path / "again.trace").is_dir()


def test_a_trace_in_a_store_that_cannot_be_reached_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert run(["info", "s3://bucket/run.trace"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("tracekit: ")
    assert said.err.count("\n") == 1


def test_several_parquet_files_are_one_trace(
    parquet: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tracekit.open_trace(parquet).ops == 100
    assert info(capsys, f"{tmp_path}/part[[]1]-*.parquet") == 100
    assert tracekit.open_trace(parquet).snapshot().ops == 100
    assert tracekit.compare(parquet, parquet).row("ops").difference == 0


def test_a_name_that_exists_is_literal_whatever_characters_it_has(
    parquet: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [info(capsys, str(file)) for file in parquet] == [60, 40]


@pytest.mark.parametrize("names", [["a.parquet", "."], [], ["a.parquet", "no-such"]])
def test_several_names_must_be_files_that_exist(names: list[str], parquet: list[Path]) -> None:
    given = [parquet[0] if name == "a.parquet" else parquet[0].parent / name for name in names]
    with pytest.raises(tracekit.TracekitError):
        tracekit.open_trace(given)


def test_a_glob_that_matches_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", f"{tmp_path}/*.parquet"]) == 2
    assert "no file matches" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["-", "/dev/stdout"])
@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (("export", "csv", "TRACE"), b'"t_submit",'),
        (("stats", "TRACE", "--csv"), b"metric,value,unit"),
        (("query", "TRACE", "SELECT 1 AS one", "--csv"), b'"one"'),
        (("query", "TRACE", "SELECT 1 AS one", "--parquet"), b"PAR1"),
        (("report", "TRACE"), b"<!DOCTYPE html>"),
    ],
)
def test_standard_output_gets_the_output_and_nothing_else(
    trace: Path, arguments: tuple[str, ...], first: bytes, out: str
) -> None:
    command = [str(trace) if word == "TRACE" else word for word in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "tracekit", *command, "-o", out],
        capture_output=True,
        cwd=trace.parent,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith((first, first.replace(b'"', b"")))
    assert b"wrote -" not in done.stdout and b"wrote /dev" not in done.stdout
    assert b"100 ops in" not in done.stdout
    assert not (trace.parent / "-").exists()


def test_standard_output_that_is_a_file_stays_that_file(trace: Path, tmp_path: Path) -> None:
    with (tmp_path / "out.csv").open("wb") as file:
        command = [sys.executable, "-m", "tracekit", "export", "csv", str(trace), "-o", "/dev/stdout"]
        assert subprocess.run(command, stdout=file, timeout=90).returncode == 0
    assert (tmp_path / "out.csv").read_text().count("\n") == 101
    assert Path("/dev/stdout").is_symlink()


def test_a_pipe_gets_the_whole_output(trace: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    tracekit.export_trace("csv", trace, tmp_path / "pipe")
    reader.join(60)
    assert got[0].count("\n") == 101
    assert (tmp_path / "pipe").is_fifo()


def test_a_full_disk_is_reported_with_the_name_of_the_file(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", "csv", str(trace), "-o", "/dev/full"]) == 2
    assert "/dev/full: No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "-o", "TAKEN"],
        ["record", "/no/such/data", "-o", "OUT"],
        ["import", "csv", "/no/such/log", "-o", "OUT"],
        ["export", "nonsense", "TRACE", "-o", "OUT"],
        ["info", "/no/such/trace"],
        ["stats", "/no/such/trace"],
        ["query", "TRACE", "SELEKT"],
        ["report", "/no/such/trace", "-o", "OUT"],
        ["plot", "nonsense", "TRACE", "-o", "OUT.png"],
        ["replay", "/no/such/trace"],
        ["materialize", "/no/such/trace", "--map", "file:///a=file:///b"],
        ["compare", "/no/such/trace", "TRACE"],
        ["verify", "/no/such/trace"],
        ["repair", "/no/such/trace"],
        ["watch", "/no/such/*.parquet"],
        ["ask", "/no/such/trace", "tail"],
        ["merge", "/no/such/trace", "-o", "OUT"],
        ["serve", "/no/such/trace"],
        ["doctor", "nonsense://x"],
        ["proxy", "nonsense://x", "-o", "OUT"],
        ["info"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_with_json_an_error_is_json_on_stdout_and_a_line_on_stderr(
    trace: Path, tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "TRACE": str(trace),
        "OUT": str(tmp_path / "out"),
        "OUT.png": str(tmp_path / "o.png"),
        "TAKEN": str(tmp_path),
    }
    assert run([*(places.get(word, word) for word in arguments), "--json"]) == 2
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert error["exit_code"] == 2
    hint = f" ({error['hint']})" if error["hint"] else ""
    assert printed.err == f"tracekit: {error['message']}{hint}\n"


def test_a_failed_capture_keeps_standard_output_for_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["capture", "-o", str(tmp_path / "t"), "--json", "--", "no-such-program"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert json.loads(printed.err.splitlines()[0])["error"]["exit_code"] == 2


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["import", "foi", "x", "-o", "y"], "fio"),
        (["export", "chorme", "TRACE", "-o", "y"], "chrome"),
        (["plot", "offset", "TRACE", "-o", "y.png"], "offsets"),
        (["query", "TRACE", "FROM ops", "--format", "cvs"], "csv"),
        (["replay", "TRACE", "--pace", "recrded"], "recorded"),
        (["record", "x", "-o", "y", "--profile", "torhc"], "torch"),
        (["record", "x", "-o", "y", "--reader-mode", "rang"], "range"),
        (["replai", "TRACE"], "replay"),
        (["capture", "-o", "y", "--method", "natve", "--", "true"], "native"),
        (["capture", "-o", "y", "--method", "hooks", "--hooks", "torhc", "--", "true"], "torch"),
        (["import", "csv", __file__, "-o", "y", "--map-columns", "lenn=a"], "len"),
        (["import", "fio", "x", "-o", "y", "--wait-unit", "mss"], "ms"),
        (["export", "libcachesim", "TRACE", "-o", "y", "--object-by", "url"], "uri"),
        (["merge", "TRACE", "-o", "y", "--ranks", "kep"], "keep"),
        (["doctor", "s3://bucket", "--client", "natve"], "native"),
        (["ask", "TRACE", "slow-files"], "slowest-files"),
        (["compare", "TRACE", "TRACE", "--judge", "latncy_p99<=2x"], "latency_p99"),
        (["info", "TRACE", "--jsn"], "--json"),
    ],
)
def test_a_misspelt_word_gets_the_nearest_one(
    trace: Path, arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([str(trace) if word == "TRACE" else word for word in arguments]) == 2
    shown = capsys.readouterr().err
    assert re.search(rf"(?i)(?:did you mean|possible options:) '?{meant}\b", shown), shown


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("tracekit in", {"info"}),
        ("tracekit import d", {"darshan", "dftracer"}),
        ("tracekit export chr", {"chrome"}),
        ("tracekit plot off", {"offsets"}),
        ("tracekit query t.trace FROM --format c", {"csv"}),
        ("tracekit capture --method s", {"strace"}),
        ("tracekit info --js", {"--json"}),
        ("tracekit ask t.trace slowest-f", {"slowest-files"}),
        ("tracekit info sample_traces/s", {"sample_traces/s3.trace"}),
        ("tracekit compare sample_traces/file.trace sample_traces/a", {"sample_traces/az.trace"}),
        ("tracekit report sample_traces/s3.trace --against sample_traces/d", {"sample_traces/direct.trace"}),
    ],
)
def test_completion_offers_the_words_that_fit(words: str, offered: set[str]) -> None:
    environ = {
        **os.environ,
        "_TRACEKIT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tracekit"], env=environ, capture_output=True, text=True, timeout=60, cwd=REPO
    )
    assert set(done.stdout.split()) == offered, done.stderr


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("SELECT offst FROM ops", '(Candidate bindings: "offset"'),
        ("FROM opps", '(Did you mean "ops"?)'),
        ("FROM elsewhere", "(the view is called ops)"),
        ("SELECT cont(*) FROM ops", '(Did you mean "count"?)'),
    ],
)
def test_an_sql_error_keeps_what_duckdb_suggests(
    trace: Path, sql: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["query", str(trace), sql]) == 2
    assert hint in capsys.readouterr().err


def test_an_sql_error_has_no_hint_where_there_is_none(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["query", str(trace), "SELECT 1 +"]) == 2
    assert "view" not in capsys.readouterr().err


def test_the_only_table_is_ops(trace: Path) -> None:
    assert tracekit.open_trace(trace).query("SHOW TABLES").to_pylist() == [{"name": "ops"}]


def test_counters_are_shown_in_words_and_empty_facts_are_left_out(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("stats", "info"):
        assert run([verb, str(trace)]) == 0
        shown = capsys.readouterr().out
        assert "consumer wait" in shown and "352 ms" in shown and "consumer_wait_ns" not in shown
        assert "steps" not in shown and "samples" not in shown


def test_properties_counted_once_a_batch_are_shown_as_they_are_and_think_times_without_buckets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(bytes(1000))
    tracekit.record(
        tmp_path / "data", tmp_path / "t", sample_bytes=10, batch_size=10, num_workers=3, prefetch=2
    )
    for verb in ("stats", "info"):
        assert run([verb, str(tmp_path / "t")]) == 0
        shown = capsys.readouterr().out
        assert re.search(r"loader workers\s+3\b", shown) and re.search(r"consumer ahead batches\s+2\b", shown)
        assert "hist" not in shown


def test_a_narrow_terminal_shows_bars_on_one_line_and_names_whole(trace: Path) -> None:
    lines = on_a_terminal(60, "stats", trace).splitlines()
    bars = [line for line in lines if "█" in line]
    assert len(bars) == 3
    assert all("KiB" in line for line in bars)
    assert max(map(len, bars)) <= 60
    assert not any("…" in line for line in lines)


def test_a_narrow_terminal_shows_the_metrics_of_a_comparison_whole(trace: Path) -> None:
    shown = on_a_terminal(64, "compare", trace, trace)
    metrics = tracekit.compare(trace, trace).rows
    assert len(metrics) > 5
    assert "…" not in shown
    assert all(f"│ {label(row)} " in shown for row in metrics)


def test_flags_take_no_value_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["query", "--help"], ["record", "--help"]):
        assert run(arguments) == 0
        assert "<bool>" not in capsys.readouterr().out


def test_ctrl_c_after_the_work_is_done_exits_130_without_a_traceback(trace: Path) -> None:
    code = """if True:
        import atexit, os, signal, sys
        atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from tracekit.__main__ import main
        sys.argv[1:] = ["info", sys.argv[1]]
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(trace)], capture_output=True, text=True, timeout=90
    )
    assert (done.returncode, done.stderr) == (130, "")
    assert "ops" in done.stdout
