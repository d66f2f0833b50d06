"""The command line as a user calls it: one line for what is wrong, JSON for machines, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tracekit.recorder import Recorder


def tracekit(*arguments: object, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tracekit", *(str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    data = tmp_path / "a.bin"
    data.write_bytes(b"x" * (1 << 20))
    with Recorder(tmp_path / "t") as recorder:
        start = time.monotonic_ns()
        for i in range(200):
            recorder.record(
                f"file://{data}",
                i * 4096,
                4096,
                start + i * 1_000_000,
                50_000,
                bytes=4096,
                sample_id=i,
                step=i // 10,
            )
    return tmp_path / "t"


def test_every_verb_has_help_with_an_example() -> None:
    from tracekit.cli.app import VERBS, load

    assert {
        "demo",
        "record",
        "info",
        "stats",
        "query",
        "replay",
        "compare",
        "materialize",
        "import",
        "verify",
        "repair",
    } <= set(VERBS)
    for command in map(load, VERBS):
        assert command.epilog, command.name
        assert "Example" in command.epilog, command.name
        assert f"tracekit {command.name}" in command.epilog
        assert command.callback is not None
        assert command.callback.__doc__, command.name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "/nowhere/at/all"], "/nowhere/at/all: no such trace"),
        (["stats", "/etc/hostname"], "truncated or not a Parquet"),
        (["replay", "TRACE", "--speed", "0"], "--speed"),
        (["replay", "TRACE", "--pace", "fast"], "recorded, closed, asap"),
        (["replay", "TRACE", "--max-bytes-in-flight", "lots"], "--max-bytes-in-flight 'lots' is not valid"),
        (["replay", "TRACE", "--map", "nonsense"], "FROM=TO"),
        (["query", "TRACE", "SELEKT 1"], "query:"),
        (["query", "TRACE", "DROP VIEW ops"], "one SELECT"),
        (["query", "TRACE", "FROM ops", "--parquet"], "give -o"),
        (["query", "TRACE", "FROM ops", "-o", "OUT"], "give --csv, --json or --parquet"),
        (["materialize", "TRACE", "--map", "file:///elsewhere=file:///x"], "no --map rule matches"),
        (["compare", "TRACE", "TRACE", "--tolerance", "-1"], "tolerance"),
        (["import", "nonsense", "x", "-o", "y"], "dftracer"),
        (["record", "gs://bucket/x", "-o", "OUT"], "gs"),
        (["bogus"], "bogus"),
        (["info"], "TRACE"),
        (["repair", "/nowhere"], "not a trace directory"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_exit_code_2(
    trace: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    places = {"TRACE": str(trace), "OUT": str(tmp_path / "out")}
    run = tracekit(*(places.get(a, a) for a in arguments))
    assert run.returncode == 2, run
    assert words in run.stderr
    assert run.stderr.count("\n") == 1
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    assert not (tmp_path / "out").exists()


def test_info_prints_json(trace: Path) -> None:
    facts = json.loads(tracekit("info", trace, "--json").stdout)
    assert (facts["ops"], facts["source"], facts["segments"], facts["unfinished_segments"]) == (
        200,
        "loader",
        1,
        0,
    )
    assert facts["last_submit_ns"] - facts["first_submit_ns"] == 199_000_000
    assert (facts["bytes"], facts["streams"]) == (200 * 4096, 1)


def test_info_prints_one_line_for_each_fact_without_padding(trace: Path) -> None:
    lines = tracekit("info", trace).stdout.splitlines()
    assert [line.split()[0] for line in lines[:9]] == [
        "trace", "source", "schema", "ops", "bytes", "streams", "span", "segments", "columns",
    ]  # fmt: skip
    assert all(line == line.rstrip() for line in lines)


def test_a_name_that_is_not_utf_8_is_one_line_from_every_verb_that_reads(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/t\xff"
    Path(os.fsdecode(name)).mkdir()
    for verb in (["info"], ["stats"], ["verify"], ["repair"], ["query", "FROM ops"], ["replay"]):
        command: list[str | bytes] = [sys.executable, "-m", "tracekit", verb[0], name, *verb[1:]]
        run = subprocess.run(command, capture_output=True, timeout=90)
        assert run.returncode == 2
        assert run.stderr.count(b"\n") == 1
        assert b"is not a valid name for a trace" in run.stderr


def test_ctrl_c_while_the_command_line_is_imported_is_one_line() -> None:
    code = """if True:
        import os, signal, sys
        class Interrupting:
            def find_spec(self, name, path=None, target=None):
                if name == "tracekit.cli.app":
                    os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, Interrupting())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from tracekit.__main__ import main
        main()
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "tracekit: interrupted\n")


def test_stats_prints_json_csv_and_a_table(trace: Path, tmp_path: Path) -> None:
    assert json.loads(tracekit("stats", trace, "--json").stdout)["bytes"] == 200 * 4096
    assert tracekit("stats", trace, "--csv").stdout.startswith("metric,value,unit\n")
    assert "800 KiB" in tracekit("stats", trace).stdout
    run = tracekit("stats", trace, "-o", tmp_path / "s.json")
    assert (run.returncode, run.stdout) == (0, "")
    assert json.loads((tmp_path / "s.json").read_text())["ops"] == 200
    assert tracekit("stats", trace, "--json", "--csv").returncode == 2


def test_query_prints_rows_in_every_format(trace: Path, tmp_path: Path) -> None:
    sql = "SELECT step, sum(bytes)::BIGINT AS bytes FROM ops GROUP BY step ORDER BY step LIMIT 2"
    assert "40960" in tracekit("query", trace, sql).stdout
    assert tracekit("query", trace, sql, "--csv").stdout.splitlines()[1] == "0,40960"
    assert json.loads(tracekit("query", trace, sql, "--json").stdout)[1] == {"step": 1, "bytes": 40960}
    assert tracekit("query", trace, sql, "--parquet", "-o", tmp_path / "q.parquet").returncode == 0
    assert pq.read_table(tmp_path / "q.parquet").num_rows == 2


def test_a_query_cannot_reach_other_files(trace: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\nhidden\n")
    run = tracekit("query", trace, f"SELECT * FROM read_csv('{tmp_path}/secret.csv')")
    assert run.returncode == 2
    assert "hidden" not in run.stdout + run.stderr


def test_the_exit_code_of_replay_says_whether_parity_holds(trace: Path, tmp_path: Path) -> None:
    again = ("replay", trace, "-o", tmp_path / "r", "--overwrite", "--pace", "asap")  # judges no times
    run = tracekit(*again, "--json")
    assert run.returncode == 0, run
    summary = json.loads(run.stdout)
    assert summary["parity"]["ok"]
    assert summary["ops"] == 200
    assert tracekit("compare", trace, tmp_path / "r").returncode == 0
    slower = tracekit("compare", trace, trace, "--speed", "10", "--json")
    assert slower.returncode == 1
    assert not json.loads(slower.stdout)["ok"]
    assert tracekit("replay", trace, "-o", tmp_path / "r").returncode == 2
    assert "parity holds" in tracekit(*again).stdout


def test_a_replay_with_failed_ops_exits_1_and_shows_the_first(trace: Path, tmp_path: Path) -> None:
    with (tmp_path / "a.bin").open("rb+") as file:
        file.truncate(400 * 1024)
    run = tracekit("replay", trace)
    assert run.returncode == 1
    assert "100 ops failed" in run.stdout
    assert "short_read" in run.stdout


def test_verify_reports_and_repair_salvages_what_a_crash_left(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom tracekit.recorder import Recorder\nr = Recorder(sys.argv[1])\n"
        "for i in range(100): r.record('file:///x', i, 1, time.monotonic_ns(), 1)\nr.flush()\nos._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "t")], check=True, timeout=60)
    run = tracekit("verify", tmp_path / "t", "--json")
    assert run.returncode == 1
    assert not json.loads(run.stdout)["whole"]
    assert json.loads(tracekit("repair", tmp_path / "t", "--json").stdout)["ops_salvaged"] == 100
    assert tracekit("verify", tmp_path / "t").returncode == 0


def test_a_recording_of_real_files_can_be_measured_and_replayed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for i in range(8):
        (data / f"{i}.bin").write_bytes(bytes([i]) * 200_000)
    run = tracekit(
        "record", data, "-o", tmp_path / "t", "--batch-size", "2", "--target-request-bytes", "64KiB", "--json"
    )
    assert run.returncode == 0, run.stderr
    facts = json.loads(tracekit("stats", tmp_path / "t", "--json").stdout)
    assert facts["bytes"] == 1_600_000
    assert facts["steps"] == 4
    assert tracekit("replay", tmp_path / "t", "--pace", "asap").returncode == 0


def test_the_version_is_that_of_the_package() -> None:
    import tracekit as package

    assert tracekit("--version").stdout == f"tracekit {package.__version__}\n"


def test_a_closed_pipe_is_not_an_error(trace: Path) -> None:
    command = f"{sys.executable} -m tracekit query {trace} 'FROM ops' --csv | head -1"
    run = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60
    )
    assert run.stderr == ""
    assert run.stdout.count("\n") == 1


@pytest.mark.parametrize("verb", ["stats TRACE", "query TRACE 'FROM ops'", "compare TRACE TRACE"])
def test_a_pipe_closed_inside_a_table_is_not_an_error(trace: Path, verb: str) -> None:
    command = f"{sys.executable} -m tracekit {verb.replace('TRACE', str(trace))} | true"
    run = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=90
    )
    assert run.returncode == 0, run


def test_an_interrupted_query_says_so_and_exits_130(trace: Path) -> None:
    code = (
        "import os, signal, sys, threading\nfrom tracekit.cli.app import run\n"
        "threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()\nsys.exit(run(sys.argv[1:]))\n"
    )
    endless = "SELECT count(*) FROM range(100000000000) a, range(100000000000) b"
    command = [sys.executable, "-c", code, "query", str(trace), endless, "--threads", "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "tracekit: interrupted\n")


def test_ctrl_c_while_a_query_is_set_up_is_an_interrupt(trace: Path) -> None:
    code = """if True:
        import signal, sys
        from tracekit import trace
        from tracekit.cli.app import run
        class Interrupted:  # as DuckDB finds it when the signal comes while it asks for rows
            def __arrow_c_stream__(self, requested_schema=None):
                signal.raise_signal(signal.SIGINT)
        install = trace.install
        def interrupted(connection):
            install(connection)
            connection.register("rows", Interrupted())
            connection.sql("FROM rows").fetchall()
        trace.install = interrupted
        sys.exit(run(sys.argv[1:]))
    """
    run = subprocess.run(
        [sys.executable, "-c", code, "query", str(trace), "FROM ops"],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "tracekit: interrupted\n")


def test_a_comparison_with_an_empty_trace_is_valid_json(trace: Path, tmp_path: Path) -> None:
    with Recorder(tmp_path / "empty"):
        pass
    run = tracekit("compare", tmp_path / "empty", trace, "--json")
    assert run.returncode == 1
    summary = json.loads(run.stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    (ops,) = [row for row in summary["metrics"] if row["metric"] == "ops"]
    assert (ops["a"], ops["b"], ops["difference"], ops["ok"]) == (0, 200, None, False)


@pytest.mark.parametrize("verb", [("stats",), ("replay", "--dry-run")])
def test_a_verb_leaves_out_packages_that_it_does_not_need(trace: Path, verb: tuple[str, ...]) -> None:
    """pyarrow would import pandas, and numba SciPy, which takes longer than the verb."""
    words = [sys.executable, "-X", "importtime", "-m", "tracekit", verb[0], str(trace), *verb[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pyarrow" in imported and {"pandas.core", "scipy.linalg"}.isdisjoint(imported)
