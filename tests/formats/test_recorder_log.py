"""Recorder's directories, of a real run: two ranks that write, read, seek and use MPI-IO, by Recorder 2.5.0.

`plain` has a table and a grammar for each rank, `merged` shares them; `mpi4` is of a program of four ranks under MPICH.
The figures are those of Recorder's own recorder2text, and of the programs.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tracekit.errors import TraceFormatError
from tracekit.formats.registry import import_trace
from tracekit.store.reader import open_reader

SAMPLE = Path(__file__).parent / "logs" / "recorder-2.5.tar.xz"
FOUR_RANKS = Path(__file__).parent / "logs" / "recorder-2.5-mpich.tar.xz"
FILES = ("VERSION", "recorder.mt", "0.cst", "1.cst", "0.cfg", "1.cfg", "0.ts", "1.ts")
PATH = "file:///tmp/recorder-data"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    with tarfile.open(SAMPLE) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path / "plain"


def rows(path: Path, where: str = "true") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        open_reader(path).query(f"SELECT * FROM ops WHERE {where} ORDER BY t_submit").to_pylist()
    )
    return found


def test_a_real_log_comes_in_with_the_facts_of_recorders_own_text(log: Path, tmp_path: Path) -> None:
    done = import_trace("recorder", log, tmp_path / "t", strict=True)
    found = rows(tmp_path / "t")
    assert Counter((r["rank"], r["op"]) for r in found) == {
        (0, "write"): 112, (0, "read"): 75, (0, "stat"): 6, (0, "delete"): 4, (0, "truncate"): 3, (0, "sync"): 1, (0, "rename"): 1,
        (1, "write"): 101, (1, "read"): 75, (1, "stat"): 5, (1, "delete"): 3, (1, "truncate"): 2, (1, "sync"): 1,
    }  # fmt: skip
    assert "left out: MPI 8" in done.notes
    assert (
        sum(r["latency"] for r in found if r["op"] == "truncate" and r["len"] == 1234)
        == 1_734_000 + 3_720_000
    )
    renamed = next(r for r in found if r["op"] == "rename")
    assert (renamed["uri"], renamed["to_uri"]) == (f"{PATH}/a_stream", f"{PATH}/stream")


def test_offsets_follow_positions_while_a_file_is_open_once(log: Path, tmp_path: Path) -> None:
    import_trace("recorder", log, tmp_path / "t", strict=True)
    written = rows(tmp_path / "t", f"rank = 1 AND op = 'write' AND uri = '{PATH}/part.1'")
    assert [r["offset"] for r in written] == [at * 4096 for at in range(100)]
    read = [(r["offset"], r["len"]) for r in rows(tmp_path / "t", "rank = 1 AND op = 'read'")]
    assert read[:20] == [(8192 + at * 1001, 1001) for at in range(20)]
    assert read[20:70] == [((at * 7) % 50 * 4096, 512) for at in range(50)]
    assert read[70:] == [(8192 + 20 * 1001, 300), (None, 10), (None, 11), (None, 12), (100, 13)]
    streamed = rows(tmp_path / "t", f"uri = '{PATH}/a_stream' AND op = 'write'")
    assert [(r["offset"], r["len"]) for r in streamed] == [(at * 128, 128) for at in range(10)]


def test_ranks_that_share_their_tables_have_the_same_ops(log: Path, tmp_path: Path) -> None:
    for name in ("plain", "merged"):
        import_trace("recorder", log.parent / name, tmp_path / f"{name}.trace", strict=True)
    plain, merged = (
        Counter(
            (r["rank"], r["op"], r["offset"], r["len"], r["to_uri"]) for r in rows(tmp_path / f"{name}.trace")
        )
        for name in ("plain", "merged")
    )
    assert plain == merged


def test_four_ranks_of_mpich_read_and_write_what_their_program_says(tmp_path: Path) -> None:
    """Each rank has a file of its own, a stream, and its blocks of one file, which it writes and reads through MPI-IO."""
    with tarfile.open(FOUR_RANKS) as packed:
        packed.extractall(tmp_path, filter="data")
    done = import_trace("recorder", tmp_path / "mpi4", tmp_path / "t", strict=True)
    assert "left out: MPI 180" in done.notes
    data = "file:///tmp/recorder-mpi"
    for rank in range(4):
        own = rows(tmp_path / "t", f"rank = {rank} AND uri = '{data}/own.{rank}'")
        written = [(r["offset"], r["len"]) for r in own if r["op"] == "write"]
        assert written == [(at * 4096, 4096) for at in range(200 + 10 * rank)]
        read = [(r["offset"], r["len"]) for r in own if r["op"] == "read"]
        assert read[:100] == [(at * 37 % 50 * 4096, 1000 + rank) for at in range(100)]
        assert read[100:160] == [(at * 2048, 2048) for at in range(60)]
        assert read[160:] == [(60 * 2048 + 4096, 7), (None, 1000)]
        shared = rows(tmp_path / "t", f"rank = {rank} AND uri = '{data}/shared'")
        blocks = {
            kind: [(r["offset"], r["len"]) for r in shared if r["op"] == kind] for kind in ("write", "read")
        }
        assert blocks["write"] == [((at * 4 + rank) * 8192, 8192) for at in range(20)]
        assert blocks["read"] == [((at * 4 + (rank + 1) % 4) * 8192, 8192) for at in range(20)]
        stream = rows(tmp_path / "t", f"rank = {rank} AND uri = '{data}/stdio.{rank}' AND op = 'read'")
        assert [(r["offset"], r["len"]) for r in stream] == [(64 + at * 100, 100) for at in range(5)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_log_that_is_cut_short_is_refused_in_one_line(
    log: Path, tmp_path: Path, name: str, share: float
) -> None:
    data = (log / name).read_bytes()
    (log / name).write_bytes(data[: int(len(data) * share)])
    if name == "recorder.mt" and share:  # a function without a name is counted
        done = import_trace("recorder", log, tmp_path / "t")
        assert not any("unknown function" in note for note in done.notes)
        return
    if name == "VERSION" and share == 0.99:
        assert data[: int(len(data) * share)] == b"2.5."
        return
    with pytest.raises(TraceFormatError) as caught:
        import_trace("recorder", log, tmp_path / "t")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("name", FILES)
def test_damage_is_refused_or_leaves_every_call_counted(log: Path, tmp_path: Path, name: str) -> None:
    whole = (log / name).read_bytes()
    for at in range(0, len(whole), max(len(whole) // 12, 1)):
        (log / name).write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            done = import_trace("recorder", log, tmp_path / "t", overwrite=True)
        except TraceFormatError as error:
            assert "\n" not in str(error)
            continue
        assert done.ops + done.skipped <= 420


def test_another_version_a_missing_file_and_what_is_no_directory_are_refused(
    log: Path, tmp_path: Path
) -> None:
    with pytest.raises(TraceFormatError, match="no directory"):
        import_trace("recorder", SAMPLE, tmp_path / "t")
    (log / "1.ts").unlink()
    with pytest.raises(TraceFormatError, match=r"1\.ts: No such file"):
        import_trace("recorder", log, tmp_path / "t")
    (log / "VERSION").write_text("3.0.0")
    with pytest.raises(TraceFormatError, match=r"by Recorder '3\.0\.0', not by 2\.5"):
        import_trace("recorder", log, tmp_path / "t")


def test_a_grammar_that_never_ends_or_grows_beyond_its_times_is_refused(log: Path, tmp_path: Path) -> None:
    def grammar(*rules: tuple[int, list[tuple[int, int]]]) -> bytes:
        numbers = [len(rules)]
        for rule, body in rules:
            numbers += [rule, len(body), *(n for pair in body for n in pair)]
        return b"".join(n.to_bytes(4, "little", signed=True) for n in numbers)

    for rules, says in [
        ([(-1, [(-2, 1)]), (-2, [(-1, 1)])], "does not end"),
        ([(-1, [(-3, 2)])], "does not end"),
        ([(-1, [(-2, 2**31 - 1)]), (-2, [(0, 2**31 - 1)])], "there are times of 202"),
        ([(-1, [(10**6, 1)])], "damaged"),
    ]:  # fmt: skip
        (log / "1.cfg").write_bytes(grammar(*rules))
        with pytest.raises(TraceFormatError, match=says):
            import_trace("recorder", log, tmp_path / "t")
