"""DFTracer logs: a real one's facts, offsets rebuilt, bad lines counted, nothing half-written."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit.errors import TraceFormatError, UsageError
from tracekit.formats.registry import import_trace
from tracekit.store.reader import open_reader

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
REAL = SHARED / "dftracer-dlio-unet3d.pfw.gz"


def event(
    name: str,
    ts: int,
    /,
    *,
    cat: str = "POSIX",
    pid: int = 0,
    tid: int = 7,
    dur: int = 5,
    ph: str = "X",
    **args: Any,
) -> str:
    return json.dumps(
        {
            "id": "1",
            "name": name,
            "cat": cat,
            "pid": str(pid),
            "tid": str(tid),
            "ts": str(ts),
            "dur": str(dur),
            "ph": ph,
            "args": args,
        }
    )


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("[\n" + "\n".join(lines) + "\n")
    return path


def reads(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        open_reader(path).query("SELECT * FROM ops WHERE op = 'read' ORDER BY t_submit").to_pylist()
    )
    return found


@pytest.mark.skipif(not REAL.exists(), reason="the shared real logs are not beside this checkout")
def test_a_real_dlio_run_comes_in_with_its_known_facts(tmp_path: Path) -> None:
    done = import_trace("dftracer", REAL, tmp_path / "t")
    assert done.skipped == 0
    reader = open_reader(tmp_path / "t")
    (facts,) = reader.query(
        "SELECT count(*) AS ops, sum(bytes)::BIGINT AS bytes, count(DISTINCT uri) AS files, count(DISTINCT worker) AS workers,"
        " quantile_disc(latency, 0.5) / 1e6 AS p50_ms, quantile_disc(latency, 0.99) / 1e6 AS p99_ms,"
        " count(\"offset\") AS placed, count(DISTINCT sample_id) AS samples FROM ops WHERE op = 'read'"
    ).to_pylist()
    assert (facts["ops"], facts["files"], facts["workers"]) == (5734, 99, 20)
    assert facts["bytes"] == pytest.approx(21.46e9, rel=0.001)
    assert facts["p50_ms"] == pytest.approx(1.0, rel=0.02)
    assert facts["p99_ms"] == pytest.approx(230, rel=0.01)
    assert facts["placed"] == 5734
    assert facts["samples"] > 80
    (span,) = reader.query("SELECT (max(t_submit + latency) - min(t_submit)) / 1e9 AS s FROM ops").to_pylist()
    assert 85 < span["s"] < 106


@pytest.mark.skipif(not REAL.exists(), reason="the shared real logs are not beside this checkout")
def test_a_real_run_materializes_sparse_and_replays_ten_times_faster(tmp_path: Path) -> None:
    from tracekit.replayer.materialize import materialize
    from tracekit.replayer.run import ReplayOptions, replay

    import_trace("dftracer", REAL, tmp_path / "t")
    reader = open_reader(tmp_path / "t")
    rules = (f"file:///p/lustre1=direct://{tmp_path}/disk",)
    assert materialize(reader, rules).made == 99
    result = replay(reader, ReplayOptions(map=rules, speed=10.0), out=tmp_path / "r")
    assert result.failed_ops == 0
    assert result.ops == 5734
    assert result.parity.row("req_bytes_hist").ok
    assert result.parity.row("bytes").ok
    assert result.parity.row("duration_ns").a == pytest.approx(9.16e9, rel=0.01)


def test_offsets_are_rebuilt_from_opens_seeks_and_reads_of_each_descriptor(tmp_path: Path) -> None:
    lines = [
        event("open64", 10, fname="/d/a", ret=5, flags=0),
        event("open64", 11, fname="/d/b", ret=6, flags=0),
        event("read", 20, fname="/d/a", fd=5, ret="100", count="100"),
        event("read", 30, fname="/d/b", fd=6, ret="7", count="10"),
        event("read", 40, fname="/d/a", fd=5, ret="50", count="50"),
        event("lseek64", 50, fname="/d/a", fd=5, whence=0, offset="1000", ret="1000"),
        event("read", 60, fname="/d/a", fd=5, ret="10", count="10"),
        event("pread64", 70, fname="/d/a", fd=5, ret="10", count="10", offset="77"),
        event("read", 80, fname="/d/a", fd=5, ret="10", count="10"),
        event("close", 90, fname="/d/a", fd=5, ret=0),
        event("open64", 91, fname="/d/a", ret=5, flags=0),
        event("read", 95, fname="/d/a", fd=5, ret="1", count="1"),
        event("read", 96, fname="/d/c", fd=9, ret="1", count="1"),
        event("read", 97, tid=8, fname="/d/a", fd=5, ret="1", count="1"),
    ]
    done = import_trace("dftracer", write(tmp_path / "l.pfw", lines), tmp_path / "t")
    assert [row["offset"] for row in reads(tmp_path / "t")] == [0, 0, 100, 1000, 77, 1010, 0, None, None]
    assert "2 reads" in done.notes[0]


def test_reads_know_the_sample_and_step_whose_span_they_lie_in(tmp_path: Path) -> None:
    lines = [
        event("NPZReader.open", 100, cat="reader", dur=100, image_idx=42, step=3, epoch=1),
        event("read", 110, fname="/d/a", fd=5, ret="1", count="1"),
        event("read", 120, tid=8, fname="/d/a", fd=5, ret="1", count="1"),
        event("read", 300, fname="/d/a", fd=5, ret="1", count="1"),
    ]
    import_trace("dftracer", write(tmp_path / "l.pfw", lines), tmp_path / "t")
    assert [(r["sample_id"], r["step"]) for r in reads(tmp_path / "t")] == [
        (42, 3),
        (None, None),
        (None, None),
    ]


def test_samples_come_from_the_innermost_span_even_after_one_inside_it_has_ended(tmp_path: Path) -> None:
    lines = [
        event("outer", 100, cat="reader", dur=100, image_idx=1, step=7, epoch=2),
        event("inner", 120, cat="reader", dur=10, image_idx=2, step=8),
        *(event("read", at, fname="/d/a", fd=5, ret="1", count="1") for at in (105, 122, 150, 198, 210)),
    ]
    import_trace("dftracer", write(tmp_path / "l.pfw", lines), tmp_path / "t")
    got = reads(tmp_path / "t")
    assert [r["sample_id"] for r in got] == [1, 2, 1, None, None]
    assert [r["epoch"] for r in got] == [2, None, 2, None, None]


def later(name: str, ts: int, /, *, pid: int = 5, **args: Any) -> str:
    return json.dumps(
        {
            "id": 1,
            "name": name,
            "cat": "POSIX",
            "type": 3,
            "pid": pid,
            "tid": pid,
            "ts": ts,
            "dur": 5,
            "ph": 1,
            "args": args,
        }
    )


def test_without_descriptors_a_position_is_known_while_a_file_is_open_once(tmp_path: Path) -> None:
    lines = [
        '{"name":"FH","cat":"dftracer","type":1,"pid":5,"tid":5,"ph":4,"args":{"name":"/d/a","value":"aa"}}',
        '{"name":"CM","cat":"dftracer","type":1,"pid":5,"tid":5,"ph":4,"args":{"name":"time_metric","value":"NS"}}',
        later("open64", 10, fhash="aa", flags=0),
        later("read", 20, fhash="aa", ret=4, count=8),
        later("read", 21, pid=6, fhash="aa", ret=4, count=8),
        later("lseek64", 30, fhash="aa", ret=100, whence=0, offset=100),
        later("read", 40, fhash="aa", ret=8, count=8),
        later("open64", 50, fhash="aa", flags=0),
        later("read", 60, fhash="aa", ret=8, count=8),
        later("close", 70, fhash="aa", ret=0),
        later("read", 80, fhash="aa", ret=8, count=8),
        later("close", 90, fhash="aa", ret=0),
        later("fopen64", 100, fhash="aa", flags=0),
        later("fread", 110, fhash="aa", ret=2, count=3, size=10),
        later("fseek", 120, fhash="aa", ret=0, whence=2, offset=-5),
        later("fread", 130, fhash="aa", ret=1, count=1, size=1),
        later("fseek", 140, fhash="aa", ret=0, whence=0, offset=7),
        later("fread", 150, fhash="aa", ret=1, count=1, size=1),
    ]
    import_trace("dftracer", write(tmp_path / "l.pfw", lines), tmp_path / "t", strict=True)
    got = reads(tmp_path / "t")
    assert [r["offset"] for r in got] == [0, None, 100, None, None, 0, None, 7]
    assert (got[5]["len"], got[5]["bytes"], got[5]["latency"]) == (30, 20, 5)
    assert [r["rank"] for r in got][:2] == [0, 1]


@pytest.mark.skipif(
    importlib.util.find_spec("dftracer") is None, reason="the wheel dftracer is not installed"
)
def test_what_todays_dftracer_writes_of_a_real_program_is_read(tmp_path: Path) -> None:
    (place,) = importlib.util.find_spec("dftracer").submodule_search_locations  # type: ignore[union-attr,misc]
    library = Path(place) / "lib64" / "libdftracer_preload.so"
    if not library.exists():
        pytest.skip("the wheel has no preload library")
    (tmp_path / "logs").mkdir()
    (tmp_path / "f").write_bytes(bytes(100_000))
    program = (
        "import os, sys\nfd = os.open(sys.argv[1], os.O_RDONLY)\nos.read(fd, 1000); os.lseek(fd, 5000, 0); os.read(fd, 7)\n"
        "os.pread(fd, 100, 77); os.read(fd, 11); os.close(fd)\n"
        "if not os.fork():\n fd = os.open(sys.argv[1], os.O_RDONLY); os.read(fd, 13); os._exit(0)\nos.wait()\n"
    )
    environ = {**os.environ, "LD_PRELOAD": str(library), "DFTRACER_ENABLE": "1", "DFTRACER_INIT": "PRELOAD",
               "DFTRACER_LOG_FILE": str(tmp_path / "logs" / "log"), "DFTRACER_DATA_DIR": str(tmp_path),
               "DFTRACER_INC_METADATA": "1"}  # fmt: skip
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "f")], env=environ, check=True, timeout=60)
    done = import_trace("dftracer", tmp_path / "logs", tmp_path / "t", strict=True)
    got = [r for r in reads(tmp_path / "t") if r["uri"] == f"file://{tmp_path}/f" and r["rank"] == 0]
    assert [(r["offset"], r["len"]) for r in got] == [(0, 1000), (5000, 7), (77, 100), (5007, 11)], done


def test_a_position_that_a_forked_child_or_a_second_descriptor_moved_is_unknown_until_a_seek(
    tmp_path: Path,
) -> None:
    lines = [
        '{"name":"FH","cat":"dftracer","type":1,"pid":5,"tid":5,"ph":4,"args":{"name":"/d/a","value":"aa"}}',
        later("open64", 10, fhash="aa", flags=0),
        later("read", 20, fhash="aa", ret=4, count=4),
        later("read", 30, pid=6, fhash="aa", ret=4, count=40),
        later("read", 40, pid=6, fhash="aa", ret=4, count=40),
        later("read", 50, fhash="aa", ret=8, count=8),
        later("lseek64", 60, fhash="aa", ret=100, whence=0, offset=100),
        later("read", 70, fhash="aa", ret=8, count=8),
        later("dup2", 80, fhash="aa", ret=9),
        later("read", 90, fhash="aa", ret=8, count=8),
    ]
    import_trace("dftracer", write(tmp_path / "log.pfw", lines), tmp_path / "t", strict=True)
    assert [(r["offset"], r["len"]) for r in reads(tmp_path / "t")] == [
        (0, 4), (None, 40), (None, 40), (None, 8), (100, 8), (None, 8)
    ]  # fmt: skip


def test_the_later_form_names_files_by_hash(tmp_path: Path) -> None:
    lines = [
        event("FH", 0, cat="dftracer", ph="M", name="/d/a", value="beef"),
        event("open64", 10, fhash="beef", ret=5),
        event("read", 20, fhash="beef", fd=5, ret=4, count=8),
    ]
    import_trace("dftracer", write(tmp_path / "l.pfw", lines), tmp_path / "t")
    (row,) = reads(tmp_path / "t")
    assert (row["uri"], row["offset"], row["len"], row["bytes"], row["latency"]) == (
        "file:///d/a",
        0,
        8,
        4,
        5000,
    )


def test_failures_have_an_error_class_and_move_nothing(tmp_path: Path) -> None:
    lines = [
        event("open64", 1, fname="/d/none", ret=-1),
        event("read", 2, fname="/d/a", fd=3, ret=-1, count=10),
    ]
    import_trace("dftracer", write(tmp_path / "l.pfw", lines), tmp_path / "t")
    rows = open_reader(tmp_path / "t").query("SELECT op, error, bytes FROM ops ORDER BY t_submit").to_pylist()
    assert rows == [
        {"op": "stat", "error": "not_found", "bytes": 0},
        {"op": "read", "error": "io_error", "bytes": 0},
    ]


def test_bad_lines_are_counted_or_named_and_strict_writes_nothing(tmp_path: Path) -> None:
    good = event("read", 20, fname="/d/a", fd=5, ret="1", count="1")
    log = write(
        tmp_path / "l.pfw",
        [good, '{"name": "read", "ph": "X"', "\x00\x01", good, event("read", 9**30, fname="/d/a")],
    )
    done = import_trace("dftracer", log, tmp_path / "t")
    assert (done.ops, done.skipped) == (2, 3)
    assert done.examples[0].startswith("line 3:")
    with pytest.raises(TraceFormatError, match="line 3"):
        import_trace("dftracer", log, tmp_path / "s", strict=True)
    assert not (tmp_path / "s").exists()
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_every_op_on_a_file_without_a_name_is_counted(tmp_path: Path) -> None:
    log = write(tmp_path / "log.pfw", [event("open64", 10, fname="/d/a", ret=5), event("open64", 11, ret=6), event("fsync", 12, fd=9, ret=0),
                                       event("read", 13, fd=9, ret=7), event("read", 14, fname="pipe:[5]", fd=8, ret=7)])  # fmt: skip
    done = import_trace("dftracer", log, tmp_path / "t", strict=True)
    assert done.ops == 1
    assert "3 ops left out: the log does not name their file" in done.notes


def test_a_file_that_is_not_a_log_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.pfw").write_text("hello\nworld\n")
    (tmp_path / "y.pfw.gz").write_bytes(b"\x1f\x8bnot gzip")
    for name in ("x.pfw", "y.pfw.gz", "none.pfw"):
        with pytest.raises(TraceFormatError) as caught:
            import_trace("dftracer", tmp_path / name, tmp_path / "t")
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    with pytest.raises(UsageError, match="dftracer"):
        import_trace("dftrace", tmp_path / "x.pfw", tmp_path / "t")
    assert not (tmp_path / "t").exists()


@examples(60)
@given(noise=st.binary(max_size=300), cut=st.integers(0, 400), gz=st.booleans())
def test_arbitrary_bytes_never_give_a_traceback_or_a_partial_trace(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, cut: int, gz: bool
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    good = "\n".join(
        [event("open64", 10, fname="/d/a", ret=5), event("read", 20, fname="/d/a", fd=5, ret="1", count="1")]
    )
    data = good.encode()[:cut] + noise
    path = folder / ("l.pfw.gz" if gz else "l.pfw")
    path.write_bytes(gzip.compress(data) if gz else data)
    try:
        done = import_trace("dftracer", path, folder / "t")
    except TraceFormatError:
        assert [p.name for p in folder.iterdir()] == [path.name]
    else:
        assert open_reader(folder / "t").rows == done.ops


def _definition(path: str, value: str, *, pid: int) -> str:
    return event("FH", 0, cat="dftracer", ph="M", pid=pid, name=path, value=value)


def test_a_hash_is_resolved_in_its_own_process_in_order_of_appearance(tmp_path: Path) -> None:
    lines = [
        _definition("/d/x", "77", pid=1),
        event("pread", 10, pid=1, fhash="77", ret=1, count=1, offset=0),
        _definition("/d/y", "77", pid=2),
        event("pread", 20, pid=2, fhash="77", ret=1, count=1, offset=0),
        event("pread", 30, pid=1, fhash="77", ret=1, count=1, offset=0),
        _definition("/d/z", "77", pid=1),
        event("pread", 40, pid=1, fhash="77", ret=1, count=1, offset=0),
        event("pread", 50, pid=3, fhash="77", ret=1, count=1, offset=0),
        _definition("/d/only", "88", pid=1),
        event("pread", 60, pid=3, fhash="88", ret=1, count=1, offset=0),
    ]
    done = import_trace("dftracer", write(tmp_path / "l.pfw", lines), tmp_path / "t", strict=True)
    assert [r["uri"] for r in reads(tmp_path / "t")] == [
        f"file:///d/{name}" for name in ("x", "y", "x", "z", "only")
    ]
    assert "of 1 calls the file's hash stands for several names, none of their process's" in done.notes


def test_numbers_may_be_unsigned_or_have_a_fraction_and_categories_lower_case(tmp_path: Path) -> None:
    lines = [
        event("pread", 10, fname="/d/a", ret=2**64 - 1, count=10, offset=0),
        event("read", 20, fname="/d/a", fd=3, ret=str(2**64 - 1), count=10),
        event("pread64", 30, fname="/d/a", ret=2**32 - 1, count=10, offset=0),
        event("pread", 40, cat="posix", fname="/d/a", ret="5.0", count="5.0", offset="1.0"),
        json.dumps({"name": "pread", "cat": "Posix", "ph": "X", "pid": 0, "tid": 7, "ts": 50.25, "dur": 0.5,
                    "args": {"fname": "/d/a", "ret": 5, "count": 5, "offset": 2}}),
    ]  # fmt: skip
    import_trace("dftracer", write(tmp_path / "l.pfw", lines), tmp_path / "t", strict=True)
    got = [(r["t_submit"], r["offset"], r["bytes"], r["latency"], r["error"]) for r in reads(tmp_path / "t")]
    assert got == [
        (0, 0, 0, 5000, "io_error"), (10_000, None, 0, 5000, "io_error"), (20_000, 0, 0, 5000, "io_error"),
        (30_000, 1, 5, 5000, None), (40_250, 2, 5, 500, None),
    ]  # fmt: skip


def test_a_process_number_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    def life(start: int, folder: str, hashed: str) -> list[str]:
        return [
            _definition(f"/{folder}", hashed, pid=1),
            _definition("a", "aa", pid=1),
            event("start", start, cat="dftracer", pid=1, cwd=hashed),
            event("open64", start + 1, pid=1, fhash="aa", ret=3),
            event("read", start + 2, pid=1, fhash="aa", ret=7, count=7),
            event("end", start + 3, cat="dftracer", pid=1),
        ]

    log = write(tmp_path / "l.pfw", [*life(10, "one", "c0"), *life(20, "two", "c1"), *life(30, "one", "c0")])
    import_trace("dftracer", log, tmp_path / "t", strict=True)
    assert [(r["rank"], r["uri"], r["offset"]) for r in reads(tmp_path / "t")] == [
        (0, "file:///one/a", 0), (1, "file:///two/a", 0), (2, "file:///one/a", 0)
    ]  # fmt: skip


def test_a_failure_that_was_written_as_a_float_is_one(tmp_path: Path) -> None:
    line = event("pread", 10, pid=1, fname="/a", count=5, offset=0, ret=-1)
    log = write(tmp_path / "l.pfw", [line.replace("-1", "1.8446744073709552e+19")])
    import_trace("dftracer", log, tmp_path / "t", strict=True)
    (found,) = reads(tmp_path / "t")
    assert (found["bytes"], found["error"]) == (0, "io_error")


def test_relative_names_are_resolved_by_the_working_directory_or_the_base(tmp_path: Path) -> None:
    lines = [
        _definition("/w", "c0", pid=1),
        _definition("sub", "c1", pid=1),
        _definition("a", "aa", pid=1),
        event("start", 1, cat="dftracer", pid=1, cwd="c0"),
        event("pread", 10, pid=1, fhash="aa", ret=1, count=1, offset=0),
        event("chdir", 20, pid=1, fhash="c1", ret=0),
        event("pread", 30, pid=1, fhash="aa", ret=1, count=1, offset=0),
        event("pread", 40, pid=2, fname="b", ret=1, count=1, offset=0),
    ]
    log = write(tmp_path / "l.pfw", lines)
    for base, root in ((None, "file://"), ("s3://bucket/", "s3://bucket")):
        import_trace("dftracer", log, tmp_path / "t", strict=True, base=base, overwrite=True)
        uris = [r["uri"] for r in reads(tmp_path / "t")]
        assert uris == [f"{root}/w/a", f"{root}/w/sub/a", f"{root}/b"]


def test_vectors_have_no_length_and_hints_and_mapped_files_are_reported(tmp_path: Path) -> None:
    lines = [
        event("open64", 10, fname="/d/a", flags=0),
        event("readv", 20, fname="/d/a", ret=30, count=2, iovcnt=2),
        event("preadv2", 30, fname="/d/a", ret=5, offset=-1),
        event("preadv2", 40, fname="/d/a", ret=5, offset=100),
        event("posix_fadvise64", 50, fname="/d/a", offset=0, len=4096),
        event("mmap64", 60, fname="/d/a", length=10),
        event("read", 70, fname="/d/a", ret=1, count=1),
    ]
    done = import_trace("dftracer", write(tmp_path / "l.pfw", lines), tmp_path / "t", strict=True)
    ops = open_reader(tmp_path / "t").query("FROM ops WHERE op <> 'stat' ORDER BY t_submit").to_pylist()
    assert [(r["op"], r["offset"], r["len"], r["bytes"]) for r in ops] == [
        ("read", 0, None, 30), ("read", 30, None, 5), ("read", 100, None, 5), ("hint", 0, 4096, None), ("read", 35, 1, 1)
    ]  # fmt: skip
    assert done.notes == ("files mapped into memory: 1; reads through a mapping are not in the log",)


def test_names_with_raw_control_bytes_quotes_and_bytes_that_are_no_utf_8_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "l.pfw"
    head = b'{"name":"FH","cat":"dftracer","pid":"0","tid":"7","ph":"M","args":{"name":"'
    log.write_bytes(
        b"[\n" + head + b'/d/a\x07b","value":"a1"}}\n' + head + b'/d/q"uote","value":"a2"}}\n'
        + head + b'/d/\xff","value":"a3"}}\n'
        + b"".join(event("pread", n, fhash=f"a{n}", ret=1, count=1, offset=0).encode() + b"\n" for n in (1, 2, 3))
    )  # fmt: skip
    import_trace("dftracer", log, tmp_path / "t", strict=True)
    assert [r["uri"] for r in reads(tmp_path / "t")] == [
        "file:///d/a\x07b",
        'file:///d/q"uote',
        "file:///d/\ufffd",
    ]


@pytest.mark.parametrize("form", ["hosts", "no hosts", "one log"])
def test_a_process_number_that_two_hosts_use_is_two_processes(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for host, path in (("h1", "/d/x"), ("h2", "/d/y")):
        where: dict[str, Any] = {} if form == "no hosts" else {"hhash": host}
        lines = [
            event("FH", 0, cat="dftracer", ph="M", name=path, value="77", **where),
            *(event("pread", 10 + at, fhash="77", ret=5, count=5, offset=at, **where) for at in range(3)),
        ]
        name = "all.pfw" if form == "one log" else f"{host}.pfw"
        with (folder / name).open("a") as file:
            file.write("\n".join(lines) + "\n")
    for source in (folder, [*sorted(folder.iterdir())], folder / "*.pfw"):
        import_trace("dftracer", source, tmp_path / "t", overwrite=True)
        found = open_reader(tmp_path / "t").query(
            "SELECT uri, rank, count(*) AS n FROM ops GROUP BY ALL ORDER BY ALL"
        )
        assert [tuple(row.values()) for row in found.to_pylist()] == [
            ("file:///d/x", 0, 3),
            ("file:///d/y", 1, 3),
        ]
