"""The system calls that an strace log can hold, by what they do."""

from __future__ import annotations

__all__ = [
    "ASYNC",
    "CONNECTS",
    "COPIES",
    "DATA",
    "DELETES",
    "DUPS",
    "EXECS",
    "FD_STATS",
    "FD_TRUNCATES",
    "FORKS",
    "GPU_DIRECT",
    "HINTS",
    "IO_SUBMIT",
    "IO_URING",
    "LEFT_OUT",
    "LISTS",
    "MAPS",
    "MOVES",
    "OPENS",
    "READS",
    "REAPS",
    "RENAMES",
    "SEEKS",
    "STATS",
    "SYNCS",
    "TRACED",
    "TRUNCATES",
    "UNSEEN",
    "VECTORED",
    "WRITES",
]

IO_URING, IO_SUBMIT, GPU_DIRECT = UNSEEN = ("io_uring", "io_submit", "GPUDirect Storage")
"""How storage is used without calls that show all that moved. GPUDirect Storage moves bytes between files and a GPU by a
driver of its own."""

READS = {
    "read": None,
    "readv": None,
    "pread64": -1,
    "pread": -1,
    "preadv": -1,
    "preadv2": -2,
}
WRITES = {
    "write": None,
    "writev": None,
    "pwrite64": -1,
    "pwrite": -1,
    "pwritev": -1,
    "pwritev2": -2,
}
"""Calls, and which argument (from the end) is the offset."""
DATA = READS | WRITES
OPENS = ("open", "openat", "openat2", "creat")
STATS = (
    "stat",
    "stat64",
    "lstat",
    "lstat64",
    "newfstatat",
    "fstatat64",
    "statx",
    "access",
    "faccessat",
    "faccessat2",
)
FD_STATS = ("fstat", "fstat64")
LISTS = ("getdents", "getdents64")
DELETES = ("unlink", "unlinkat")
SEEKS = ("lseek", "_llseek", "llseek")
DUPS = ("dup", "dup2", "dup3")
FORKS = ("clone", "clone3", "fork", "vfork")
EXECS = ("execve", "execveat")
HINTS = ("fadvise64", "fadvise64_64", "readahead")
MAPS = ("mmap", "mmap2")
COPIES = {"sendfile": (1, 0), "sendfile64": (1, 0), "copy_file_range": (0, 1), "splice": (0, 1)}
"""Calls that move bytes between descriptors in the kernel: which of the two is read, which written."""
SYNCS = ("fsync", "fdatasync", "sync_file_range")
FD_TRUNCATES = ("ftruncate", "ftruncate64")
TRUNCATES = ("truncate", "truncate64")
MOVES = ("chdir", "fchdir")
"""Calls that change the working directory."""
RENAMES = ("rename", "renameat", "renameat2")
REAPS = ("io_getevents", "io_pgetevents")
ASYNC = {
    "PREAD": "read",
    "PREADV": "read",
    "PWRITE": "write",
    "PWRITEV": "write",
    "FSYNC": "sync",
    "FDSYNC": "sync",
}
CONNECTS = ("connect",)
LEFT_OUT = (
    "io_uring_enter",
    "sync",
    "syncfs",
    "msync",
    "fallocate",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "vmsplice",
    "tee",
)
"""Calls on storage that are not ops of the schema, or whose requests strace does not show."""
VECTORED = ("readv", "writev", "preadv", "preadv2", "pwritev", "pwritev2", "io_submit", *REAPS)
TRACED = (
    *(name for name in DATA if name not in ("pread", "pwrite")),
    *OPENS,
    *STATS,
    *LISTS,
    *DELETES,
    *SEEKS,
    *DUPS,
    "fcntl",
    "fcntl64",
    "close",
    "close_range",
    *FORKS,
    *HINTS,
    *MAPS,
    *COPIES,
    "io_submit",
    *REAPS,
    *SYNCS,
    *FD_TRUNCATES,
    *TRUNCATES,
    *RENAMES,
    *MOVES,
    *CONNECTS,
    *LEFT_OUT,
)
"""What to trace: every call that the reader understands or counts, but for `fstat`, which moves nothing, and `execve`,
whose effect `-y` shows."""
