"""The compiled loop of a replay worker: takes ops, waits, reads, and writes rows. No interpreter lock.

`words` has the layout of the arrays that it shares with `compiled`. The module is imported by
`jit` only, with numba's cache directory already set.
"""

from __future__ import annotations

import os
from typing import Any

from tracekit.replayer.engines import closed as closed_loop
from tracekit.replayer.engines import words as w
from tracekit.replayer.engines.native import (
    compiled,
    errno,
    exchange,
    fetch_add,
    load,
    now,
    open64,
    posix_close,
    posix_fadvise,
    posix_lseek,
    posix_pread,
    posix_statx,
    sleep_until,
    swap_if,
    wait_while,
    wake,
)

__all__ = ["work"]

_EINVAL, _EMFILE, _ENFILE = 22, 24, 23
_O_DIRECT, _PAGE = os.O_DIRECT, os.sysconf("SC_PAGE_SIZE")
_SEEK_END, _DONTNEED = 2, 4
_AT_EMPTY_PATH = 0x1000
_STATX_BASIC, _STATX_DIOALIGN = 0x7FF, 0x2000
_KIND, _REGULAR, _BLOCK_DEVICE = 0xF000, 0x8000, 0x6000
_NAP_NS = 200_000_000
_SPINS = 200
_LONGEST_WAIT_NS = 50_000_000
"""A wait for another worker ends after this at the latest, and the condition is looked at again."""


@compiled
def _close_all(cache: Any) -> None:
    for slot in range(cache.shape[0]):
        if cache[slot, w.FILE] != 0:
            posix_close(cache[slot, w.FD])
            cache[slot, w.FILE] = 0


@compiled
def _slot(file: Any, cache: Any, control: Any, state: Any) -> Any:
    """The entry of the cache that is the file's. All are closed when fewer files may stay open than before."""
    slots = min(cache.shape[0], load(control, w.MOST_OPEN))
    if state[w.SLOTS] != slots:
        _close_all(cache)
        state[w.SLOTS] = slots
    return file % slots


@compiled
def _block_of(status: Any) -> Any:
    """What O_DIRECT wants offsets and lengths to be multiples of; 0 if the file does not support it.

    From statx (Linux 6.1 or later), else the block size, as `backends.local.direct` has it.
    """
    if status[0] & _STATX_DIOALIGN:
        return status[39] if status[38] else 0
    size = status[1]
    return size if 512 <= size <= 65_536 and size & (size - 1) == 0 else 4096


@compiled
def _open(
    slot: Any, file: Any, cache: Any, paths: Any, path_at: Any, direct: Any, control: Any, status: Any
) -> Any:
    """Open a file into an entry of the cache; 0, or the error as an errno value or `UNSUPPORTED`."""
    if cache[slot, w.FILE] != 0:
        posix_close(cache[slot, w.FD])
        cache[slot, w.FILE] = 0
    path = paths.ctypes.data + path_at[file]
    flags = control[w.OPEN_FLAGS] | (_O_DIRECT if direct[file] else 0)
    fd = open64(path, flags, 0)
    if fd < 0 and (errno() == _EMFILE or errno() == _ENFILE):
        _close_all(cache)
        fd = open64(path, flags, 0)
    if fd < 0:
        failed = errno()
        return w.UNSUPPORTED if direct[file] and failed == _EINVAL else failed
    failed, block = 0, 0
    empty = paths.ctypes.data + paths.shape[0] - 1  # the NUL at the end of the last path
    if posix_statx(fd, empty, _AT_EMPTY_PATH, _STATX_BASIC | _STATX_DIOALIGN, status.ctypes.data) != 0:
        failed = errno()
    elif status[7] & _KIND != _REGULAR and status[7] & _KIND != _BLOCK_DEVICE:
        failed = w.UNSUPPORTED
    elif direct[file]:
        block = _block_of(status)
        failed = 0 if block else w.UNSUPPORTED
    if failed:
        posix_close(fd)
        return failed
    cache[slot, w.FILE], cache[slot, w.FD], cache[slot, w.BLOCK] = file + 1, fd, block
    return 0


@compiled
def _row(state: Any, ring: Any, clock: Any) -> Any:
    """The index of the next row, waiting until it has been flushed."""
    head = state[w.HEAD]
    while head - load(state, w.TAIL) >= ring.shape[0]:
        sleep_until(clock, now(clock) + 200_000)
    return head % ring.shape[0]


@compiled
def _advise(
    fd: Any, file: Any, advice: Any, offset: Any, length: Any, state: Any, ring: Any, clock: Any
) -> Any:
    """Give a page-cache hint and write its row; the time at which it began."""
    row = _row(state, ring, clock)
    began = now(clock)
    posix_fadvise(fd, offset, length, advice)
    ring[row, w.OP], ring[row, w.SUBMIT], ring[row, w.LATENCY] = -file - 1, began, now(clock) - began
    ring[row, w.BYTES], ring[row, w.GATE_WAIT], ring[row, w.DUE] = offset, length, advice
    exchange(state, w.HEAD, state[w.HEAD] + 1)
    return began


@compiled
def _enter(control: Any, nbytes: Any) -> Any:
    """Add an op to what is in flight if the caps permit it; whether they do. One larger than the cap goes alone."""
    while True:
        before = load(control, w.IN_FLIGHT)
        if before != 0:
            if control[w.MAX_OPS] > 0 and before // w.ONE_OP >= control[w.MAX_OPS]:
                return False
            if control[w.MAX_BYTES] > 0 and before % w.ONE_OP + nbytes > control[w.MAX_BYTES]:
                return False
        if swap_if(control, w.IN_FLIGHT, before, before + w.ONE_OP + nbytes):
            return True


@compiled
def _admit(control: Any, turns: Any, nbytes: Any, clock: Any) -> Any:
    """Wait for admission, first come first served; ns waited. Without a queue, an op that fits does not queue."""
    if load(control, w.SERVING) == load(control, w.TICKETS) and _enter(control, nbytes):
        return 0
    began = now(clock)
    ticket = fetch_add(control, w.TICKETS, 1)
    mine, spins = ticket % turns.shape[0], 0
    while load(control, w.SERVING) != ticket:
        spins += 1
        seen = load(turns, mine)
        if spins > _SPINS and load(control, w.SERVING) != ticket:
            wait_while(turns, mine, seen, clock, _LONGEST_WAIT_NS)
    spins = 0
    while not _enter(control, nbytes):
        spins += 1
        if spins > _SPINS:
            seen = load(control, w.RELEASES)
            exchange(control, w.HEAD_WAITS, 1)
            entered = _enter(control, nbytes)
            if not entered:
                wait_while(control, w.RELEASES, seen, clock, _LONGEST_WAIT_NS)
            exchange(control, w.HEAD_WAITS, 0)
            if entered:
                break
    fetch_add(control, w.SERVING, 1)
    if load(control, w.TICKETS) > ticket + 1:
        following = (ticket + 1) % turns.shape[0]
        fetch_add(turns, following, 1)
        wake(turns, following, 1)
    return now(clock) - began


@compiled
def _release(control: Any, nbytes: Any) -> None:
    """Tell the gate that an op has ended."""
    fetch_add(control, w.IN_FLIGHT, -w.ONE_OP - nbytes)
    if load(control, w.SERVING) != load(control, w.TICKETS):
        fetch_add(control, w.RELEASES, 1)
        if load(control, w.HEAD_WAITS):
            wake(control, w.RELEASES, 1)


@compiled
def _read(fd: Any, buffer: Any, length: Any, offset: Any) -> Any:
    """Bytes read, up to the end of the file; -errno if a read failed."""
    done = 0
    while done < length:
        got = posix_pread(fd, buffer + done, length - done, offset + done)
        if got < 0:
            return -errno()
        done += got
        # At the end of the file another call would move nothing, at the price of a request.
        if got == 0 or (done < length and offset + done >= posix_lseek(fd, 0, _SEEK_END)):
            break
    return done


@compiled
def _read_direct(fd: Any, block: Any, buffer: Any, length: Any, offset: Any, state: Any) -> Any:
    """Read the whole blocks around a range; the bytes of the range that were read, or -errno.

    `buffer` has room for two blocks more than `length`. The bytes outside the range are counted.
    """
    state[w.DIRECT_READS] += 1
    done = 0
    while done < length:
        ahead = (offset + done) % block
        left = length - done
        got = posix_pread(fd, buffer, -(-(ahead + left) // block) * block, offset + done - ahead)
        if got < 0:
            return -errno()
        moved = max(min(got - ahead, left), 0)
        state[w.ALIGNMENT_BYTES] += got - moved
        done += moved
        if moved == 0 or (offset + done) % block != 0:  # whole blocks but at the end of the file
            break
    return done


@compiled
def _wait_for_due(at: Any, header: Any, state: Any, clock: Any) -> Any:
    """Sleep until `at`, or until the replay stops; by how many ns it had already passed."""
    wait = at - now(clock)
    if wait <= 0:
        return -wait
    exchange(state, w.IDLE, 1)
    while wait > 0 and load(header, w.STOP) == 0:
        sleep_until(clock, at if wait < _NAP_NS else now(clock) + _NAP_NS)
        wait = at - now(clock)
    exchange(state, w.IDLE, 0)
    return 0


@compiled
def work(
    resumed: Any, refused: Any, header: Any, due: Any, file: Any, offset: Any, length: Any, recorded: Any, paths: Any, path_at: Any,
    direct: Any, think: Any, followed: Any, followers: Any, successor: Any, blocked: Any, heap: Any, control: Any,
    turns: Any, state: Any, ring: Any, cache: Any, room: Any, room_bytes: Any, clock: Any, status: Any,
) -> Any:  # fmt: skip
    """Drive ops until there are none: (DONE, -1), or (NEED_ROOM, op) for a read larger than `room_bytes`.

    `resumed` is an op that needed room (-1: none), and `refused` whether there is none for it.
    `room` is the address of the buffer. The columns from `think` to `heap` are of closed loops.
    """
    closed = control[w.CLOSED] != 0
    gated = control[w.MAX_BYTES] > 0 or control[w.MAX_OPS] > 0
    while True:
        op = resumed
        resumed = -1
        if op < 0 and closed:
            op = closed_loop.take(header, due, heap, control, state, clock)
            if op < 0:
                return w.DONE, -1
        elif op < 0:
            op = fetch_add(control, w.NEXT, 1)
        exchange(state, w.CURRENT, op)  # first: while it waits for the op to exist, it needs none before
        while op >= load(header, w.READY):
            if load(header, w.STOP) != 0 or (load(header, w.COMPLETE) != 0 and op >= load(header, w.READY)):
                return w.DONE, -1
            sleep_until(clock, now(clock) + 500_000)
        asked, number = length[op], file[op]
        slot, failed = _slot(number, cache, control, state), 0
        if cache[slot, w.FILE] != number + 1:
            failed = _open(slot, number, cache, paths, path_at, direct, control, status)
            if failed == 0 and control[w.OPEN_ADVICE] >= 0 and cache[slot, w.BLOCK] == 0:
                fd = cache[slot, w.FD]
                _advise(
                    fd, number, control[w.OPEN_ADVICE], 0, posix_lseek(fd, 0, _SEEK_END), state, ring, clock
                )
        fd, block = cache[slot, w.FD], cache[slot, w.BLOCK]
        if asked == w.NO_LENGTH:
            asked = max(posix_lseek(fd, 0, _SEEK_END) - offset[op], 0) if failed == 0 else 0
        if asked + 2 * block > room_bytes and failed == 0:
            if not refused:
                return w.NEED_ROOM, op
            failed, refused = w.OUT_OF_MEMORY, False
        at = due[op] + control[w.START] if control[w.TIMED] != 0 else 0
        backlog = _wait_for_due(at, header, state, clock) if control[w.TIMED] != 0 else 0
        if load(header, w.STOP) != 0:
            return w.DONE, -1
        counted = min(asked, control[w.MAX_BYTES] + 1)  # larger than the cap is larger than the cap
        waited = _admit(control, turns, counted, clock) if gated else 0
        began = now(clock)
        if closed:
            closed_loop.submitted(op, due, successor, blocked, heap, control, clock)
        moved = 0
        if failed == 0 and block == 0:
            moved = _read(fd, room, asked, offset[op])
        elif failed == 0:
            moved = _read_direct(fd, block, room, asked, offset[op], state)
        ended = now(clock)
        if moved < 0:
            failed, moved = -moved, 0
        if control[w.DROP] != 0 and moved > 0 and block == 0:
            first = offset[op] - offset[op] % _PAGE
            span = -(-(offset[op] + moved - first) // _PAGE) * _PAGE
            ended = _advise(fd, number, _DONTNEED, first, span, state, ring, clock)
        if gated:
            _release(control, counted)
        if closed:
            since = ended - control[w.START]
            closed_loop.finished(op, since, due, think, followed, followers, blocked, heap, control, clock)
        least = asked if recorded[op] == w.NO_LENGTH else min(asked, recorded[op])
        if failed == 0 and moved < least:
            failed = w.SHORT
        row = _row(state, ring, clock)
        ring[row, w.OP], ring[row, w.SUBMIT], ring[row, w.LATENCY] = op, began, ended - began
        ring[row, w.BYTES], ring[row, w.GATE_WAIT], ring[row, w.DUE] = moved, waited, at
        ring[row, w.BACKLOG], ring[row, w.ERROR] = backlog, failed
        state[w.BUSY_NS] += ended - began
        state[w.LATE] = began - at if at > 0 else 0
        state[w.OPS] += 1
        exchange(state, w.HEAD, state[w.HEAD] + 1)
