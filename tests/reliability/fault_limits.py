"""Limits: full disks, few descriptors, little address space."""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_rows import Row as _Row
from fault_rows import core_file, one_line, recorded, run

from tracekit.store.check import verify

_SERVED = ("timeout", "--preserve-status", "--signal=INT", "8")
_CODES = (0, 1, 2, 130)
"""The last is that of Ctrl-C."""


def _verbs(folder: Path) -> dict[str, list[object]]:
    """Return a command line of each verb that reads or writes traces; `{out}` is where it writes."""
    (folder / "data").mkdir()
    for i in range(3):
        (folder / "data" / f"{i}.bin").write_bytes(bytes(200_000))
    trace = recorded(folder / "a.trace", 400)
    small = core_file(folder / "small.parquet", [f"file://{folder}/data/{i % 3}.bin" for i in range(60)])
    (folder / "log.csv").write_text(
        "uri,offset,len,t_submit,sample_id,latency\n" + "file:///f,0,1,5,1,10\n" * 2000
    )
    return {
        "record": ["record", folder / "data", "-o", "{out}", "--epochs", 40],
        "import": ["import", "csv", folder / "log.csv", "-o", "{out}"],
        "export": ["export", "chrome", trace, "-o", "{out}"],
        "query": ["query", trace, "FROM ops", "--parquet", "-o", "{out}"],
        "stats": ["stats", trace, "--csv", "-o", "{out}"],
        "replay": ["replay", small, "--pace", "asap", "-o", "{out}"],
        "capture": ["capture", "-o", "{out}", "--with", "hooks", "--", "true"],
        "report": ["report", trace, "-o", "{out}"],
        "plot": ["plot", "offsets", trace, "-o", "{out}.png"],
        "materialize": ["materialize", small, "--map", f"file://{folder}/data=file://{folder}/{{out}}", "--seed", 1],
        "merge": ["merge", trace, "-o", "{out}"],
        "info": ["info", trace],
        "verify": ["verify", trace],
        "compare": ["compare", trace, trace],
        "ask": ["ask", trace, "slowest-files"],
        "watch": ["watch", trace],
        "doctor": ["doctor", folder / "data"],
        "repair": ["repair", trace],
        "mcp": ["mcp", trace],
        "serve": ["serve", trace],
    }  # fmt: skip


def _filled(words: list[object], out: Path) -> list[str]:
    return [str(word).replace("{out}", out.name if "=file://" in str(word) else str(out)) for word in words]


def _ended(name: str, words: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end; a server, which has none, gets Ctrl-C after some seconds."""
    return run(*words, before=_SERVED if name == "serve" else (), **how)


def _limited(what: int, amount: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(what, (amount, amount))

    return limit


def full_disk(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    """Let no file grow beyond some kilobytes; a write beyond fails as on a full disk."""
    verbs = list(_verbs(folder).items())
    tried = 0
    for limit in (1000, 20_000, 4000, 60_000, 300)[: max(times // len(verbs), 1)]:
        for name, words in verbs[:times]:
            out = folder / f"{name}-{limit}"
            done = _ended(name, _filled(words, out), preexec_fn=_limited(resource.RLIMIT_FSIZE, limit))
            one_line(done, *_CODES)
            tried += 1
            if done.returncode == 2 and out.is_file():
                raise AssertionError(f"{name}: failed, and left {out}")
            if (
                out.is_dir()
                and name in ("record", "import", "replay", "capture", "merge")
                and done.returncode == 0
            ):
                assert verify(out) == []
    return tried, "what does not fit; no half file, one line"


_ON_TMPFS = """
mount -t tmpfs -o size=$2 none "$1" || exit 99
folder=$1; shift 2
"$@"; code=$?
find "$folder" -type f -printf '%P\\n' > "$folder.left"
exit $code
"""
_WRITING = (
    "record",
    "import",
    "export",
    "query",
    "stats",
    "replay",
    "report",
    "plot",
    "materialize",
    "merge",
)


def full_file_system(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    """Let each verb that writes write to a file system of a few kilobytes."""
    verbs = _verbs(folder)
    alone = ["unshare", "--mount", "--map-root-user", "sh", "-c", _ON_TMPFS, "sh"]
    probe = [*alone, str(_made(folder / "probe")), "64k", "true"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        return 0, "not tried: this machine does not allow mounts"
    tried = full = 0
    for size in (16, 40, 4, 200)[: max(times // len(_WRITING), 1)]:
        for name in _WRITING[:times]:
            there = _made(folder / f"{name}-{size}k")
            words = [
                str(word).replace(f"{folder}/{{out}}", "{out}").replace("{out}", f"{there}/made")
                for word in verbs[name]
            ]
            done = run(*words, before=[*alone, str(there), f"{size}k"])
            one_line(done, 0, 2)
            tried += 1
            full += done.returncode == 2
            left = set(Path(f"{there}.left").read_text().split())
            assert done.returncode == 0 or not left & {"made", "made.png"}, (name, size, left)
    return tried, f"what does not fit ({full} of {tried} times); no half file, one line"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def few_descriptors(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    verbs = list(_verbs(folder).items())
    tried = 0
    for limit in (64, 32, 256)[: max(times // len(verbs), 1)]:
        for name, words in verbs[:times]:
            done = _ended(
                name,
                _filled(words, folder / f"{name}-{limit}"),
                preexec_fn=_limited(resource.RLIMIT_NOFILE, limit),
            )
            one_line(done, *_CODES)
            tried += 1
    return tried, "nothing, or one line"  # fmt: skip


def little_memory(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    """A native library that gets no memory may end the process that does the work; its parent says so."""
    verbs = list(_verbs(folder).items())
    tried = ended = 0
    for limit in (1 << 30, 700 << 20, 2 << 30)[: max(times // len(verbs), 1)]:
        for name, words in verbs[:times]:
            out = folder / f"{name}-{limit}"
            done = _ended(name, _filled(words, out), preexec_fn=_limited(resource.RLIMIT_AS, limit))
            tried += 1
            assert done.returncode in _CODES, (name, done.returncode, done.stderr)
            assert "Traceback" not in done.stderr, (name, done.stderr)
            if "a native library" in done.stderr:  # which may have spoken before
                ended += 1
                assert done.stderr.rstrip().splitlines()[-1].startswith("tracekit: out of memory: "), (
                    done.stderr
                )
                assert not out.is_file(), f"{name}: ended by a library, and left {out}"
            else:
                one_line(done, *_CODES)
    return tried, f"no half file; {ended} of {tried} were ended by a native library, and say so in one line"


ROWS = [
    _Row("full-disk", "no file may grow beyond some kilobytes (`RLIMIT_FSIZE`), for every verb", "one line, exit code 2, no half file", 4, 100, full_disk),
    _Row("full-file-system", "a file system of 4 to 200 KiB (tmpfs), for every verb that writes", "one line, exit code 2, no half file", 3, 40, full_file_system),
    _Row("few-descriptors", "`RLIMIT_NOFILE` of 32, 64 and 256, for every verb", "it works, or ends in one line", 3, 60, few_descriptors),
    _Row("address-space", "`RLIMIT_AS` of 700 MiB, 1 GiB and 2 GiB, for every verb", "it works, or ends without a half file and with one line, also if a native library ended it", 2, 60, little_memory),
]  # fmt: skip
