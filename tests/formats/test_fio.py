"""fio iologs: both versions in, version 3 out, and the real fio replays what was written."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit.errors import TraceFormatError, UsageError
from tracekit.formats.registry import export_trace, import_trace
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

FIO = shutil.which("fio")
with_fio = pytest.mark.skipif(FIO is None, reason="fio is not installed")
SQL = 'SELECT t_submit, uri, op, "offset", len, latency FROM ops ORDER BY t_submit'


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_reader(path).query(SQL).to_pylist()
    return found


def made(path: Path, **columns: Any) -> Path:
    rows_ = len(columns["uri"])
    filled = {"t_submit": [i * 1000 for i in range(rows_)], "offset": [0] * rows_, "len": [512] * rows_,
              "latency": [10] * rows_, "sample_id": [None] * rows_, **columns}  # fmt: skip
    with TraceWriter(path, source="test", epoch_unix_ns=0) as writer:
        writer.write(pa.RecordBatch.from_pydict({k: pa.array(v, pa.int64()) if k not in ("uri", "op", "error") else v
                                                 for k, v in filled.items()}))  # fmt: skip
    return path


def fio(folder: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        [str(FIO), "--name=job", "--output-format=json", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    job: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    return job


@with_fio
def test_the_real_fio_replays_an_export_in_its_cadence(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    a, b = f"file://{tmp_path}/a", f"file://{tmp_path}/b"
    made(tmp_path / "t", uri=[a, b, a, b, a], op=["read", "read", "get", "put", "read"],
         t_submit=[0, 100_000_000, 200_000_000, 300_000_000, 700_000_000], offset=[0, 4096, None, 8192, 65536],
         len=[4096, 8192, None, 4096, 131072], bytes=[4096, 8192, 1 << 20, 4096, 131072])  # fmt: skip
    done = export_trace("fio", tmp_path / "t", tmp_path / "io.log")
    assert done.ops == 5
    job = fio(tmp_path, f"--read_iolog={tmp_path}/io.log", "--ioengine=psync")
    assert job["read"]["total_ios"] == 4
    assert job["read"]["io_bytes"] == 4096 + 8192 + (1 << 20) + 131072
    assert (job["write"]["total_ios"], job["write"]["io_bytes"]) == (1, 4096)
    assert job["job_runtime"] >= 650


@with_fio
def test_a_log_that_the_real_fio_wrote_comes_in_with_what_fio_reports(tmp_path: Path) -> None:
    options = [
        f"--filename={tmp_path}/f",
        "--size=1m",
        "--bs=16k",
        "--rw=randrw",
        f"--write_iolog={tmp_path}/io.log",
    ]
    job = fio(tmp_path, *options, "--thinktime=1ms")
    import_trace("fio", tmp_path / "io.log", tmp_path / "t", strict=True)
    got = rows(tmp_path / "t")
    assert sum(r["op"] == "read" for r in got) == job["read"]["total_ios"]
    assert sum(r["op"] == "write" for r in got) == job["write"]["total_ios"]
    assert {r["len"] for r in got} == {16384}
    assert sorted(r["offset"] for r in got) == list(range(0, 1 << 20, 16384))
    assert got[-1]["t_submit"] >= 50_000_000


def test_waits_of_version_2_are_relative_on_request_as_the_manual_says(tmp_path: Path) -> None:
    log = tmp_path / "io.log"
    log.write_text(
        "fio version 2 iolog\n/d/a add\n/d/a open\n/d/a read 0 512\n/d/a wait 100 0\n/d/a read 512 512\n"
        "/d/a wait 200 0\n/d/a write 0 512\n/d/a sync 0 0\n/d/a close\n"
    )
    done = import_trace("fio", log, tmp_path / "t", strict=True, wait_unit="us")
    assert [(r["t_submit"], r["op"], r["offset"], r["latency"]) for r in rows(tmp_path / "t")] == [
        (0, "read", 0, None), (100_000, "read", 512, None), (300_000, "write", 0, None), (300_000, "sync", None, None)
    ]  # fmt: skip
    assert any("as fio's manual says" in note for note in done.notes)


def test_what_an_iolog_cannot_say_is_left_out_and_reported(tmp_path: Path) -> None:
    uris = [
        "file:///d/a",
        "file:///d/with space",
        "file:///d/a",
        "file:///d/a",
        "s3://b/k",
        "file:///d/a",
        "file:///d/a",
    ]
    made(tmp_path / "t", uri=uris, op=["read", "read", "read", "stat", "get", "read", "read"],
         offset=[0, 0, None, None, None, 7, 5 << 32], len=[1, 1, 1, None, 9, 9, (4 << 30) + 5],
         error=[None] * 5 + ["not_found", None])  # fmt: skip
    done = export_trace("fio", tmp_path / "t", tmp_path / "io.log")
    text = (tmp_path / "io.log").read_text()
    assert done.ops == 3
    assert " space" not in text
    assert "s3/b/k read 0 9" in text
    assert text.count(" 1073741824\n") == 4
    assert f"/d/a read {(5 << 32) + (4 << 30)} 5\n" in text
    assert text.splitlines()[1].split()[0] == "1"
    assert [len(note) > 0 for note in done.notes] == [True] * 5
    assert import_trace("fio", tmp_path / "io.log", tmp_path / "u", strict=True).ops == 7


def test_each_bad_line_is_reported_by_its_number(tmp_path: Path) -> None:
    bad = ["x", "/d/a read 0 512", "-1 /d/a read 0 512", "5 /d/a read -1 512", "5 /d/a fly 0 1", "5 /d/a fly",
           f"{10**18} /d/a read 0 512", f"5 /d/a read {10**30} 1", "NaN /d/a read 0 1", "5 /d/a wait 1 1"]  # fmt: skip
    log = tmp_path / "io.log"
    log.write_text("fio version 3 iolog\n5 /d/a read 0 512\n" + "\n".join(bad) + "\n")
    done = import_trace("fio", log, tmp_path / "t")
    assert (done.ops, done.skipped) == (1, len(bad))
    for line in bad:
        log.write_text(f"fio version 3 iolog\n5 /d/a read 0 512\n{line}\n")
        with pytest.raises(TraceFormatError, match="line 3: "):
            import_trace("fio", log, tmp_path / "s", strict=True)


@examples(30)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 2**40), st.integers(1, 2**20), st.sampled_from("abc"),
                  st.sampled_from(["read", "write"])),
        min_size=1, max_size=30,
    )
)  # fmt: skip
def test_reads_and_writes_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, ops: list[tuple[int, int, int, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("fio")
    at, offset, length, name, kind = zip(*sorted(ops), strict=True)
    made(folder / "t", uri=[f"file:///d/{n}" for n in name], op=list(kind), offset=offset, len=length,
         t_submit=[t * 1000 for t in at])  # fmt: skip
    export_trace("fio", folder / "t", folder / "io.log")
    import_trace("fio", folder / "io.log", folder / "u", strict=True)
    assert [(r["t_submit"], r["uri"], r["op"], r["offset"], r["len"]) for r in rows(folder / "u")] == [
        ((t - at[0]) * 1000, f"file:///d/{n}", k, o, s)
        for t, o, s, n, k in zip(at, offset, length, name, kind, strict=True)
    ]


def test_waits_of_version_2_are_ms_since_the_start_as_fio_replays_them(tmp_path: Path) -> None:
    log = tmp_path / "io.log"
    log.write_text(
        "fio version 2 iolog\n/d/a add\n/d/a open\n/d/a read 0 512\n/d/a wait 100 0\n/d/a read 512 512\n"
        "/d/a wait 50 0\n/d/a read 1 1\n/d/a wait 200 0\n/d/a write 0 512\n"
    )
    done = import_trace("fio", log, tmp_path / "t", strict=True)
    assert [r["t_submit"] // 10**6 for r in rows(tmp_path / "t")] == [0, 100, 100, 200]
    assert any("wait_unit=us" in note for note in done.notes)
    with pytest.raises(UsageError, match=r"wait_unit='s' is unknown .*choose ms, us"):
        import_trace("fio", log, tmp_path / "u", wait_unit="s")
