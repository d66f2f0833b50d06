"""What compiled code uses of the C library and the processor: system calls, atomics, clock, futex.

Compiled by numba and imported by `kernel` only. Integers are shared between threads by the
atomic operations of this module.
"""

from __future__ import annotations

import platform
from typing import Any

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "call",
    "compiled",
    "errno",
    "exchange",
    "fetch_add",
    "load",
    "now",
    "open64",
    "posix_close",
    "posix_fadvise",
    "posix_fsync",
    "posix_ftruncate",
    "posix_lseek",
    "posix_pread",
    "posix_pwrite",
    "posix_statx",
    "ring_enter",
    "sleep_until",
    "store",
    "swap_if",
    "wait_while",
    "wake",
]

_MONOTONIC, _ABSTIME = 1, 1
_WAIT, _WAKE = 128, 129  # FUTEX_WAIT and FUTEX_WAKE, private to the process
_FUTEX = 202 if platform.machine() == "x86_64" else 98  # the number of the system call, by architecture
_RING_ENTER, _GETEVENTS = 426, 1  # io_uring_enter, the same number on every architecture

posix_pread = types.ExternalFunction("pread64", types.int64(types.int32, types.intp, types.intp, types.int64))
posix_pwrite = types.ExternalFunction(
    "pwrite64", types.int64(types.int32, types.intp, types.intp, types.int64)
)
open64 = types.ExternalFunction("open64", types.int32(types.intp, types.int32, types.int32))
posix_close = types.ExternalFunction("close", types.int32(types.int32))
posix_fsync = types.ExternalFunction("fsync", types.int32(types.int32))
posix_ftruncate = types.ExternalFunction("ftruncate64", types.int32(types.int32, types.int64))
posix_lseek = types.ExternalFunction("lseek64", types.int64(types.int32, types.int64, types.int32))
posix_fadvise = types.ExternalFunction(
    "posix_fadvise64", types.int32(types.int32, types.int64, types.int64, types.int32)
)
posix_statx = types.ExternalFunction(
    "statx", types.int32(types.int32, types.intp, types.int32, types.uint32, types.intp)
)
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
_clock_nanosleep = types.ExternalFunction(
    "clock_nanosleep", types.int32(types.int32, types.int32, types.intp, types.intp)
)
_errno_location = types.ExternalFunction("__errno_location", types.intp())
_syscall = types.ExternalFunction("syscall", types.int64(*[types.int64] * 7))  # its number, and six arguments


@intrinsic
def fetch_add(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index] += value, atomically; the value before."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [arguments[1]]), arguments[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), code


@intrinsic
def exchange(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index] = value, atomically, after everything written before; the value before."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("xchg", builder.gep(data, [arguments[1]]), arguments[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), code


@intrinsic
def swap_if(typing_context: Any, array: Any, index: Any, expected: Any, value: Any) -> Any:
    """array[index] = value if it is `expected`, atomically; whether it was."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        found = builder.cmpxchg(place, arguments[2], arguments[3], "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(array, types.int64, types.int64, types.int64), code


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """array[index], read anew from memory."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "seq_cst", 8)

    return types.int64(array, types.int64), code


@intrinsic
def _load_int(typing_context: Any, address: Any) -> Any:
    """The C int at an address."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        pointer = builder.inttoptr(arguments[0], ir.IntType(32).as_pointer())
        return builder.sext(builder.load(pointer), ir.IntType(64))

    return types.int64(types.intp), code


@intrinsic
def store(typing_context: Any, address: Any, value: Any) -> Any:
    """Set the 8 bytes at an address."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        builder.store(arguments[1], builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def call(typing_context: Any, address: Any, what: Any, op: Any, argument: Any) -> Any:
    """What the C function at an address returns for three integers."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        word = ir.IntType(64)
        function = builder.inttoptr(arguments[0], ir.FunctionType(word, [word] * 3).as_pointer())
        return builder.call(function, arguments[1:])

    return types.int64(types.int64, types.int64, types.int64, types.int64), code


compiled = njit(nogil=True, _nrt=False)
"""Without reference counts of arrays, which nothing here allocates: shared ones made an op take 1.6 times the CPU."""


@compiled
def now(clock: Any) -> Any:
    """The monotonic clock, ns. `clock` is four int64 words of the calling thread."""
    _clock_gettime(_MONOTONIC, clock.ctypes.data)
    return clock[0] * 1_000_000_000 + clock[1]


@compiled
def sleep_until(clock: Any, at_ns: Any) -> None:
    """Sleep until a time on the monotonic clock."""
    clock[2], clock[3] = at_ns // 1_000_000_000, at_ns % 1_000_000_000
    _clock_nanosleep(_MONOTONIC, _ABSTIME, clock.ctypes.data + 16, 0)


@compiled
def errno() -> Any:
    """The error of the last call that failed in this thread."""
    return _load_int(_errno_location())


@compiled
def wait_while(words: Any, index: Any, value: Any, clock: Any, most_ns: Any) -> None:
    """Sleep while the lower half of words[index] is that of `value`, until `wake` or for `most_ns`."""
    clock[2], clock[3] = most_ns // 1_000_000_000, most_ns % 1_000_000_000
    low = value & 0xFFFFFFFF
    _syscall(_FUTEX, words.ctypes.data + 8 * index, _WAIT, low, clock.ctypes.data + 16, 0, 0)


@compiled
def wake(words: Any, index: Any, most: Any) -> None:
    """Wake up to `most` threads that wait on words[index]."""
    _syscall(_FUTEX, words.ctypes.data + 8 * index, _WAKE, most, 0, 0, 0)


@compiled
def ring_enter(ring: Any, count: Any, least: Any, look: Any) -> Any:
    """Submit `count` entries of an io_uring: how many were submitted, or -1. `look` for completions, and wait for `least`."""
    return _syscall(_RING_ENTER, ring, count, least, _GETEVENTS if look else 0, 0, 0)
