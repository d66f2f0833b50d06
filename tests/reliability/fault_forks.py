"""A process that forks others to be killed: one start of the interpreter, with all imports, serves many tries.

    python tests/reliability/fault_forks.py     reads requests from its standard input, a line each

It starts no thread itself. Each child is the leader of a session of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Forks"]

_VERBS = ("repair", "import", "merge", "replay")


class Forks:
    """Starts children that record or run a command line, and kills them. A context manager."""

    def __enter__(self) -> Forks:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._asked({})  # it has imported everything
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def recorders(self, trace: Path, firsts: Sequence[int], after_s: float) -> list[int]:
        """Let a process for each of `firsts` record samples from there on, and kill all after a while.

        Returns behind which sample each had flushed its last op.
        """
        said = [trace.with_suffix(f".{first}") for first in firsts]
        for file, first in zip(said, firsts, strict=True):
            file.write_text(f"{first}\n")
        pids = self._asked({"record": str(trace), "said": [str(file) for file in said]})
        self._killed(pids, after_s)
        ends = [int(file.read_text().rpartition("\n")[0].rpartition("\n")[2]) for file in said]
        for file in said:
            file.unlink()
        return ends

    def time(self, words: Sequence[object]) -> float:
        """Run a command line to its end; return the seconds that it took."""
        began = time.monotonic()
        self._asked({"run": [str(word) for word in words]})
        (status,) = self._asked({"wait": True})
        assert status == 0, (words, status)
        return time.monotonic() - began

    def killed(self, words: Sequence[object], after_s: float) -> bool:
        """Start a command line and kill it after a while; return whether it was still running."""
        return self._killed(self._asked({"run": [str(word) for word in words]}), after_s) == [-signal.SIGKILL]

    def _killed(self, pids: list[int], after_s: float) -> list[int]:
        time.sleep(after_s)
        for pid in pids:  # which nobody else can have: the parent has not waited for it
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return self._asked({"wait": True})

    def _asked(self, request: dict[str, Any]) -> list[int]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        answer: list[int] = json.loads(stdout.readline())
        return answer


def _record(trace: str, said: str) -> None:
    from tracekit.recorder import Recorder

    told = os.open(said, os.O_RDWR | os.O_APPEND)
    sample = int(os.read(told, 30))
    recorder = Recorder(trace, segment_ops=2000, flush_interval_s=1)
    while True:
        for _ in range(50):
            recorder.record(
                "file:///d/f", sample * 4096, 4096, time.monotonic_ns(), 1000, bytes=4096, sample_id=sample
            )
            sample += 1
        recorder.flush()
        os.write(told, f"{sample}\n".encode())
        time.sleep(0.001)


def _run(words: list[str]) -> None:
    from tracekit.cli.app import main

    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    sys.argv = ["tracekit", *words]
    main()


def _forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        os._exit(code)


def _serve() -> None:
    import tracekit.recorder
    from tracekit.cli.app import load

    for verb in _VERBS:
        load(verb)
    assert tracekit.recorder
    pids: list[int] = []
    for line in sys.stdin:
        asked = json.loads(line)
        answer: list[int] = []
        if "record" in asked:
            pids = answer = [_forked(partial(_record, asked["record"], said)) for said in asked["said"]]
        elif "run" in asked:
            pids = answer = [_forked(partial(_run, asked["run"]))]
        elif "wait" in asked:
            answer = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
