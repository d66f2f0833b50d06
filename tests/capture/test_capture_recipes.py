"""The recipes of docs/recipes.md and docs/capture.md run, and record what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tracekit.capture.known import HOOKS
from tracekit.capture.native import NativeEngine
from tracekit.capture.tools.strace import StraceEngine
from tracekit.store.reader import open_reader

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def recipe(title: str, language: str = "python") -> list[str]:
    page = (DOCS / "recipes.md").read_text()
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    found = [body for kind, body in _BLOCK.findall(section) if kind == language]
    assert found, title
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "records.bin").write_bytes(os.urandom(64_000))
    return tmp_path


@pytest.fixture
def bucket(s3_env):
    import contextlib
    import io
    import urllib.error

    import pyarrow as pa
    import pyarrow.parquet as pq

    def parquet() -> bytes:
        out = io.BytesIO()
        pq.write_table(pa.table({"a": range(30_000), "b": range(30_000)}), out, row_group_size=10_000)
        return out.getvalue()

    with contextlib.suppress(urllib.error.HTTPError):  # another test has made it
        s3_env.make_bucket("training")
    s3_env.put("training", "frame.parquet", parquet())
    for part in range(2):
        s3_env.put("training", f"parts/{part}.parquet", parquet())
    s3_env.put("training", "table.csv", b"x,y\n" + b"1,2\n" * 5000)
    return "training"


def run(code: str, folder: Path) -> str:
    script = folder / "recipe.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shell(code: str, folder: Path) -> str:
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", code], cwd=folder, env=environ, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def query(trace: Path, sql: str = "SELECT * FROM ops ORDER BY t_submit") -> list[dict]:
    return open_reader(trace).query(sql).to_pylist()


def test_pytorch(folder):
    pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")
    run(recipe("PyTorch")[0], folder)
    (sql,) = recipe("PyTorch", "sql")
    found = query(folder / "torch.trace", sql)
    assert [row["samples"] for row in found] == [8] * 8
    assert all(row["bytes"] >= 8000 for row in found)


def test_a_loop_of_your_own(folder):
    run(recipe("A loop of your own")[0], folder)
    found = {(row["step"], row["sample_id"]) for row in query(folder / "loop.trace")}
    assert found == {(sample // 2, sample) for sample in range(8)}


def test_pandas(folder, bucket):
    pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    assert run(recipe("pandas over fsspec")[0], folder).split() == ["30000", "5000"]
    reads = query(folder / "pandas.trace", "SELECT * FROM ops WHERE op IN ('read', 'get')")
    assert {(row["uri"], row["step"]) for row in reads} == {
        ("s3://training/frame.parquet", 0), ("s3://training/table.csv", 1),
    }  # fmt: skip


def test_parquet_by_pyarrow(folder, bucket):
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    assert int(run(recipe("Parquet by pyarrow")[0], folder)) >= 5
    found = query(folder / "parquet.trace")
    assert {row["uri"] for row in found} == {f"s3://training/parts/{part}.parquet" for part in range(2)}
    assert all(row["offset"] is not None for row in found if row["op"] == "read")


def test_a_cache_from_both_sides(folder, bucket):
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    run(recipe("Above and below a cache")[0], folder)
    (sql,) = recipe("Above and below a cache", "sql")
    below, above = query(folder / "cache.trace", sql)
    assert (below["ops"], below["bytes"]) == (1, 20_004)
    assert above["ops"] >= 3 and above["bytes"] >= 3000


@pytest.mark.parametrize(
    "title, library, trace",
    [("boto3", "boto3", "boto3.trace"), ("obstore", "obstore", "obstore.trace")],
)
def test_object_clients(title, library, trace, folder, bucket):
    pytest.importorskip(library, reason=f"{library} is not installed")
    run(recipe(title)[0], folder)
    found = query(folder / trace)
    assert {row["uri"] for row in found} == {"s3://training/table.csv"}
    if title == "boto3":
        assert [(row["sample_id"], row["offset"], row["bytes"]) for row in found] == [
            (sample, sample * 1000, 1000) for sample in range(10)
        ]
    else:
        assert [(row["op"], row["offset"], row["bytes"]) for row in found] == [
            ("read", 100, 500),
            ("get", None, 20_004),
        ]


def test_azure(folder, az_env):
    blob = pytest.importorskip("azure.storage.blob", reason="azure-storage-blob is not installed")
    with blob.BlobServiceClient.from_connection_string(az_env.connection_string) as service:
        if not service.get_container_client("training").exists():
            service.create_container("training")
        service.get_blob_client("training", "table.csv").upload_blob(b"1,2\n" * 1000, overwrite=True)
    run(recipe("Azure")[0], folder)
    assert [(row["op"], row["offset"], row["bytes"]) for row in query(folder / "azure.trace")] == [
        ("read", 100, 500), ("get", None, 4000),
    ]  # fmt: skip


def test_an_unmodified_command(folder):
    plain, traced = recipe("An unmodified command", "bash")
    if NativeEngine().available() is None:
        pytest.skip("there is no native engine and no C compiler")
    assert "capture" in shell(plain, folder)
    assert sum(row["bytes"] for row in query(folder / "command.trace")) >= 64_000
    if StraceEngine().available() is None:
        pytest.skip("strace is not installed")
    shell(traced, folder)
    assert {row["uri"] for row in query(folder / "traced.trace")} == {f"file://{folder}/records.bin"}


def test_zero_code(folder):
    shell(recipe("Without any code, by the environment", "bash")[0], folder)
    assert {row["uri"] for row in query(folder / "environment.trace")} == {f"file://{folder}/records.bin"}


def test_a_service_that_runs_for_long(folder):
    if NativeEngine().available() is None:
        pytest.skip("there is no native engine and no C compiler")
    assert "overhead" in shell(recipe("A service that runs for long", "bash")[0], folder)
    read = "SELECT sum(bytes) AS b FROM ops WHERE uri LIKE '%records.bin'"
    (copy,) = (folder / "archive").iterdir()
    for trace in (folder / "served.trace", copy):
        assert query(trace, read) == [{"b": 64_000}]


def test_every_recipe_runs_in_a_test():
    titles = re.findall(r"^## (.+)$", (DOCS / "recipes.md").read_text(), re.MULTILINE)
    tested = Path(__file__).read_text()
    assert [title for title in titles if f'"{title}"' not in tested] == []


def test_every_hook_is_documented():
    page = (DOCS / "capture.md").read_text()
    for hook in HOOKS:
        assert f"`{hook}`" in page, hook


def test_the_python_examples_of_the_capture_page_run(folder):
    for code in re.findall(r"```python\n(.*?)```", (DOCS / "capture.md").read_text(), re.DOTALL):
        run(code, folder)
