"""Machine code in a file, and its way into memory: LLVM links it to the C library, without a compiler."""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import llvmlite.binding as llvm

from tracekit.whole import whole_file

__all__ = ["MachineCode", "keep", "kept", "link", "processor", "target"]

_DIGEST = hashlib.sha256().digest_size


class MachineCode(NamedTuple):
    """An object file, and the functions of the C library that it calls."""

    content: bytes
    calls: list[str]


def target() -> llvm.TargetMachine:
    """A maker of machine code for this processor, with the settings that numba has."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    host = llvm.Target.from_default_triple()
    return host.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="static" if host.name.startswith("x86") else "default",
        codemodel="jitdefault",
        jit=True,
    )


def processor() -> str:
    """The model and the features of this processor, whose machine code another may not run."""
    return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"


def keep(code: MachineCode, path: Path) -> None:
    """Write machine code to a file. Raises OSError."""
    content = json.dumps(code.calls).encode() + b"\n" + code.content
    with whole_file(path) as aside:
        aside.write_bytes(hashlib.sha256(content).digest() + content)


def kept(path: Path) -> MachineCode | None:
    """The machine code that a file has; None if it cannot be read or is damaged."""
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    digest, content = whole[:_DIGEST], whole[_DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        return None
    calls, _, code = content.partition(b"\n")
    return MachineCode(code, json.loads(calls))


def link(code: MachineCode, name: str) -> Callable[[int, int, int], int]:
    """Load machine code into this process: its function `name` of three addresses, which returns a C int.

    Raises AttributeError if the C library lacks a function that it calls: LLVM would end the process.
    """
    library = ctypes.CDLL(None)
    for called in code.calls:
        llvm.add_symbol(called, ctypes.cast(library[called], ctypes.c_void_p).value)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.content))
    engine.finalize_object()
    address = engine.get_function_address(name)
    engine.detach()  # the code stays until the process ends, because a thread may run it
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(address)
