"""Damage of files: cut, zeroed, flipped, and made by a mutator."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from fault_rows import Row, journal_left, noticed_or_harmless, recorded, rows_of

from tracekit.errors import TracekitError
from tracekit.store.check import repair, verify
from tracekit.store.journal import read_journal
from tracekit.store.layout import BROKEN_SUFFIX


def cut_journal(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    """Cut a journal at `times` bytes, evenly; with its size or more, at every byte."""
    trace = folder / "a.trace"
    journal = journal_left(trace)
    whole = journal.read_bytes()
    heads = [at for at in range(len(whole)) if whole.startswith(whole[:8], at)]
    ends = [*heads[1:], len(whole)]
    cuts = _places(len(whole), times)
    for cut in cuts:
        journal.write_bytes(whole[:cut])
        contents = read_journal(journal)
        found = 0 if contents is None else contents.rows
        assert found % 40 == 0 and found == _before(ends, cut) * 40, f"cut at {cut}"
        if contents is not None and found:
            assert contents.table().column("sample_id").to_pylist() == list(range(found)), f"cut at {cut}"
    for cut in cuts[:: max(len(cuts) // 50, 1)]:
        copy = _copied(trace, folder / "b.trace")
        (copy / journal.name).write_bytes(whole[:cut])
        found, done = rows_of(copy), repair(copy)
        assert verify(copy) == [] and rows_of(copy) == found
        kept = (copy / (journal.name + BROKEN_SUFFIX)).exists()
        assert kept == bool(done.torn_bytes or done.damaged_bytes), f"cut at {cut}"
    return len(cuts), "the batch that was cut; every batch before it is read"


def cut_segment(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    trace = recorded(folder / "a.trace", 100)
    (segment,) = trace.glob("seg-*.parquet")
    whole = segment.read_bytes()
    cuts = _places(len(whole), times)
    for cut in cuts:
        segment.write_bytes(whole[:cut])
        try:
            broken = [finding for finding in verify(trace) if finding.broken]
            assert broken, f"cut at {cut}: verify calls the trace whole"
        except TracekitError:
            pass
    for cut in cuts[:: max(len(cuts) // 50, 1)]:
        copy = _copied(trace, folder / "b.trace")
        (copy / segment.name).write_bytes(whole[:cut])
        done = repair(copy)
        assert done.ops_lost + done.ops_salvaged == 100
        assert (copy / f"_{segment.name}{BROKEN_SUFFIX}").read_bytes() == whole[:cut]
        assert not [finding for finding in verify(copy) if finding.broken]
    return len(cuts), "the segment; it is named, and `repair` keeps its bytes beside the trace"


def zeroed(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    """Zero sectors and pages, as a power cut leaves them, in journals and segments."""
    noticed = 0
    trace = folder / "a.trace"
    journal = journal_left(trace, 6, 200)
    noticed += _zero(journal, trace, times // 2, draw)
    closed = recorded(folder / "c.trace", 3000)
    (segment,) = closed.glob("seg-*.parquet")
    noticed += _zero(segment, closed, times - times // 2, draw)
    return times, f"batches or segments that are named: {noticed} of {times}; the rest changed no row"


def _zero(file: Path, trace: Path, times: int, draw: random.Random) -> int:
    whole, wanted, noticed = file.read_bytes(), rows_of(trace), 0
    ids = {row["sample_id"] for row in wanted}
    for _ in range(times):
        size = draw.choice([512, 4096])
        at = draw.randrange(0, len(whole), 512)
        damaged = bytearray(whole)
        damaged[at : at + size] = bytes(len(damaged[at : at + size]))
        file.write_bytes(damaged)
        if file.suffix == ".journal":
            found = rows_of(trace)
            assert all(row in wanted for row in found), f"zeros at {at} of {file.name} became rows"
            noticed += {row["sample_id"] for row in found} != ids
        else:
            noticed += noticed_or_harmless(trace, wanted)
    file.write_bytes(whole)
    return noticed


def flips(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    """Flip single bits of segments and of the manifest."""
    trace = recorded(folder / "a.trace", 2000, segments=2)
    wanted = rows_of(trace)
    files = sorted(file for file in trace.iterdir())
    noticed = 0
    for _ in range(times):
        file = draw.choice(files)
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        noticed += noticed_or_harmless(trace, wanted)
        file.write_bytes(whole)
    return times, f"{noticed} of {times} noticed; the others changed no row"


def flips_of_journals(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    trace = folder / "a.trace"
    journal = journal_left(trace, 8, 50)
    whole, wanted = journal.read_bytes(), rows_of(trace)
    for _ in range(times):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        journal.write_bytes(damaged)
        found = rows_of(trace)
        assert len(found) == 350 and all(row in wanted for row in found)
    return times, "the batch of the flip (50 of 400 ops), no other"


def _before(ends: list[int], cut: int) -> int:
    return sum(end <= cut for end in ends)


def _places(size: int, times: int) -> list[int]:
    """Return `times` places in a file of `size` bytes, evenly; every byte if `times` is 0."""
    return list(range(size)) if not times else sorted({size * n // times for n in range(times)})


def _copied(trace: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(trace, to)
    return to


ROWS = [
    Row("cut-journal", "a journal is cut at every byte", "the ops before the cut are read; `repair` makes the trace whole and keeps a cut journal as `.broken`", 60, 0, cut_journal),
    Row("cut-segment", "a segment is cut at every byte", "the segment is named; `repair` goes on without it and keeps its bytes", 40, 0, cut_segment),
    Row("zeroed-pages", "512 or 4,096 bytes of a journal or segment are zero (power cut)", "zeros never become rows; a change is named", 40, 1000, zeroed),
    Row("flip-segment", "a bit of a segment or of the manifest flips", "no row changes without `verify` or the reader naming it", 60, 1000, flips),
    Row("flip-journal", "a bit of a journal flips", "its batch is left out, every other one is read", 60, 1000, flips_of_journals),
]  # fmt: skip
