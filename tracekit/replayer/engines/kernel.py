"""The compiled loop of a replay worker: takes ops, waits, reads, and writes rows. No interpreter lock.

Compiled by numba. It calls the C library directly and shares arrays with `compiled`, which
describes them. Integers are shared between threads by atomic operations only. The module is
imported with numba's cache directory already set.
"""

from __future__ import annotations

from typing import Any

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "BACKLOG",
    "BUSY_NS",
    "BYTES",
    "CURRENT",
    "DUE",
    "ERROR",
    "GATE_WAIT",
    "HEAD",
    "IDLE",
    "LATENCY",
    "MAX_BYTES",
    "MAX_OPS",
    "NEED_ROOM",
    "NEXT",
    "NO_LENGTH",
    "OP",
    "ROW_WIDTH",
    "SHORT",
    "START",
    "STATE_WIDTH",
    "SUBMIT",
    "TAIL",
    "TIMED",
    "work",
]

OP, SUBMIT, LATENCY, BYTES, GATE_WAIT, DUE, BACKLOG, ERROR = range(8)
"""Columns of a row. A negative `OP` is a page-cache hint on file -OP - 1: BYTES has its offset, GATE_WAIT its length."""
ROW_WIDTH = 8
SHORT = 1 << 20
"""The `ERROR` of a read that moved fewer bytes than it should have; other errors are errno values."""

HEAD, TAIL, CURRENT, IDLE, BUSY_NS, LATE = range(6)
"""State of a worker: rows written, rows flushed, the op at hand, whether it waits for a due time, ns in requests."""
STATE_WIDTH = 8

(
    NEXT, START, TIMED, MAX_BYTES, MAX_OPS, TICKETS, SERVING, BYTES_IN_FLIGHT, OPS_IN_FLIGHT, OPEN_FLAGS,
    OPEN_ADVICE, DROP,
) = range(12)  # fmt: skip
"""Control words: the next op, start time, whether ops have due times, the gate, how files are opened."""

READY, COMPLETE, STOP = 0, 1, 2  # header words, as `replayer.columns` has them
NO_LENGTH = -(1 << 63)
NEED_ROOM, DONE = 1, 0

_MONOTONIC, _ABSTIME = 1, 1
_EMFILE, _ENFILE = 24, 23
_SEEK_END, _DONTNEED = 2, 4
_NAP_NS = 200_000_000
_SPINS = 200
_PAUSE_NS = 20_000

_pread = types.ExternalFunction("pread64", types.int64(types.int32, types.intp, types.intp, types.int64))
_open = types.ExternalFunction("open64", types.int32(types.intp, types.int32, types.int32))
_close = types.ExternalFunction("close", types.int32(types.int32))
_lseek = types.ExternalFunction("lseek64", types.int64(types.int32, types.int64, types.int32))
_fadvise = types.ExternalFunction(
    "posix_fadvise64", types.int32(types.int32, types.int64, types.int64, types.int32)
)
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
_clock_nanosleep = types.ExternalFunction(
    "clock_nanosleep", types.int32(types.int32, types.int32, types.intp, types.intp)
)
_errno_location = types.ExternalFunction("__errno_location", types.intp())


@intrinsic
def _fetch_add(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index] += value, atomically; the value before."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [arguments[1]]), arguments[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), code


@intrinsic
def _exchange(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index] = value, atomically, after everything written before; the value before."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("xchg", builder.gep(data, [arguments[1]]), arguments[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), code


@intrinsic
def _load(typing_context: Any, array: Any, index: Any) -> Any:
    """array[index], read anew from memory."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "acquire", 8)

    return types.int64(array, types.int64), code


@intrinsic
def _load_int(typing_context: Any, address: Any) -> Any:
    """The C int at an address."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        pointer = builder.inttoptr(arguments[0], ir.IntType(32).as_pointer())
        return builder.sext(builder.load(pointer), ir.IntType(64))

    return types.int64(types.intp), code


_compiled = njit(nogil=True, cache=True)


@_compiled
def _now(clock: Any) -> Any:
    _clock_gettime(_MONOTONIC, clock.ctypes.data)
    return clock[0] * 1_000_000_000 + clock[1]


@_compiled
def _sleep_until(clock: Any, at_ns: Any) -> None:
    clock[2], clock[3] = at_ns // 1_000_000_000, at_ns % 1_000_000_000
    _clock_nanosleep(_MONOTONIC, _ABSTIME, clock.ctypes.data + 16, 0)


@_compiled
def _errno() -> Any:
    return _load_int(_errno_location())


@_compiled
def _close_all(cache: Any) -> None:
    for slot in range(cache.shape[0]):
        if cache[slot, 0] != 0:
            _close(cache[slot, 1])
            cache[slot, 0] = 0


@_compiled
def _open_file(file: Any, cache: Any, paths: Any, path_at: Any, control: Any) -> Any:
    """The descriptor of a file, opened if it is not in the worker's cache, or -errno."""
    slot = file % cache.shape[0]
    if cache[slot, 0] == file + 1:
        return cache[slot, 1]
    if cache[slot, 0] != 0:
        _close(cache[slot, 1])
        cache[slot, 0] = 0
    fd = _open(paths.ctypes.data + path_at[file], control[OPEN_FLAGS], 0)
    if fd < 0 and (_errno() == _EMFILE or _errno() == _ENFILE):
        _close_all(cache)
        fd = _open(paths.ctypes.data + path_at[file], control[OPEN_FLAGS], 0)
    if fd < 0:
        return -_errno()
    if _pread(fd, path_at.ctypes.data, 0, 0) < 0:  # a directory or a pipe has no bytes at offsets
        failed = _errno()
        _close(fd)
        return -failed
    cache[slot, 0], cache[slot, 1] = file + 1, fd
    return fd


@_compiled
def _room_for_row(state: Any, ring: Any, clock: Any) -> Any:
    """The index of the next row, waiting until it has been flushed."""
    head = state[HEAD]
    while head - _load(state, TAIL) >= ring.shape[0]:
        _sleep_until(clock, _now(clock) + 200_000)
    return head % ring.shape[0]


@_compiled
def _advise(
    fd: Any, file: Any, advice: Any, offset: Any, length: Any, state: Any, ring: Any, clock: Any
) -> Any:
    """Give a page-cache hint and write its row; the time at which it began."""
    row = _room_for_row(state, ring, clock)
    began = _now(clock)
    _fadvise(fd, offset, length, advice)
    ring[row, OP], ring[row, SUBMIT], ring[row, LATENCY] = -file - 1, began, _now(clock) - began
    ring[row, BYTES], ring[row, GATE_WAIT], ring[row, DUE] = offset, length, advice
    _exchange(state, HEAD, state[HEAD] + 1)
    return began


@_compiled
def _admit(control: Any, nbytes: Any, clock: Any) -> Any:
    """Wait for admission, first come first served; ns waited. Only the holder of the ticket served adds."""
    ticket = _fetch_add(control, TICKETS, 1)
    began = _now(clock)
    spins = 0
    while _load(control, SERVING) != ticket:
        spins += 1
        if spins > _SPINS:
            _sleep_until(clock, _now(clock) + _PAUSE_NS)
    spins = 0
    while _load(control, OPS_IN_FLIGHT) > 0 and (
        (control[MAX_OPS] > 0 and _load(control, OPS_IN_FLIGHT) >= control[MAX_OPS])
        or (control[MAX_BYTES] > 0 and _load(control, BYTES_IN_FLIGHT) + nbytes > control[MAX_BYTES])
    ):
        spins += 1
        if spins > _SPINS:
            _sleep_until(clock, _now(clock) + _PAUSE_NS)
    _fetch_add(control, BYTES_IN_FLIGHT, nbytes)
    _fetch_add(control, OPS_IN_FLIGHT, 1)
    waited = _now(clock) - began if spins > 0 else 0
    _fetch_add(control, SERVING, 1)
    return waited


@_compiled
def _read(fd: Any, buffer: Any, length: Any, offset: Any) -> Any:
    """Bytes read, up to the end of the file; -errno if nothing could be read."""
    done = 0
    while done < length:
        got = _pread(fd, buffer + done, length - done, offset + done)
        if got < 0:
            return -_errno() if done == 0 else done
        done += got
        # At the end of the file another call would move nothing, at the price of a request.
        if got == 0 or (done < length and offset + done >= _lseek(fd, 0, _SEEK_END)):
            break
    return done


@_compiled
def work(
    resumed: Any, header: Any, due: Any, file: Any, offset: Any, length: Any, recorded: Any, paths: Any,
    path_at: Any, control: Any, state: Any, ring: Any, cache: Any, room: Any, room_bytes: Any, clock: Any,
) -> Any:  # fmt: skip
    """Drive ops until there are none: (DONE, -1), or (NEED_ROOM, op) for a read larger than `room_bytes`.

    `resumed` is an op that needed room (-1: none). `room` is the address of the buffer.
    """
    while True:
        op = resumed
        resumed = -1
        if op < 0:
            op = _fetch_add(control, NEXT, 1)
        while op >= _load(header, READY):
            if _load(header, STOP) != 0 or (_load(header, COMPLETE) != 0 and op >= _load(header, READY)):
                return DONE, -1
            _sleep_until(clock, _now(clock) + 500_000)
        _exchange(state, CURRENT, op)
        asked, number = length[op], file[op]
        fresh = cache[number % cache.shape[0], 0] != number + 1
        fd = _open_file(number, cache, paths, path_at, control)
        if fd >= 0 and fresh and control[OPEN_ADVICE] >= 0:
            _advise(fd, number, control[OPEN_ADVICE], 0, _lseek(fd, 0, _SEEK_END), state, ring, clock)
        if asked == NO_LENGTH:
            asked = max(_lseek(fd, 0, _SEEK_END) - offset[op], 0) if fd >= 0 else 0
        if asked > room_bytes and fd >= 0:
            return NEED_ROOM, op
        at, backlog = 0, 0
        if control[TIMED] != 0:
            at = due[op] + control[START]
            wait = at - _now(clock)
            if wait <= 0:
                backlog = -wait
            else:
                _exchange(state, IDLE, 1)
                while wait > 0 and _load(header, STOP) == 0:
                    _sleep_until(clock, at if wait < _NAP_NS else _now(clock) + _NAP_NS)
                    wait = at - _now(clock)
                _exchange(state, IDLE, 0)
        if _load(header, STOP) != 0:
            return DONE, -1
        gated = control[MAX_BYTES] > 0 or control[MAX_OPS] > 0
        waited = _admit(control, asked, clock) if gated else 0
        began = _now(clock)
        moved = _read(fd, room, asked, offset[op]) if fd >= 0 else fd
        ended = _now(clock)
        if control[DROP] != 0 and moved > 0:
            first = offset[op] - offset[op] % 4096
            span = -(-(offset[op] + moved - first) // 4096) * 4096
            ended = _advise(fd, number, _DONTNEED, first, span, state, ring, clock)
        if gated:
            _fetch_add(control, BYTES_IN_FLIGHT, -asked)
            _fetch_add(control, OPS_IN_FLIGHT, -1)
        row = _room_for_row(state, ring, clock)
        least = asked if recorded[op] == NO_LENGTH else min(asked, recorded[op])
        failed = 0 if moved >= least else SHORT if moved >= 0 else -moved
        ring[row, OP], ring[row, SUBMIT], ring[row, LATENCY] = op, began, ended - began
        ring[row, BYTES], ring[row, GATE_WAIT], ring[row, DUE] = max(moved, 0), waited, at
        ring[row, BACKLOG], ring[row, ERROR] = backlog, failed
        state[BUSY_NS] += ended - began
        state[LATE] = began - at if at > 0 else 0
        _exchange(state, HEAD, state[HEAD] + 1)
