# ruff: noqa: PTH123
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tracekit import capture
from tracekit.capture import session
from tracekit.errors import UsageError
from tracekit.store.reader import open_reader

HEAVY = ("boto3", "botocore", "aiobotocore", "fsspec", "azure", "obstore", "torch", "s3torchconnector")


def python(code: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_importing_and_starting_imports_no_hooked_library(trace):
    done = python(f"""
        import sys, tracekit, tracekit.capture
        tracekit.capture.start({str(trace)!r}, hooks=["auto", "files"])
        print([name for name in {HEAVY!r} if name in sys.modules])
    """)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_captured_program_gets_no_library_before_its_own_first_line(trace):
    done = python(
        """
        import sys, tracekit.capture
        assert tracekit.capture.active() is not None
        print([name for name in ("numpy", "pyarrow", "duckdb", "polars") if name in sys.modules])
        """,
        TRACEKIT_TRACE=str(trace),
        PYTHONPATH=session.with_bootstrap(os.environ.get("PYTHONPATH")),
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_public_face_is_whole_whatever_is_imported_first():
    done = python("""
        import tracekit.replayer.plan
        import tracekit
        from tracekit import replay
        assert callable(replay) and tracekit.replay is replay
        assert tracekit.replay is not tracekit.replayer
        assert [name for name in tracekit.__all__ if not hasattr(tracekit, name)] == []
        assert set(tracekit.__all__) <= set(dir(tracekit))
        assert tracekit.schema.OPS is not None and not hasattr(tracekit, "nothing")
        with tracekit.step(3), tracekit.sample(4):
            assert tracekit.capture.context.where() == (4, 3)
        assert tracekit.open is tracekit.capture.open
    """)
    assert done.returncode == 0, done.stderr


def test_start_without_a_trace_says_what_to_give(monkeypatch):
    monkeypatch.delenv("TRACEKIT_TRACE", raising=False)
    with pytest.raises(UsageError, match="TRACEKIT_TRACE"):
        capture.start()


def test_an_unknown_hook_is_named_with_the_known_ones(trace):
    with pytest.raises(UsageError, match=r"'gopher'.*fsspec"):
        capture.start(trace, hooks=["gopher"])


def test_a_path_that_cannot_hold_a_trace_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError):
        capture.start(tmp_path / "file", hooks=[])
    assert capture.active() is None


def test_two_captures_at_once_are_refused(trace, tmp_path):
    with capture.start(trace, hooks=[]), pytest.raises(UsageError, match="already capturing"):
        capture.start(tmp_path / "other", hooks=[])


def test_stop_puts_everything_back(trace):
    before = (open, os.pread, os.environ.get("PYTHONPATH"))
    with capture.start(trace, hooks=["files"]):
        assert open is not before[0]
    assert (open, os.pread, os.environ.get("PYTHONPATH")) == before
    assert capture.active() is None
    capture.stop()


def test_a_hook_is_installed_when_its_library_is_imported(trace, tmp_path):
    (tmp_path / "data.bin").write_bytes(b"x" * 100)
    done = python(f"""
        import sys, tracekit.capture
        tracekit.capture.start({str(trace)!r}, hooks=["fsspec"])
        assert "fsspec" not in sys.modules
        import fsspec
        with fsspec.open({str(tmp_path / "data.bin")!r}, "rb") as file:
            file.read(10)
    """)
    assert done.returncode == 0, done.stderr
    assert open_reader(trace).rows == 1


def test_a_failing_hook_is_counted_logged_once_and_swallowed(trace, tmp_path, caplog, monkeypatch):
    data = tmp_path / "data.bin"
    data.write_bytes(b"x" * 100)

    def broken(uri: str) -> str:
        raise RuntimeError("the hook's own fault")

    with caplog.at_level(logging.WARNING), capture.start(trace, hooks=["files"]):
        monkeypatch.setattr("tracekit.capture.hooks.files.admitted", broken)
        for _ in range(3):
            with open(data, "rb") as file:
                assert file.read() == b"x" * 100
    assert sum("own fault" in line for line in caplog.messages) == 1
    assert open_reader(trace).counters["hook_errors.files"] == 3


def test_a_recorder_that_fails_does_not_fail_the_host(trace, tmp_path, caplog):
    data = tmp_path / "data.bin"
    data.write_bytes(b"x" * 100)
    with capture.start(trace, hooks=["files"]) as running, caplog.at_level(logging.WARNING):
        running.recorder.close()
        with open(data, "rb") as file:
            assert file.read() == b"x" * 100
    assert sum("recorder" in line for line in caplog.messages) == 1


def test_children_and_grandchildren_join_through_the_environment(trace, tmp_path):
    data = tmp_path / "data.bin"
    data.write_bytes(b"x" * 100)
    child = f"open({str(data)!r}, 'rb').read()"
    grandchild = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True); {child}"
    )
    with capture.start(trace, hooks=["files"]):
        subprocess.run([sys.executable, "-c", grandchild], check=True)
    reader = open_reader(trace)
    found = reader.query("SELECT count(*) AS n, min(bytes) AS b FROM ops").to_pylist()
    assert found == [{"n": 2, "b": 100}]
    assert len(reader.segments) == 2


def test_a_program_is_captured_by_environment_variables_alone(trace, tmp_path):
    data = tmp_path / "data.bin"
    data.write_bytes(b"x" * 100)
    python(
        f"open({str(data)!r}, 'rb').read(7)",
        TRACEKIT_TRACE=str(trace),
        TRACEKIT_HOOKS="auto,files",
        PYTHONPATH=session.with_bootstrap(os.environ.get("PYTHONPATH")),
    )
    assert open_reader(trace).rows == 1


def test_another_sitecustomize_still_runs(trace, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('the other one')")
    done = python(
        "import sitecustomize; print(sitecustomize.__file__)",
        TRACEKIT_TRACE=str(trace),
        PYTHONPATH=session.with_bootstrap(f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"),
    )
    assert done.stdout.splitlines() == ["the other one", str(tmp_path / "sitecustomize.py")]


def test_a_tracekit_that_cannot_be_imported_does_not_keep_a_child_from_running(trace, tmp_path):
    (tmp_path / "tracekit").mkdir()
    (tmp_path / "tracekit" / "__init__.py").write_text("raise RuntimeError('half an installation')")
    (tmp_path / "sitecustomize.py").write_text("print('the other one')")
    done = python(
        "import sitecustomize; print('ran')",
        TRACEKIT_TRACE=str(trace),
        PYTHONPATH=session.with_bootstrap(str(tmp_path)),
    )
    assert (done.stdout.splitlines(), done.stderr) == (["the other one", "ran"], "")


def test_a_trace_that_cannot_be_written_does_not_keep_a_child_from_running(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "data").write_text("x")
    done = python(
        f"print(len(open({str(tmp_path / 'data')!r}).read()))",
        TRACEKIT_TRACE=str(tmp_path / "file"),
        TRACEKIT_HOOKS="files",
        PYTHONPATH=session.with_bootstrap(os.environ.get("PYTHONPATH")),
    )
    assert done.stdout.strip() == "1"
    assert len(done.stderr.strip().splitlines()) == 1


def test_rank_comes_from_the_launcher(trace, tmp_path):
    data = tmp_path / "data.bin"
    data.write_bytes(b"x" * 100)
    done = python(
        f"import tracekit.capture as c; c.start({str(trace)!r}, hooks=['files']); open({str(data)!r},'rb').read(1)",
        RANK="3",
        WORLD_SIZE="8",
    )
    assert done.returncode == 0, done.stderr
    assert open_reader(trace).query("SELECT rank FROM ops").to_pylist() == [{"rank": 3}]


def test_children_in_another_directory_join_a_trace_named_relatively(tmp_path):
    (tmp_path / "data").write_bytes(b"x" * 100)
    child = f"open({str(tmp_path / 'data')!r}, 'rb').read(7)"
    done = python(
        f"import os, subprocess, sys; os.mkdir('sub'); os.chdir('sub'); {child};"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True); print(os.listdir('.'))",
        cwd=tmp_path,
        TRACEKIT_TRACE="run.trace",
        TRACEKIT_HOOKS="files",
        PYTHONPATH=session.with_bootstrap(os.environ.get("PYTHONPATH")),
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
    assert open_reader(tmp_path / "run.trace").rows == 2


def test_a_full_disk_does_not_fail_the_host_or_hide_its_error(trace, tmp_path):
    (tmp_path / "data").write_bytes(b"x" * 100)
    program = f"""
        import resource, signal
        import tracekit.capture as capture
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with capture.start({str(trace)!r}, hooks=["files"]):
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
            for _ in range(20_000):
                with open({str(tmp_path / "data")!r}, "rb", buffering=0) as file:
                    assert len(file.read(7)) == 7
        print("went on")
        capture.start({str(tmp_path / "other")!r}, hooks=["files"])
        open({str(tmp_path / "data")!r}, "rb").read(7)
        raise SystemExit(5)
    """
    done = python(program)
    assert (done.stdout.strip(), done.returncode) == ("went on", 5), done.stderr
    assert "Traceback" not in done.stderr
