"""Fuzz every importer with atheris, guided by coverage; not part of the default tests.

    python analysis/fuzz/fuzz_importers.py [FORMAT] [-max_total_time=120] [other libFuzzer flags]

Needs `pip install atheris`. Without FORMAT, the first byte of the input chooses one. Anything but a
sound trace or a one-line error is a finding; libFuzzer keeps the input as `crash-…`.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "formats"))

with atheris.instrument_imports(include=["tracekit.formats"]):
    import tracekit.formats

    for _module in pkgutil.walk_packages(tracekit.formats.__path__, "tracekit.formats."):
        with contextlib.suppress(ImportError):  # a format that needs an extra
            importlib.import_module(_module.name)

from test_formats_fuzz import FORMATS, GOOD, check


def main() -> None:
    chosen = next((argument for argument in sys.argv[1:] if argument in FORMATS), None)
    arguments = [argument for argument in sys.argv if argument != chosen]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-importers-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    for index, name in enumerate(FORMATS):
        if chosen in (None, name):
            (corpus / name).write_bytes((b"" if chosen else bytes([index])) + GOOD[name])
    work = folder / "work"
    work.mkdir()

    def one(data: bytes) -> None:
        name = chosen or FORMATS[data[0] % len(FORMATS)] if data else FORMATS[0]
        content = data if chosen else data[1:]
        check(work, name, content, strict=False)
        (work / "log").unlink(missing_ok=True)

    atheris.Setup([*arguments, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
