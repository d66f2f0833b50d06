"""`tracekit.testing`: the assertion, the pytest plugin in runs of its own, and the example workflow."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

import tracekit
from tracekit.testing import assert_parity

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "docs" / "testing.md"
WORKFLOW = REPO / "docs" / "workflows" / "parity.yml"
PLUGIN = "tracekit.testing.plugin"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def bash(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": path, "PYTEST_ADDOPTS": f"-p {PLUGIN}"},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def project(folder: Path) -> Path:
    """The project that the page describes: data, and the test of the loader."""
    (folder / "data").mkdir()
    for index in range(32):
        (folder / "data" / f"{index:02}").write_bytes(os.urandom(50_000))
    (folder / "tests").mkdir()
    (folder / "tests" / "test_loader.py").write_text(blocks("python")[1])
    return folder


def test_the_entry_point_names_the_plugin() -> None:
    entries = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert entries == {PLUGIN: PLUGIN}


def test_the_pages_example_of_the_assertion_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr


def test_a_failed_comparison_is_an_assertion_that_names_what_failed(tmp_path: Path) -> None:
    for name, length in (("a", 4096), ("b", 8192)):
        with tracekit.Recorder(tmp_path / name) as recorder:
            for index in range(20):
                recorder.record(
                    "file:///x", index * 8192, length, index * 1000, 100, bytes=length, sample_id=index
                )
    assert assert_parity(tmp_path / "a", tmp_path / "a").ok
    with pytest.raises(
        AssertionError, match=r"differs from the first run: (?s:.*)req_bytes_hist: 0 and 0\.5 distance"
    ):
        assert_parity(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError, match=r"gate failed: latency_p99<=0\.1x(?s:.*)latency_p99<=0\.1x: "):
        assert_parity(tmp_path / "a", tmp_path / "a", judge=["latency_p99<=0.1x"])


def test_the_example_workflow_runs_and_leaves_its_reports(tmp_path: Path) -> None:
    folder = project(tmp_path)
    commands = re.findall(r"^ +run: (.+)$", WORKFLOW.read_text(), re.MULTILINE)
    assert len(commands) == 5
    assert blocks("yaml")[0].strip() in WORKFLOW.read_text()
    for command in commands:
        if shlex.split(command)[:2] == ["pip", "install"]:
            continue  # what is under test is installed already
        done = bash(command, folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    suites = ElementTree.parse(folder / "results" / "parity.xml").getroot()
    assert {case.get("name") for case in suites.iter("testcase")} >= {
        "completeness",
        "identity",
        "throttled==0",
    }
    properties = [
        (each.get("name"), each.get("value"))
        for each in ElementTree.parse(folder / "results" / "pytest.xml").getroot().iter("property")
    ]
    assert properties == [("parity", "parity holds")]
    (kept,) = (folder / "results" / "tests").glob("*.json")
    assert json.loads(kept.read_text())["ok"] is True
    assert kept.with_suffix(".xml").exists()


def test_a_comparison_that_fails_fails_the_test_and_is_kept(tmp_path: Path) -> None:
    folder = project(tmp_path)
    path = folder / "tests" / "test_loader.py"
    path.write_text(path.read_text().replace('"failed_ops==0"', '"ops>=1000000"'))
    done = bash("python -m pytest -q --parity-dir kept tests", folder)
    assert done.returncode == 1
    assert "gate failed: ops>=1000000" in done.stdout
    assert "Traceback" not in done.stdout
    (kept,) = (folder / "kept").glob("*.json")
    assert json.loads(kept.read_text())["gates"][0]["ok"] is False


def test_the_plugin_imports_nothing_of_tracekit_that_costs_time(tmp_path: Path) -> None:
    code = f"import sys, {PLUGIN}; print(*sorted(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pyarrow", "duckdb", "numpy", "obstore"} & set(done.stdout.split())
