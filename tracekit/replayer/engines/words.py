"""The layout of the arrays that the compiled loop shares with the compiled engine: integers only, no logic.

numba compiles these names as constants, so that the module is imported with and without it.
"""

from __future__ import annotations

OP, SUBMIT, LATENCY, BYTES, GATE_WAIT, DUE, BACKLOG, DEPENDENCY, ERROR = range(9)
"""Columns of a row. A negative `OP` is a page-cache hint on file -OP - 1: BYTES has its offset, GATE_WAIT its
length, DUE the advice."""
ROW_WIDTH = 9

SHORT, OUT_OF_MEMORY, UNSUPPORTED = 1 << 20, 1 << 21, 1 << 22
"""Values of `ERROR` that are not errno values: fewer bytes than there should be, no memory, not a file for this mode."""
CLASSES = 1 << 16
"""From here on, up to `SHORT`, values of `ERROR` are indexes of `ErrorClass`: an op that Python performed."""

(
    HEAD,
    TAIL,
    CURRENT,
    IDLE,
    BUSY_NS,
    LATE,
    OPS,
    SLOTS,
    DIRECT_READS,
    ALIGNMENT_BYTES,
    WRITER_SLOTS,
    BUFFERED_BYTES,
    ROOM,
    ROOM_BYTES,
    REQUEST,
    SPUN_NS,
) = range(16)
"""State of a worker: rows written, rows flushed, the op at hand, whether it waits for a due time, ns in requests,
lateness of the last op, ops done, entries of its cache of open files in use, what rows cannot show, the same of files
open for writing, its buffer: address and size, which of its requests that buffer is
for, and ns spent looking for completions."""
STATE_WIDTH = 16

(
    NEXT,
    START,
    TIMED,
    MAX_BYTES,
    MAX_OPS,
    TICKETS,
    SERVING,
    IN_FLIGHT,
    RELEASES,
    HEAD_WAITS,
    OPEN_FLAGS,
    OPEN_ADVICE,
    DROP,
    MOST_OPEN,
    CLOSED,
    LOCK,
    READY_OPS,
    LEFT,
    EVENTS,
    WAITERS,
    ORDERED,
    HELD,
    KEEP_ZEROS,
    AWAITING,
    STANDING_BY,
    TURNS_UNTIL,
    TURNS_NS,
    CALLS,
) = range(28)
"""Control words: the next op, start time, whether ops have due times, the gate, how files are opened, the closed
loop (1: by streams, 2: by a loader's rule), whether ops depend on each other and how many workers wait for that, whether zeros of the payload stay zero;
how many workers wait for a due time and how many stand by, until when all take turns, for how long, and calls to do so."""
ONE_OP = 1 << 48
"""One op in `IN_FLIGHT`, whose lower bits count bytes: one word, so that both change at once."""
MOST_BYTES = ONE_OP - 2
CONTROL_WIDTH = 32

FILE, FD, BLOCK = range(3)
"""An entry of a worker's cache of open files: 1 + the file (0: free), its descriptor, and O_DIRECT's block (0: buffered)."""
FILE_WIDTH = 3
DIRECT_FD, VERSION = 2, 3
"""An entry of its cache of files open for writing: FILE and FD, the descriptor with O_DIRECT (-1: none), and which of
the files of this name it was."""
WRITER_WIDTH = 4

ROW, ASKED, COUNTED, REQUEST_ROOM, REQUEST_ROOM_BYTES, REQUEST_BLOCK = range(6)
"""A request in flight: the row of its op, the bytes that it asks for, what the gate counts, its buffer, and O_DIRECT's block."""
REQUEST_WIDTH = 6
RING_FD, SQ_TAIL, SQ_MASK, CQ_HEAD, CQ_TAIL, CQ_MASK, QUEUED, FREE, BEGUN, WAITS_SINCE = range(10)
"""The queue of requests: its ring, where words of that are, entries not yet submitted, requests that are free, ops
begun, and since when the next op waits for the gate (0: it does not)."""
QUEUE_WIDTH = 10

MAKE_ROOM, OPEN_WRITER, CLOSE_WRITERS, BEGIN_PART, PERFORM = range(5)
"""What a worker asks Python to do."""

READY, COMPLETE, STOP = 0, 1, 2  # header words, as `replayer.columns` has them
NO_LENGTH = -(1 << 63)
UNFINISHED, UNSUBMITTED, DEPENDENT = 1, 2, 4  # as `replayer.pacing` has them
