"""What an import reads: standard input, several logs, globs, objects, every compression, and a part of the time."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import sys
from collections.abc import Callable
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

LINE = '{"uri": "/d/a", "t_submit": %d}\n'


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        open_reader(path).query("SELECT * FROM ops ORDER BY t_submit, rank").to_pylist()
    )
    return found


def test_a_dash_is_standard_input_and_errors_call_it_that(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tracekit", "import", "jsonl", "-", "-o", str(tmp_path / "t")]
    done = subprocess.run(command, input=gzip.compress((LINE % 5).encode()), capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "t")) == 1
    done = subprocess.run([*command, "--overwrite"], input=b"nothing", capture_output=True, timeout=100)
    assert done.returncode == 2
    assert b"standard input contains no op" in done.stderr


def test_standard_input_is_given_once(tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match="standard input is given twice"):
        import_trace("jsonl", ["-", "-"], tmp_path / "t")


@pytest.mark.parametrize("name", ["gz", "zst", "bz2", "xz", "lz4", "GZ"])
def test_an_export_is_compressed_as_its_name_says(tmp_path: Path, name: str) -> None:
    (tmp_path / "log").write_text(LINE % 5)
    import_trace("jsonl", tmp_path / "log", tmp_path / "t")
    export_trace("jsonl", tmp_path / "t", tmp_path / f"out.{name}")
    assert not (tmp_path / f"out.{name}").read_bytes().startswith(b"{")
    assert import_trace("jsonl", tmp_path / f"out.{name}", tmp_path / "u", strict=True).ops == 1


def test_a_dash_is_standard_output_of_an_export_and_standard_input_of_a_query(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LINE % 5)
    import_trace("jsonl", tmp_path / "log", tmp_path / "t")
    script = "import sys, tracekit; tracekit.export_trace('jsonl', sys.argv[1], '-')"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "t")], capture_output=True, cwd=tmp_path, timeout=100)  # fmt: skip
    assert done.stdout.startswith(b'{"t_submit":5,"uri":"file:///d/a"'), done.stderr
    assert not (tmp_path / "-").exists()
    command = [sys.executable, "-m", "tracekit", "query", str(tmp_path / "t"), "-", "--csv"]
    done = subprocess.run(command, input=b"SELECT count(*) AS n FROM ops", capture_output=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, b'"n"\n1\n'), done.stderr
    done = subprocess.run(command, input=b"\xff", capture_output=True, timeout=100)
    assert (done.returncode, b"not UTF-8" in done.stderr) == (2, True)


def test_several_logs_are_one_trace_with_ranks_of_their_own(tmp_path: Path) -> None:
    for name, at in (("b.log", 30), ("a.log", 10), ("c.txt", 20)):
        (tmp_path / name).write_text("fio version 3 iolog\n" + f"{at} /d/x read 0 512\n")
    done = import_trace("fio", [tmp_path / "*.log", tmp_path / "c.txt"], tmp_path / "t")
    assert done.ops == 3
    assert [(row["t_submit"], row["rank"]) for row in rows(tmp_path / "t")] == [
        (0, 0),
        (10_000, 2),
        (20_000, 1),
    ]


def test_logs_with_ranks_do_not_share_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("uri,t_submit,rank\n/x,1,0\n/x,2,3\n")
    import_trace("csv", [tmp_path / "a", tmp_path / "b"], tmp_path / "t")
    assert sorted(row["rank"] for row in rows(tmp_path / "t")) == [0, 3, 4, 7]


def test_a_client_is_the_same_rank_in_every_access_log(tmp_path: Path) -> None:
    line = ('79a5 B [06/Feb/2019:00:00:38 +0000] {} - 3E57 REST.GET.OBJECT a "GET /a HTTP/1.1" 200 - 1000 5000 70 10 '
            '"-" "agent" -\n')  # fmt: skip
    (tmp_path / "a").write_text(line.format("192.0.2.3") + line.format("192.0.2.4"))
    (tmp_path / "b").write_text(line.format("192.0.2.4") + line.format("192.0.2.5"))
    import_trace("s3-access-log", [tmp_path / "a", tmp_path / "b"], tmp_path / "t")
    assert sorted(row["rank"] for row in rows(tmp_path / "t")) == [0, 1, 1, 2]


def test_a_bad_line_of_several_logs_names_its_log(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(LINE % 1)
    (tmp_path / "b").write_text(LINE % 1 + "nonsense\n")
    done = import_trace("jsonl", [tmp_path / "a", tmp_path / "b"], tmp_path / "t")
    assert done.examples == (f"{tmp_path}/b, line 2: not JSON",)


@pytest.mark.parametrize("source", ["missing", "missing*", "", "file:///missing", []])
def test_a_source_that_names_nothing_is_refused(tmp_path: Path, source: Any) -> None:
    with pytest.raises(TraceFormatError):
        import_trace("jsonl", source, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_name_with_stars_is_that_file_if_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "a*").write_text(LINE % 1)
    (tmp_path / "ab").write_text(LINE % 2)
    assert import_trace("jsonl", tmp_path / "a*", tmp_path / "t").ops == 1


@pytest.mark.server
def test_logs_in_a_store_are_read_by_uri_and_by_pattern(tmp_path: Path, s3_bucket: str) -> None:
    from tracekit.backends.registry import backend_for

    backend = backend_for(f"s3://{s3_bucket}/")
    for name in ("logs/1.jsonl", "logs/2.jsonl", "other/3.jsonl"):
        backend.put(f"s3://{s3_bucket}/{name}", (LINE % 7).encode())
    assert import_trace("jsonl", f"s3://{s3_bucket}/logs/1.jsonl", tmp_path / "one").ops == 1
    assert import_trace("jsonl", f"s3://{s3_bucket}/logs/*.jsonl", tmp_path / "two").ops == 2
    backend.put(f"s3://{s3_bucket}/logs/[1].jsonl", (LINE % 7).encode())
    assert import_trace("jsonl", f"s3://{s3_bucket}/logs/[1].jsonl", tmp_path / "literal").ops == 1
    with pytest.raises(TraceFormatError, match="no object matches"):
        import_trace("jsonl", f"s3://{s3_bucket}/logs/*.csv", tmp_path / "none")


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    "lz4": lambda data: pa.compress(data, codec="lz4", asbytes=True),
}


@pytest.mark.parametrize("name", PACK)
def test_every_compression_is_found_by_content_and_a_cut_stream_is_reported(
    tmp_path: Path, name: str
) -> None:
    packed = PACK[name]("".join(LINE % (at * 7919 % 10007) for at in range(5000)).encode())
    (tmp_path / "log").write_bytes(packed)
    assert import_trace("jsonl", tmp_path / "log", tmp_path / "t", strict=True).ops == 5000
    (tmp_path / "cut").write_bytes(packed[: len(packed) // 2])
    try:
        done = import_trace("jsonl", tmp_path / "cut", tmp_path / "part")
    except TraceFormatError as error:
        assert "cannot be read" in str(error)
    else:
        assert done.skipped >= 1
        assert done.ops < 5000


@pytest.mark.parametrize("name", ["gz", "xz", "zst"])
def test_a_log_that_grows_without_bounds_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "bomb").write_bytes(PACK[name](b"\n" * (80 << 20)))
    with pytest.raises(TraceFormatError, match="compressed bytes have grown to"):
        import_trace("jsonl", tmp_path / "bomb", tmp_path / "t")


SECOND = 10**9


@examples(50)
@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=20),
    st.integers(0, 50),
    st.integers(51, 120),
    st.booleans(),
)
def test_only_ops_of_the_window_are_kept(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], since: int, until: int, relative: bool
) -> None:
    folder = tmp_path_factory.mktemp("window")
    epoch = 1_700_000_000
    (folder / "log").write_text("".join(LINE % ((epoch + at) * SECOND) for at in times))
    first = min(times) if relative else 0
    bounds = (f"{since}s", f"{until}s") if relative else (str(epoch + since), str(epoch + until))
    done = import_trace("jsonl", folder / "log", folder / "t", since=bounds[0], until=bounds[1])
    kept = [at for at in times if since <= at - first < until]
    assert done.ops == len(kept)
    assert (f"{len(times) - len(kept)} ops outside since= and until= left out" in done.notes) == (
        kept != times
    )


def test_times_of_day_have_a_zone_and_a_bound_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LINE % (1_700_000_000 * SECOND) + LINE % (1_700_000_010 * SECOND))
    done = import_trace("jsonl", tmp_path / "log", tmp_path / "t", since="2023-11-14T22:13:25Z")
    assert done.ops == 1
    for bad in ("yesterday", "2023-13-01T00:00:00Z", "5", "-3s", "2023-11-14T22:13:25"):
        with pytest.raises(UsageError, match="since="):
            import_trace("jsonl", tmp_path / "log", tmp_path / "s", since=bad)
    with pytest.raises(UsageError, match="until=5s is not after since=9s"):
        import_trace("jsonl", tmp_path / "log", tmp_path / "s", since="9s", until="5s")


def test_a_trace_says_which_columns_its_log_knows_and_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "io.log").write_text("fio version 3 iolog\n5 /d/x read 0 512\n6 /d/x trim 0 512\nnonsense\n")
    import_trace("fio", tmp_path / "io.log", tmp_path / "t")
    reader = open_reader(tmp_path / "t")
    (segment,) = reader.segments
    assert segment.metadata["has"] == "len,offset,op,t_submit,uri"
    assert reader.completeness == {
        "share": None,
        "skipped_lines": 1,
        "unseen": ["trim 1", "lines that could not be read 1"],
    }
    (tmp_path / "log").write_text(
        '{"uri": "/a", "t_submit": 1, "latency": 5}\n{"uri": "/a", "t_submit": 2}\n'
    )
    import_trace("jsonl", tmp_path / "log", tmp_path / "u")
    assert "latency" in open_reader(tmp_path / "u").segments[0].metadata["has"]
    assert open_reader(tmp_path / "u").completeness == {}
