"""The compiled requests to local files: opening, reads and range writes, with and without O_DIRECT.

They do what `backends.local` does in Python. Called from `kernel` only.
"""

from __future__ import annotations

import os
from typing import Any

from tracekit.replayer import payload
from tracekit.replayer.engines import words as w
from tracekit.replayer.engines.native import (
    call,
    compiled,
    errno,
    exchange,
    load,
    now,
    open64,
    posix_close,
    posix_fadvise,
    posix_fsync,
    posix_ftruncate,
    posix_lseek,
    posix_pread,
    posix_pwrite,
    posix_statx,
    sleep_until,
    store,
)

__all__ = [
    "drop_pages",
    "fill",
    "has_open",
    "make_room",
    "next_row",
    "prepare_read",
    "read",
    "sync",
    "truncate",
    "write",
    "writer",
]

_EINVAL, _EMFILE, _ENFILE = 22, 24, 23
_SYNC_FLAGS = os.O_RDONLY | os.O_CLOEXEC
_O_DIRECT, _PAGE = os.O_DIRECT, os.sysconf("SC_PAGE_SIZE")
_SEEK_END, _DONTNEED = 2, 4
_AT_EMPTY_PATH = 0x1000
_STATX_BASIC, _STATX_DIOALIGN = 0x7FF, 0x2000
_KIND, _REGULAR, _BLOCK_DEVICE = 0xF000, 0x8000, 0x6000
_WRITE_BLOCK = 4096
"""Offsets, lengths and buffers of O_DIRECT writes are multiples of it."""
_LONGEST = 1 << 60
_FIRST_KEY, _KEY = (key - (1 << 64) if key >> 63 else key for key in (payload.FIRST_KEY, payload.KEY))


@compiled
def _close_all(cache: Any) -> None:
    for slot in range(cache.shape[0]):
        if cache[slot, w.FILE] != 0:
            posix_close(cache[slot, w.FD])
            cache[slot, w.FILE] = 0


@compiled
def _slot(file: Any, files: Any, control: Any, state: Any) -> Any:
    """The entry of the cache that is the file's. All are closed when fewer files may stay open than before."""
    slots = min(files.shape[0], load(control, w.MOST_OPEN))
    if state[w.SLOTS] != slots:
        _close_all(files)
        state[w.SLOTS] = slots
    return file % slots


@compiled
def has_open(file: Any, control: Any, cache: Any) -> Any:
    """Whether a file is open already, so that `prepare_read` opens and closes none."""
    slots = min(cache.shape[0], load(control, w.MOST_OPEN))
    return cache[file % slots, w.FILE] == file + 1


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
def _open(slot: Any, file: Any, files: Any, control: Any, worker: Any) -> Any:
    """Open a file into an entry of the cache; 0, or the error as an errno value or `UNSUPPORTED`."""
    cache, status = worker.files, worker.status
    if cache[slot, w.FILE] != 0:
        posix_close(cache[slot, w.FD])
        cache[slot, w.FILE] = 0
    path, direct = files.paths.ctypes.data + files.path_at[file], files.direct[file] != 0
    flags = control[w.OPEN_FLAGS] | (_O_DIRECT if direct else 0)
    fd = open64(path, flags, 0)
    if fd < 0 and (errno() == _EMFILE or errno() == _ENFILE):
        _close_all(cache)
        fd = open64(path, flags, 0)
    if fd < 0:
        failed = errno()
        return w.UNSUPPORTED if direct and failed == _EINVAL else failed
    failed, block = 0, 0
    empty = files.paths.ctypes.data + files.paths.shape[0] - 1  # the NUL at the end of the last path
    if posix_statx(fd, empty, _AT_EMPTY_PATH, _STATX_BASIC | _STATX_DIOALIGN, status.ctypes.data) != 0:
        failed = errno()
    elif status[7] & _KIND != _REGULAR and status[7] & _KIND != _BLOCK_DEVICE:
        failed = w.UNSUPPORTED
    elif direct:
        block = _block_of(status)
        failed = 0 if block else w.UNSUPPORTED
    if failed:
        posix_close(fd)
        return failed
    cache[slot, w.FILE], cache[slot, w.FD], cache[slot, w.BLOCK] = file + 1, fd, block
    return 0


@compiled
def next_row(worker: Any) -> Any:
    """The index of the next row, waiting until it has been flushed."""
    state, clock = worker.state, worker.clock
    head = state[w.HEAD]
    while head - load(state, w.TAIL) >= worker.ring.shape[0]:
        sleep_until(clock, now(clock) + 200_000)
    return head % worker.ring.shape[0]


@compiled
def _advise(fd: Any, file: Any, advice: Any, offset: Any, length: Any, worker: Any) -> Any:
    """Give a page-cache hint and write its row; the time at which it began."""
    ring, clock = worker.ring, worker.clock
    row = next_row(worker)
    began = now(clock)
    posix_fadvise(fd, offset, length, advice)
    ring[row, w.OP], ring[row, w.SUBMIT], ring[row, w.LATENCY] = -file - 1, began, now(clock) - began
    ring[row, w.BYTES], ring[row, w.GATE_WAIT], ring[row, w.DUE] = offset, length, advice
    exchange(worker.state, w.HEAD, worker.state[w.HEAD] + 1)
    return began


@compiled
def make_room(op: Any, nbytes: Any, worker: Any, ask: Any) -> Any:
    """Have a buffer of `nbytes`; 0, or the error that there is no memory for it."""
    if nbytes <= worker.state[w.ROOM_BYTES]:
        return 0
    return call(ask, w.MAKE_ROOM, op, nbytes)


@compiled
def prepare_read(op: Any, anew: Any, plan: Any, files: Any, control: Any, worker: Any, ask: Any) -> Any:
    """Open the file of a read, `anew` if it may be another by now, and have a buffer for it.

    Its error (0: none), its entry of the cache, and how many bytes it asks for.
    """
    number, asked = plan.file[op], plan.length[op]
    slot, failed = _slot(number, worker.files, control, worker.state), 0
    if anew or worker.files[slot, w.FILE] != number + 1:
        failed = _open(slot, number, files, control, worker)
        if failed == 0 and control[w.OPEN_ADVICE] >= 0 and worker.files[slot, w.BLOCK] == 0:
            fd = worker.files[slot, w.FD]
            _advise(fd, number, control[w.OPEN_ADVICE], 0, posix_lseek(fd, 0, _SEEK_END), worker)
    if failed != 0:
        return failed, slot, max(asked, 0)
    if asked == w.NO_LENGTH:
        asked = max(posix_lseek(worker.files[slot, w.FD], 0, _SEEK_END) - plan.offset[op], 0)
    room = min(asked, _LONGEST) + 2 * worker.files[slot, w.BLOCK]
    return make_room(op, room, worker, ask), slot, asked


@compiled
def read(slot: Any, length: Any, offset: Any, worker: Any) -> Any:
    """Bytes read, up to the end of the file; -errno if a read failed."""
    fd, block = worker.files[slot, w.FD], worker.files[slot, w.BLOCK]
    if block != 0:
        return _read_direct(fd, block, length, offset, worker.state)
    buffer, done = worker.state[w.ROOM], 0
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
def _read_direct(fd: Any, block: Any, length: Any, offset: Any, state: Any) -> Any:
    """Read the whole blocks around a range; the bytes of the range that were read, or -errno.

    The buffer has room for two blocks more than `length`. The bytes outside the range are counted.
    """
    state[w.DIRECT_READS] += 1
    done = 0
    while done < length:
        ahead = (offset + done) % block
        left = length - done
        got = posix_pread(fd, state[w.ROOM], -(-(ahead + left) // block) * block, offset + done - ahead)
        if got < 0:
            return -errno()
        moved = max(min(got - ahead, left), 0)
        state[w.ALIGNMENT_BYTES] += got - moved
        done += moved
        if moved == 0 or (offset + done) % block != 0:  # whole blocks but at the end of the file
            break
    return done


@compiled
def drop_pages(slot: Any, file: Any, offset: Any, moved: Any, worker: Any) -> Any:
    """Drop the pages of what was read from the page cache; the time at which that began."""
    first = offset - offset % _PAGE  # the kernel keeps pages that the range covers only in part
    span = -(-(offset + moved - first) // _PAGE) * _PAGE
    return _advise(worker.files[slot, w.FD], file, _DONTNEED, first, span, worker)


@compiled
def writer(op: Any, file: Any, files: Any, control: Any, worker: Any, ask: Any) -> Any:
    """Have the file open for writing: its error (0: none), and its entry of the cache."""
    slots = min(worker.writers.shape[0], load(control, w.MOST_OPEN))
    if worker.state[w.WRITER_SLOTS] != slots:
        call(ask, w.CLOSE_WRITERS, op, 0)
        worker.state[w.WRITER_SLOTS] = slots
    slot = file % slots
    known, version = worker.writers[slot, w.FILE] == file + 1, worker.writers[slot, w.VERSION]
    if known and load(files.versions, file) == version:
        return 0, slot
    return call(ask, w.OPEN_WRITER, op, slot), slot


@compiled
def write(slot: Any, length: Any, offset: Any, worker: Any) -> Any:
    """Write the worker's buffer; its bytes, or -errno. With O_DIRECT, what is no whole block goes through the page cache."""
    fd, past_cache = worker.writers[slot, w.FD], worker.writers[slot, w.DIRECT_FD]
    room, last = worker.state[w.ROOM], (offset + length) // _WRITE_BLOCK * _WRITE_BLOCK
    if past_cache < 0:
        failed = _write_all(fd, room, length, offset)
    elif offset % _WRITE_BLOCK != 0 or last <= offset:
        worker.state[w.BUFFERED_BYTES] += length
        failed = _write_all(fd, room, length, offset)
    else:
        rest = offset + length - last
        failed = _write_all(past_cache, room, length - rest, offset)
        if failed == 0:
            failed = _write_all(fd, room + length - rest, rest, last)
        if failed == 0:
            worker.state[w.BUFFERED_BYTES] += rest
    return length if failed == 0 else -failed


@compiled
def truncate(op: Any, plan: Any, files: Any, control: Any, worker: Any, ask: Any) -> Any:
    """Set the size of a file: 0, or an error below 0."""
    failed, slot = writer(op, plan.file[op], files, control, worker, ask)
    if failed == 0 and posix_ftruncate(worker.writers[slot, w.FD], max(plan.length[op], 0)) != 0:
        failed = errno()
    return -failed


@compiled
def sync(op: Any, file: Any, files: Any, ask: Any) -> Any:
    """Make a file or directory durable: 0, or an error below 0. Python decides about one that is not there."""
    fd = open64(files.paths.ctypes.data + files.path_at[file], _SYNC_FLAGS, 0)
    if fd < 0:
        return call(ask, w.PERFORM, op, 0)
    failed = errno() if posix_fsync(fd) != 0 else 0
    posix_close(fd)
    return -failed


@compiled
def _write_all(fd: Any, buffer: Any, length: Any, offset: Any) -> Any:
    done = 0
    while done < length:
        got = posix_pwrite(fd, buffer + done, length - done, offset + done)
        if got < 0:
            return errno()
        done += got
    return 0


@compiled
def fill(room: Any, nbytes: Any, op: Any, seeds: Any, keep_zeros: Any) -> None:
    """Fill a buffer with the bytes of an op, as `Payload.fill` does; up to 7 bytes more are written."""
    key, count, words = (op + 1) * _FIRST_KEY, seeds.shape[0], (nbytes + 7) // 8
    for first in range(0, words, count):
        key += _KEY
        for place in range(min(count, words - first)):
            word = seeds[place]
            store(room + 8 * (first + place), 0 if keep_zeros != 0 and word == 0 else word + key)
