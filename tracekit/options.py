"""Every option of the loader, the replayer and the commands that have a few of their own, described once.

Dataclasses, typed keywords, command-line options, the tables in the documentation and error messages are
derived from these tables, or held to them by a test. `store_options` has those of object stores, `capture.options` those of a capture.
"""

from __future__ import annotations

from typing import get_args

from tracekit.keywords import (
    CheckpointLayout,
    CheckpointSync,
    Engine,
    LoadingMode,
    OnError,
    Op,
    Pace,
    PageCacheMode,
    RandomIndexMode,
    ReaderMode,
    ResourceOrder,
    SampleBy,
    ShardMode,
    WorkersModel,
)
from tracekit.scale_options import CLIENTS, SCALE
from tracekit.store_options import STORE
from tracekit.validation import Kind, Option, Table, table

__all__ = [
    "CHECKPOINT",
    "DRY_RUN",
    "FILTERS",
    "LOADER",
    "MATERIALIZE",
    "PAGE_CACHE_MODES",
    "RECORD",
    "REPLAY",
    "VERDICT",
]

PAGE_CACHE_MODES: tuple[str, ...] = get_args(PageCacheMode)

_ORDER = "Which samples, in which order"
_READING = "How they are read"
_OPS = "Which ops, and where"
_PACING = "When each op goes"
_CLIENT = "The client"
_CACHE = "The page cache"


_MAX_BYTES = Option("max_bytes_in_flight", Kind.SIZE, "In-flight cap, never exceeded.", unset="no cap", low=1)
_PAGE_CACHE_MODE = Option(
    "page_cache_mode", Kind.CHOICE, "Use of the page cache.", "default", choices=PAGE_CACHE_MODES
)

LOADER: Table = {
    **table(
        _ORDER,
        Option("batch_size", Kind.COUNT, "Samples in a batch.", 32, low=1),
        Option("drop_last", Kind.FLAG, "Leave out the last batch if it is not full.", False),
        Option(
            "shuffle",
            Kind.FLAG,
            "Read in a random order; a count shuffles through a buffer of that many samples.",
            False,
            count_from=2,
        ),
        Option(
            "random_index_mode",
            Kind.CHOICE,
            "Draw as many samples as there are, with replacement.",
            "none",
            choices=get_args(RandomIndexMode),
        ),
        Option(
            "zipf_theta",
            Kind.NUMBER,
            "Skew of zipfian: the k-th sample is drawn with probability proportional to 1 / k^theta.",
            0.99,
            low=0,
            high=20,
        ),
        Option(
            "reshuffle_hot_set",
            Kind.FLAG,
            "With `shuffle`, zipfian draws prefer other samples in each epoch.",
            False,
        ),
        Option("seed", Kind.COUNT, "Seed of the random order; each epoch has an order of its own.", 0, low=0),
        Option("shard_rank", Kind.COUNT, "Read the share of this rank.", 0, low=0),
        Option("shard_world_size", Kind.COUNT, "Number of ranks that share the order.", 1, low=1),
        Option(
            "shard_mode",
            Kind.CHOICE,
            "Give every rank the same number of batches by leaving out (even) or repeating (pad) samples, or not (uneven).",
            "even",
            choices=get_args(ShardMode),
        ),
        Option(
            "sample_bytes",
            Kind.SIZE,
            "Cut objects into samples of this size.",
            unset="an object is a sample",
            low=1,
        ),
    ),
    **table(
        _READING,
        Option("num_workers", Kind.COUNT, "Threads that read.", 4, low=1, high=4096),
        Option("prefetch", Kind.COUNT, "Batches read before they are asked for.", 2, low=0),
        Option(
            "loading_mode",
            Kind.CHOICE,
            "Read a batch when it is asked for (sequential), ahead in order (prefetch) or ahead in any order.",
            "prefetch",
            choices=get_args(LoadingMode),
        ),
        Option(
            "reader_mode",
            Kind.CHOICE,
            "One worker reads a sample front to back (sequential), or all workers read its ranges (range).",
            "sequential",
            choices=get_args(ReaderMode),
        ),
        Option(
            "target_request_bytes",
            Kind.SIZE,
            "Size of a request; none asks for whole samples.",
            131_072,
            unset="whole samples",
            low=1,
        ),
        Option(
            "on_error",
            Kind.CHOICE,
            "Raise the error of a sample in place of its batch, or skip and count the sample.",
            "raise",
            choices=get_args(OnError),
        ),
        _MAX_BYTES,
        _PAGE_CACHE_MODE,
    ),
    **STORE,
}

FILTERS: Table = table(
    _OPS,
    Option(
        "start", Kind.DURATION, "Skip ops before this time, counted from the first op.", unset="the first op"
    ),
    Option("end", Kind.DURATION, "Skip ops from this time on.", unset="the last op"),
    Option("op", Kind.CHOICE, "Only these kinds of op.", unset="all", choices=get_args(Op), repeats=True),
    Option("uri_glob", Kind.TEXT, "Only recorded URIs that match this glob.", unset="all", metavar="GLOB"),
    Option("rank", Kind.COUNT, "Only these ranks.", unset="all", low=0, repeats=True),
    Option("worker", Kind.COUNT, "Only these workers.", unset="all", low=0, repeats=True),
    Option("sample", Kind.COUNT, "Only these sample ids.", unset="all", repeats=True),
    Option(
        "sample_rate",
        Kind.NUMBER,
        "Only this share of the streams, or files, each whole.",
        unset="all",
        above=0,
        high=1,
    ),
    Option(
        "sample_by",
        Kind.CHOICE,
        "What `sample_rate` chooses from: streams or files.",
        "stream",
        metavar="WHAT",
        choices=get_args(SampleBy),
    ),
    Option("sample_seed", Kind.COUNT, "Seed of that choice.", 0, low=0),
)
"""Which ops of a trace are replayed."""

_MAP = Option(
    "map",
    Kind.TEXT,
    "Rewrite URIs by prefix (the longest match wins), or with ~REGEX=TO by regular expression.",
    (),
    metavar="FROM=TO",
    repeats=True,
)

VERDICT: Table = table(
    "Output and verdict",
    Option("tolerance", Kind.NUMBER, "Tolerance of bytes, duration and throughput, a fraction.", 0.15, low=0),
    Option("max_lateness", Kind.DURATION, "The latest that an op may go.", unset="from the gaps of the plan"),
    Option("allow_empty", Kind.FLAG, "Accept a replay of no ops.", False),
    Option("partial", Kind.FLAG, "Accept a replay that was interrupted.", False),
    Option(
        "expect_failures",
        Kind.FLAG,
        "Ops that failed in the recording are to fail again; otherwise no op may fail.",
        True,
    ),
    Option(
        "judge",
        Kind.TEXT,
        "A gate on any metric, such as 'latency_p99<=1.2x'.",
        (),
        metavar="CONDITION",
        repeats=True,
    ),
)
"""How a comparison is judged."""

REPLAY: Table = {
    **table(_OPS, _MAP),
    **FILTERS,
    **table(
        _PACING,
        Option(
            "pace",
            Kind.CHOICE,
            "At recorded times whatever the target does (recorded), in recorded order with think time (closed), "
            "or as soon as a worker is free (asap).",
            "recorded",
            choices=get_args(Pace),
        ),
        Option(
            "workers_model",
            Kind.CHOICE,
            "Rule of closed pacing: any free worker takes the next sample (pool), a batch belongs to a worker "
            "(stream), streams as recorded (recorded), or what the trace says or shows (auto).",
            "auto",
            choices=get_args(WorkersModel),
        ),
        Option(
            "order",
            Kind.CHOICE,
            "Let an op wait for the changes of its object that had ended before it began (resource), or not (none).",
            "resource",
            choices=get_args(ResourceOrder),
        ),
        Option("speed", Kind.NUMBER, "Divide recorded times by this.", 1.0, above=0),
        Option("max_gap", Kind.DURATION, "Shorten longer pauses to this.", unset="no limit"),
        Option("loop", Kind.COUNT, "Replay the whole this often.", 1, low=1),
        _MAX_BYTES,
        Option("max_ops_in_flight", Kind.COUNT, "In-flight cap in ops.", unset="no cap", low=1),
    ),
    **SCALE,
    **table(
        _CACHE,
        _PAGE_CACHE_MODE,
        Option("cold", Kind.FLAG, "Drop the trace's local files from the page cache first.", False),
        Option("warm", Kind.FLAG, "Read the trace's local files into the page cache first.", False),
    ),
    **table(
        _CLIENT,
        Option(
            "engine",
            Kind.CHOICE,
            "What drives the plan: compiled (local files; needs the extra fast), interpreter (any plan), loop (object "
            "stores), or the fastest of them that can (auto).",
            "auto",
            choices=get_args(Engine),
        ),
        Option(
            "threads",
            Kind.COUNT,
            "Workers; with an event loop, requests at once.",
            unset="chosen from the trace",
            low=1,
            high=4096,
        ),
        Option(
            "max_workers",
            Kind.COUNT,
            "Workers that may be started while the target is slow.",
            1024,
            low=1,
            high=8192,
        ),
        Option("realtime", Kind.FLAG, "Run the client under SCHED_FIFO, where the system allows it.", False),
    ),
    **table(
        "Output and verdict",
        Option("allow_writes", Kind.FLAG, "Replay writes, too, under mapped targets only.", False),
        Option(
            "skip",
            Kind.CHOICE,
            "Leave out this kind of op, such as one that the target cannot do.",
            (),
            choices=get_args(Op),
            repeats=True,
        ),
        Option(
            "write_data",
            Kind.TEXT,
            "What writes send: seeded pseudo-random bytes (random), zeros, or bytes that shrink to a RATIOth "
            "(compressible:RATIO).",
            "random",
            metavar="DATA",
        ),
        Option(
            "overwrite",
            Kind.FLAG,
            "Replace an existing output and, with `allow_writes`, existing objects.",
            False,
        ),
        Option("repeat", Kind.COUNT, "Replay this often, and judge the medians.", 1, low=1, high=1000),
    ),
    **VERDICT,
    **STORE,
}


MATERIALIZE: Table = {
    **table(
        "",
        _MAP,
        CLIENTS,
        Option(
            "seed",
            Kind.COUNT,
            "Fill files with seeded random bytes; otherwise local files are sparse (zeros that take no space).",
            unset="sparse files",
            low=0,
        ),
    ),
    **STORE,
}

DRY_RUN: Table = table(
    "",
    Option(
        "latency",
        Kind.DURATION,
        "In a dry run, predict the duration of closed pacing with every op taking this long.",
        unset="as long as recorded",
    ),
)
"""Options of a dry run besides those of the replay."""

CHECKPOINT: Table = table(
    "What checkpoint-save writes",
    Option("checkpoint_ranks", Kind.COUNT, "Ranks that write at once.", 4, low=1, high=1024),
    Option("checkpoint_bytes", Kind.SIZE, "Bytes that each rank writes.", 256 << 20, low=1),
    Option(
        "checkpoint_layout",
        Kind.CHOICE,
        "A file of its own for each rank (rank), or one file with a range for each (shared).",
        "rank",
        choices=get_args(CheckpointLayout),
    ),
    Option(
        "checkpoint_sync",
        Kind.CHOICE,
        "Sync after each request, or at the end of the file, or not.",
        unset="file for local files, none for object stores",
        choices=get_args(CheckpointSync),
    ),
)
"""Options of a recorded run that writes checkpoints."""

RECORD: Table = table(
    "",
    Option("epochs", Kind.COUNT, "Read the dataset this often.", 1, low=1),
    Option("steps", Kind.COUNT, "Stop after this many batches.", unset="all", low=1),
    Option("step_time", Kind.DURATION, "Pause for this long after each batch.", 0),
    Option("join", Kind.FLAG, "Add to a trace that other ranks record.", False),
    Option("overwrite", Kind.FLAG, "Replace an existing trace.", False),
)
"""Options of a recorded run besides those of its loader."""
