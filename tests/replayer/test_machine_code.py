"""Machine code of compiled functions: kept in a file, and loaded without the compiler."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra `fast`)")

from tracekit.replayer.engines import entry, jit, machine
from tracekit.replayer.engines.native import compiled, posix_close

NAME = "test_entry"


class Pair(NamedTuple):
    """Arrays that go together."""

    wide: np.ndarray
    narrow: np.ndarray


@compiled
def weigh(pair: Any, grid: Any, factor: Any) -> Any:
    """Use every argument, and change one."""
    grid[1, 2] = factor
    return factor * pair.wide[1] + pair.narrow[0] + len(pair.narrow) + grid.shape[0] * grid.shape[1]


@compiled
def close(number: Any) -> Any:
    """Call a function of the C library."""
    return posix_close(number)


def run(code: machine.MachineCode, *arguments: Any) -> int:
    """What a function of machine code returns."""
    function = machine.link(code, NAME)
    table = np.fromiter(jit._words(arguments), np.int64)
    result, failure = ctypes.c_int64(), ctypes.c_int64()
    assert function(ctypes.addressof(result), ctypes.addressof(failure), table.ctypes.data) == 0
    return result.value


@pytest.fixture(scope="module")
def arguments() -> tuple[Any, ...]:
    return Pair(np.array([3, 5]), np.array([7, 0, 0], np.int8)), np.zeros((2, 3), np.int64), 11


@pytest.fixture(scope="module")
def weighing(arguments: tuple[Any, ...]) -> machine.MachineCode:
    return entry.compiled(weigh, arguments, NAME)


def test_machine_code_has_the_arrays_and_integers_that_it_is_given(
    weighing: machine.MachineCode, arguments: tuple[Any, ...]
) -> None:
    assert run(weighing, *arguments) == 11 * 5 + 7 + 3 + 6
    assert arguments[1].tolist() == [[0, 0, 0], [0, 0, 11]]
    longer = Pair(np.array([0, 1]), np.zeros(10, np.int8)), np.zeros((4, 9), np.int64), -2
    assert run(weighing, *longer) == -2 + 10 + 36


def test_machine_code_needs_only_the_c_library_and_names_what_it_calls(
    weighing: machine.MachineCode,
) -> None:
    assert weighing.calls == []
    closing = entry.compiled(close, (0,), NAME)
    assert closing.calls == ["close"]
    reader, writer = os.pipe()
    assert run(closing, writer) == 0
    assert os.read(reader, 1) == b""  # nobody can write any more
    os.close(reader)


def test_machine_code_that_calls_what_the_process_lacks_is_refused(weighing: machine.MachineCode) -> None:
    with pytest.raises(AttributeError, match="tracekit_has_no_such_function"):
        machine.link(weighing._replace(calls=["tracekit_has_no_such_function"]), NAME)


def test_kept_machine_code_is_what_was_made(weighing: machine.MachineCode, tmp_path: Path) -> None:
    machine.keep(weighing, tmp_path / "code.o")
    assert machine.kept(tmp_path / "code.o") == weighing
    assert machine.kept(tmp_path / "other.o") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
        lambda whole: b"",
        lambda whole: bytes(len(whole)),
    ],
    ids=["cut", "flipped", "empty", "zeroed"],
)
def test_damaged_machine_code_is_not_loaded(
    weighing: machine.MachineCode, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "code.o"
    machine.keep(weighing, path)
    path.write_bytes(damage(path.read_bytes()))
    assert machine.kept(path) is None


def test_arrays_that_are_not_contiguous_are_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        list(jit._words((np.zeros((4, 4))[:, 1],)))


def test_a_function_runs_also_where_its_machine_code_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(jit, "_directory", lambda: tmp_path / "file")
    monkeypatch.setattr(jit, "_functions", {})
    arrays = np.array([1, 5]), np.zeros(4, np.int64)
    with caplog.at_level(logging.WARNING, "tracekit"):
        assert jit.call("native.now", arrays[1]) > 0
    assert [("is not kept" in text, "compiling" in text) for text in caplog.messages] == [
        (False, True),
        (True, False),
    ]


def test_a_process_runs_kept_code_without_numba_and_the_same_process_loads_it_once() -> None:
    code = """
        import json, sys
        import numpy as np
        from tracekit.replayer.engines import jit
        clock = np.zeros(4, np.int64)
        times = [jit.call("native.now", clock) for _ in range(2)]
        print(json.dumps([times == sorted(times), len(jit._functions), "numba" in sys.modules]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    assert json.loads(done.stdout) == [True, 1, False]
    assert done.stderr == ""
