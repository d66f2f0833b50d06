"""The strace engine knows as much as the native one: completeness, samples, steps and workers, emptied files."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tracekit.capture.command import capture_command
from tracekit.metrics.snapshot import snapshot
from tracekit.store.reader import open_reader

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
ENGINES = ("native", "strace")

SCOPES = """
    import os
    import sys
    import threading
    import tracekit

    def read(name, step, sample):
        with tracekit.step(step), tracekit.sample(sample):
            file = os.open(name, os.O_RDONLY)
            for part in range(4):
                os.pread(file, 100, 1000 * sample + 100 * part)
            os.close(file)

    read(sys.argv[1], 0, 3)
    with open(sys.argv[1], "rb", buffering=0) as file:
        file.read(7)
    thread = threading.Thread(target=read, args=(sys.argv[1], 1, 5))
    thread.start()
    thread.join()
    if not (child := os.fork()):
        read(sys.argv[1], 2, 8)
        os._exit(0)
    os.waitpid(child, 0)
"""

PIPES = """
    import os
    import subprocess
    import sys
    out = subprocess.run(["cat", sys.argv[1]], capture_output=True, check=True).stdout
    with open(sys.argv[2], "wb") as file:
        file.write(out)
    subprocess.run(["cp", sys.argv[1], sys.argv[2]], check=True)
"""

EMPTIED = """
    import os
    import subprocess
    import sys
    folder = sys.argv[1]
    open(f"{folder}/new", "w").close()
    open(f"{folder}/old", "w").close()
    open(f"{folder}/old", "a").close()
    os.close(os.open(f"{folder}/old", os.O_RDWR | os.O_TRUNC))
    os.close(os.open(f"{folder}/old", os.O_RDONLY))
    subprocess.run(["sh", "-c", f"echo word > {folder}/old"], check=True)
    try:
        open(f"{folder}/absent/file", "w")
    except OSError:
        pass
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(1 << 20))
    return path


def capture(tmp_path: Path, method: str, text: str, *arguments: object, **options: Any) -> Any:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(text))
    command = [sys.executable, str(program), *map(str, arguments)]
    return capture_command(command, tmp_path / f"{method}.trace", method=method, **options)


def rows(result: Any, columns: str, where: str) -> list[dict[str, Any]]:
    found = open_reader(result.path).query(f"SELECT {columns} FROM ops WHERE {where} ORDER BY t_submit")
    return list(found.to_pylist())


def test_samples_steps_and_workers_are_those_of_the_native_engine(data: Path, tmp_path: Path) -> None:
    found = [
        rows(
            capture(tmp_path, method, SCOPES, data),
            'uri, "offset", len, bytes, sample_id, step, rank, worker',
            f"uri = 'file://{data}'",
        )
        for method in ENGINES
    ]
    assert found[0] == found[1]
    assert [(row["sample_id"], row["step"]) for row in found[1]] == (
        [(3, 0)] * 4 + [(None, None)] + [(5, 1)] * 4 + [(8, 2)] * 4
    )
    assert [row["worker"] for row in found[1]] == [0] * 5 + [1] * 4 + [2] * 4


def test_the_share_of_the_bytes_is_known(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy.bin"
    for method in ENGINES:
        result = capture(tmp_path, method, PIPES, data, out, require_complete=0.99)
        assert result.complete, result.notes
        kept = result.completeness
        assert (kept.share, kept.read_bytes, kept.written_bytes) == (1.0, 2 << 20, 2 << 20), method
    assert open_reader(result.path).completeness["share"] == 1.0


def test_a_file_that_is_emptied_when_it_is_opened_is_truncated(tmp_path: Path) -> None:
    found = []
    for method in ENGINES:
        (tmp_path / "old").write_bytes(b"text")
        result = capture(tmp_path, method, EMPTIED, tmp_path, include=[f"{tmp_path}/*"])
        found.append(rows(result, "op, uri, len", "op = 'truncate'"))
    assert found[0] == found[1]
    assert [row["uri"].rpartition("/")[2] for row in found[0]] == ["new", "old", "old", "old"]
    assert {row["len"] for row in found[0]} == {0}


@pytest.mark.parametrize("method", [*ENGINES, "hooks"])
def test_a_name_that_ends_as_those_of_deleted_files_do_is_kept_by_every_engine(method, tmp_path, trace):
    folder, link = tmp_path / "in (deleted)", tmp_path / "link"
    folder.mkdir()
    name, gone = folder / "x (deleted)", folder / "gone"
    name.write_bytes(bytes(100))
    gone.write_bytes(bytes(200))
    link.symlink_to(name)
    code = """
        import os, sys
        os.chdir(sys.argv[1])
        name, gone, link = (os.open(name, os.O_RDONLY) for name in ("x (deleted)", "gone", sys.argv[2]))
        os.unlink("gone")
        os.read(name, 30), os.read(gone, 60)
        os.truncate("x (deleted)", 50)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder), str(link)]
    done = capture_command(command, trace, method=method, include=[f"{folder}/*"], hooks="files")
    assert done.exit_code == 0
    found = (
        open_reader(trace)
        .query("SELECT op, uri, sum(bytes) AS b FROM ops GROUP BY ALL ORDER BY ALL")
        .to_pylist()
    )
    wanted = [("delete", gone, None), ("read", gone, 60), ("read", name, 30), ("truncate", name, None)]
    assert [(row["op"], row["uri"], row["b"]) for row in found] == [
        (op, f"file://{file}", moved) for op, file, moved in wanted
    ]


@pytest.mark.parametrize("method", [*ENGINES, "hooks"])
def test_a_copy_of_all_there_is_was_asked_for_what_it_moved(method, tmp_path, trace):
    """As `cp` does: a count that no call can move would be written by a replay, and no sum of lengths could hold it."""
    (tmp_path / "from").write_bytes(bytes(5000))
    code = """
        import os, sys
        os.chdir(sys.argv[1])
        source, target = os.open("from", os.O_RDONLY), os.open("to", os.O_WRONLY | os.O_CREAT)
        while os.copy_file_range(source, target, 1 << 62): pass
        os.copy_file_range(source, target, 7000, 0, 5000)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = capture_command(command, trace, method=method, include=[f"{tmp_path}/*"], hooks="files")
    assert done.exit_code == 0
    found = open_reader(trace).query('SELECT op, "offset" AS place, len, bytes FROM ops ORDER BY ALL')
    copies = [(0, 5000, 5000), (5000, 0, 0)]
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        *(("read", *copy) for copy in sorted([*copies, (0, 7000, 5000)])),
        *(("write", *copy) for copy in sorted([*copies, (5000, 7000, 5000)])),
    ]
    assert snapshot(open_reader(trace)).requested_bytes == 24_000


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX"])
def test_the_share_is_unknown_where_a_port_of_stores_was_connected_to(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(500_000))
    program = """
        import socket, sys
        with socket.socket(getattr(socket, sys.argv[2])) as client:
            client.connect_ex({"AF_INET": ("127.0.0.1", 9), "AF_INET6": ("::1", 9)}.get(sys.argv[2], "/no/socket"))
        with open(sys.argv[1], "rb") as file:
            file.read()
    """
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    done = capture_command(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "x.bin"), family],
        tmp_path / "run.trace",
        method="strace",
        include=[f"{tmp_path}/*"],
        require_complete=0.99,
    )
    kept = done.completeness
    if family == "AF_UNIX":
        assert kept is not None and (kept.share, kept.unseen, done.complete) == (1.0, (), True)
    else:
        assert kept is not None and (kept.share, done.complete) == (None, False)
        assert kept.unseen == ("port 9 (AWS_ENDPOINT_URL_S3)",)
        assert any("port 9" in note and "not fully recorded" in note for note in done.notes)


def test_the_share_is_unknown_where_a_native_client_has_connected_to_any_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow.fs")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    (tmp_path / "x.bin").write_bytes(bytes(500_000))
    program = """
        import socket, sys
        import pyarrow.fs
        if sys.argv[2] == "connected":
            with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
                pass
        with open(sys.argv[1], "rb") as file:
            file.read()
    """
    for what, known in (("connected", (None, ("libarrow",))), ("alone", (1.0, ()))):
        done = capture_command(
            [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "x.bin"), what],
            tmp_path / f"{what}.trace",
            method="strace",
            include=[f"{tmp_path}/*"],
        )
        assert done.completeness is not None
        assert (done.completeness.share, done.completeness.unseen) == known
