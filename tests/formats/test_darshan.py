"""Darshan DXT: a real log's facts, to the nanosecond; a damaged one is one line."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from tracekit.errors import TraceFormatError
from tracekit.formats.registry import import_trace
from tracekit.store.reader import open_reader

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
REAL = SHARED / "darshan-dxt.darshan"

pytest.importorskip("darshan", reason="the package darshan is not installed")
here = pytest.mark.skipif(not REAL.exists(), reason="the shared real logs are not beside this checkout")


@here
def test_a_real_log_comes_in_with_its_known_facts(tmp_path: Path) -> None:
    done = import_trace("darshan", REAL, tmp_path / "t", strict=True)
    assert done.ops == 6126 + 1497
    reader = open_reader(tmp_path / "t")
    (facts,) = reader.query(
        "SELECT count(*) FILTER (op = 'read') AS reads, count(*) FILTER (op = 'write') AS writes,"
        ' count(DISTINCT uri) AS files, count("offset") AS placed, min(latency) AS least, bool_and(len = bytes) AS whole'
        " FROM ops"
    ).to_pylist()
    assert (facts["reads"], facts["writes"], facts["placed"], facts["whole"]) == (6126, 1497, 7623, True)
    assert facts["files"] <= 169
    assert facts["least"] >= 0
    first = reader.query("FROM ops ORDER BY t_submit LIMIT 1").to_pylist()[0]
    assert reader.epoch_unix_ns is not None
    assert 0 <= reader.epoch_unix_ns - 1587455133 * 10**9 < 10**10
    assert first["uri"].startswith("file:///")


@here
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress], ids=["gz", "bz2"])
def test_a_compressed_log_is_read_as_the_plain_one(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(REAL.read_bytes())
    (tmp_path / "log").write_bytes(packed)
    assert import_trace("darshan", tmp_path / "log", tmp_path / "t", strict=True).ops == 6126 + 1497
    (tmp_path / "cut").write_bytes(packed[:-1000])
    with pytest.raises(TraceFormatError, match="cut cannot be read"):
        import_trace("darshan", tmp_path / "cut", tmp_path / "u")


@here
def test_a_segment_keeps_the_binary_times_of_the_log(tmp_path: Path) -> None:
    import_trace("darshan", REAL, tmp_path / "t")
    reader = open_reader(tmp_path / "t")
    start_ns = 1587455133 * 10**9 + 5_374_908 - (reader.epoch_unix_ns or 0)
    found = reader.query("FROM ops WHERE t_submit = $at", {"at": start_ns}).to_pylist()
    assert [(r["offset"], r["len"], r["latency"]) for r in found] == [(0, 64, 25_988)]


@here
@pytest.mark.parametrize("cut", [10, 1000, 50_000, 98_000])
def test_a_cut_or_damaged_log_is_one_line(tmp_path: Path, cut: int) -> None:
    whole = REAL.read_bytes()
    for name, data in (("cut", whole[:cut]), ("hurt", whole[:cut] + b"\x00\xff" * 40 + whole[cut + 80 :])):
        (tmp_path / name).write_bytes(data)
        try:
            import_trace("darshan", tmp_path / name, tmp_path / f"{name}-t")
        except TraceFormatError as error:
            assert "\n" not in str(error)
            assert not (tmp_path / f"{name}-t").exists()


@here
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.95])
def test_a_log_cut_short_says_so(tmp_path: Path, share: float) -> None:
    whole = REAL.read_bytes()
    (tmp_path / "cut").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(TraceFormatError, match="cut short or damaged"):
        import_trace("darshan", tmp_path / "cut", tmp_path / "t")
    assert not (tmp_path / "t").exists()


@here
@pytest.mark.parametrize("at", [2_000, 20_000, 40_000, 60_000, 80_000, 97_000])
def test_damage_is_refused_or_changes_no_sum(tmp_path: Path, at: int) -> None:
    data = bytearray(REAL.read_bytes())
    for place in range(at, at + 64):
        data[place] ^= 0x5A
    (tmp_path / "hurt").write_bytes(data)
    import_trace("darshan", REAL, tmp_path / "whole")
    facts = "SELECT count(*) AS ops, sum(bytes) AS bytes FROM ops"
    try:
        import_trace("darshan", tmp_path / "hurt", tmp_path / "t")
    except TraceFormatError as error:
        assert "damaged" in str(error) or "cannot be read" in str(error)
    else:
        whole = open_reader(tmp_path / "whole").query(facts).to_pylist()
        assert open_reader(tmp_path / "t").query(facts).to_pylist() == whole


@here
def test_a_log_that_is_flagged_partial_says_so(tmp_path: Path) -> None:
    data = bytearray(REAL.read_bytes())
    data[20:24] = b"\xff" * 4  # the header's bit of each module
    (tmp_path / "partial").write_bytes(data)
    done = import_trace("darshan", tmp_path / "partial", tmp_path / "t")
    assert any("flagged partial" in note for note in done.notes)


@here
def test_every_module_that_is_flagged_partial_is_named(tmp_path: Path) -> None:
    data = bytearray(REAL.read_bytes())
    data[20:24] = (1 << 1).to_bytes(4, "little")  # POSIX, whose counters the ops are checked against
    (tmp_path / "partial").write_bytes(data)
    done = import_trace("darshan", tmp_path / "partial", tmp_path / "t")
    assert [note for note in done.notes if note.startswith("the log is flagged partial for POSIX:")]
    assert not any("DXT records" in note for note in done.notes)


def test_a_file_that_is_not_a_darshan_log_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello\n" * 100)
    with pytest.raises(TraceFormatError, match="cannot be read as a Darshan log"):
        import_trace("darshan", tmp_path / "x", tmp_path / "t")
