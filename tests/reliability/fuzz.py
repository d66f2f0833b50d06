"""Fuzzes what reads other people's bytes. An input may be refused by a TracekitError; anything else is a finding.

    python tests/reliability/fuzz.py TARGET FOLDER SEED COUNT        a seeded mutator
    python tests/reliability/fuzz.py TARGET FOLDER --atheris SECONDS  guided by coverage (pip install atheris)

It runs as a process of its own, so that a crash of a native library is a finding, too: the input is FOLDER/input.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]


def _corpus_of_logs() -> dict[str, bytes]:
    spec = spec_from_file_location("fuzz_logs", TESTS / "formats" / "test_formats_fuzz.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.GOOD)


def _parquet(folder: Path) -> tuple[list[bytes], Callable[[bytes], None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tracekit.store.check import verify
    from tracekit.trace import open_trace

    sys.path.insert(0, str(TESTS / "reliability"))
    from fault_rows import core_file, recorded

    (segment,) = recorded(folder / "a.trace", 60).glob("seg-*.parquet")
    foreign = core_file(folder / "f.parquet", ["file:///d/a", "s3://b/k"])
    nested = folder / "n.parquet"
    pq.write_table(pq.read_table(foreign).append_column("more", pa.array([[1], None])), nested)

    def target(data: bytes) -> None:
        file = folder / "input"
        file.write_bytes(data)
        verify(file)
        opened = open_trace(file)
        opened.query("SELECT count(*), max(len), min(uri) FROM ops")
        for _ in opened.batches():
            pass

    return [segment.read_bytes(), foreign.read_bytes(), nested.read_bytes()], target


def _journal(folder: Path) -> tuple[list[bytes], Callable[[bytes], None]]:
    from tracekit.store.check import verify
    from tracekit.store.reader import open_reader

    sys.path.insert(0, str(TESTS / "reliability"))
    from fault_rows import journal_left

    trace = folder / "a.trace"
    journal = journal_left(trace, 3, 10)
    known = {row["sample_id"] for batch in open_reader(trace).batches() for row in batch.to_pylist()}

    def target(data: bytes) -> None:
        (folder / "input").write_bytes(data)
        journal.write_bytes(data)
        found = {row["sample_id"] for batch in open_reader(trace).batches() for row in batch.to_pylist()}
        assert found <= known, "damage became rows"
        verify(trace)

    return [journal.read_bytes()], target


def _importers(folder: Path) -> tuple[list[bytes], Callable[[bytes], None]]:
    import shutil

    from tracekit.formats.registry import import_trace
    from tracekit.store.check import verify

    logs = _corpus_of_logs()
    formats = sorted(logs)

    def target(data: bytes) -> None:
        if not data:
            return
        format = formats[data[0] % len(formats)]
        (folder / "input").write_bytes(data)
        (folder / "log").write_bytes(data[1:])
        out = folder / "out.trace"
        try:
            import_trace(format, folder / "log", out)
            # Where a log claims the impossible, such as reads of more than was asked for, verify names those ops.
            assert not [finding for finding in verify(out) if finding.broken and finding.where != "ops"], (
                format
            )
        finally:
            shutil.rmtree(out, ignore_errors=True)

    return [bytes([number]) + logs[name] for number, name in enumerate(formats)], target


def _rules(folder: Path) -> tuple[list[bytes], Callable[[bytes], None]]:
    from tracekit.replayer.mapping import parse_rules
    from tracekit.uri import FILE_SCHEMES, scheme_of, to_path

    root = folder / "root"
    root.mkdir()

    def target(data: bytes) -> None:
        (folder / "input").write_bytes(data)
        rule, _, uri = data.decode(errors="surrogateescape").partition("\n")
        rules = parse_rules([rule.replace("ROOT", str(root))])
        mapped = rules.apply_all([uri])[0]
        rules.check_inside(uri, mapped)
        if scheme_of(mapped) in FILE_SCHEMES and rules.prefixes:
            inside = os.path.realpath(to_path(rules.prefixes[0][1]))
            real = os.path.realpath(to_path(mapped))
            assert real == inside or real.startswith(inside.rstrip("/") + "/"), (rule, uri, mapped)

    return [
        b"file:///data=file://ROOT\nfile:///data/a/../b",
        b"s3://bucket=file://ROOT\ns3://bucket/%2e%2e/key",
        b"~s3://([^/]*)/(.*)=file://ROOT/\\1/\\2\ns3://bucket/a/b",
        b"/data=s3://bucket\nfile:///data/a b",
    ], target


TARGETS = {"parquet": _parquet, "journal": _journal, "importers": _importers, "rules": _rules}
_TOKENS = (b"", b"\0", b"\xff\xff\xff\xff", b"-1", b"9" * 30, b"\n", b"\r", b",", b'"', b"../", b"\x1b[31m", b"NaN", b"%2e%2e/", b"PAR1", b"{", b"\xed\xa0\x80")  # fmt: skip


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return `data` with one to eight changes."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(len(out) + 1)
        until = min(len(out), at + draw.choice([1, 2, 4, 8, 64]))
        how = draw.randrange(6)
        if how == 0 and at < len(out):
            out[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            del out[at:until]
        elif how == 2:
            out[at:at] = draw.choice(_TOKENS)
        elif how == 3:
            out[at:until] = draw.randbytes(until - at)
        elif how == 4:
            out[at:at] = out[draw.randrange(len(out) + 1) :][:64]
        else:
            del out[at:]
            out += data[draw.randrange(len(data) + 1) :]
    return bytes(out)


def _checked(target: Callable[[bytes], None]) -> Callable[[bytes], bool]:
    from tracekit.errors import TracekitError

    def check(data: bytes) -> bool:
        try:
            target(data)
        except TracekitError:
            return False
        return True

    return check


def main() -> None:
    name, folder, *rest = sys.argv[1:]
    if rest[0] == "--atheris":
        import atheris

        with atheris.instrument_imports(include=["tracekit"]):
            import tracekit.formats.registry
            import tracekit.replayer.mapping
            import tracekit.store.check  # noqa: F401
        seeds, target = TARGETS[name](Path(folder))
        corpus = Path(folder) / "corpus"
        corpus.mkdir(exist_ok=True)
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)
        check = _checked(target)

        def once(data: bytes) -> None:
            check(data)

        atheris.Setup([sys.argv[0], f"-max_total_time={rest[1]}", "-timeout=60", str(corpus)], once)
        atheris.Fuzz()
        return
    seeds, target = TARGETS[name](Path(folder))
    check, draw = _checked(target), random.Random(int(rest[0]))
    taken = sum(check(mutated(draw.choice(seeds), draw)) for _ in range(int(rest[1])))
    print(taken)


if __name__ == "__main__":
    main()
