"""The options as typed keywords, for static checkers and editors.

A test holds the names to the tables of `tracekit.options`, which take their choices from here.
This module imports nothing of tracekit.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Literal, SupportsFloat, SupportsIndex, TypeAlias, TypedDict

import numpy as np

__all__ = [
    "AddressingStyle",
    "CheckpointLayout",
    "CheckpointSync",
    "Client",
    "Count",
    "Duration",
    "Engine",
    "Flag",
    "LoaderKeywords",
    "LoadingMode",
    "Number",
    "OnError",
    "Op",
    "Pace",
    "PageCacheMode",
    "RandomIndexMode",
    "RankRule",
    "ReaderMode",
    "ReplayKeywords",
    "ResourceOrder",
    "SampleBy",
    "Seconds",
    "ShardMode",
    "Size",
    "Split",
    "StoreKeywords",
    "WorkersModel",
]

Count: TypeAlias = SupportsIndex
"""An integer of Python or NumPy."""
Number: TypeAlias = SupportsFloat
"""A number of Python or NumPy."""
Flag: TypeAlias = bool | np.bool_
Size: TypeAlias = SupportsIndex | str
"""Bytes, or text such as `"64KiB"`."""
Duration: TypeAlias = SupportsIndex | str | timedelta
"""Nanoseconds, or text such as `"500ms"`."""
Seconds: TypeAlias = SupportsFloat | str | timedelta
"""Seconds, or text such as `"500ms"`."""

Split = Literal["rank", "file", "stream", "time-hash"]
ReaderMode = Literal["sequential", "range"]
ShardMode = Literal["even", "pad", "uneven"]
OnError = Literal["raise", "skip"]
LoadingMode = Literal["sequential", "prefetch", "async_pool"]
RandomIndexMode = Literal["none", "uniform", "zipfian"]
PageCacheMode = Literal["default", "fadvise_sequential", "fadvise_random", "dontneed", "direct_io"]
CheckpointLayout = Literal["rank", "shared"]
CheckpointSync = Literal["none", "file", "request"]
Pace = Literal["recorded", "closed", "asap"]
Engine = Literal["auto", "compiled", "interpreter", "loop"]
Op = Literal[
    "read", "get", "put", "write", "part", "complete", "abort", "sync", "truncate", "rename", "copy", "delete"
]
ResourceOrder = Literal["resource", "none"]
RankRule = Literal["auto", "keep", "assign"]
SampleBy = Literal["stream", "file"]
WorkersModel = Literal["auto", "pool", "stream", "recorded"]
AddressingStyle = Literal["auto", "path", "virtual"]
Client = Literal["native", "obstore", "aiobotocore", "azure-sdk"]


class StoreKeywords(TypedDict, total=False):
    """The options of object stores, as typed keywords."""

    client: Client | str | None
    endpoint: str | None
    region: str | None
    account: str | None
    anonymous: Flag | None
    timeout_s: Seconds | None
    retries: Count | None
    connect_timeout_s: Seconds | None
    total_timeout_s: Seconds | None
    aws_profile: str | None
    addressing_style: AddressingStyle | str | None
    ca_bundle: str | None
    client_cert: str | None
    proxy: str | None
    requester_pays: Flag | None
    version_id: str | None
    pool_size: Count | None
    http2: Flag | None
    verify_checksums: Flag | None


class LoaderKeywords(StoreKeywords, total=False):
    """The options of a loader, as typed keywords."""

    batch_size: Count
    drop_last: Flag
    shuffle: Flag | Count
    random_index_mode: RandomIndexMode | str
    zipf_theta: Number
    reshuffle_hot_set: Flag
    seed: Count
    shard_rank: Count
    shard_world_size: Count
    shard_mode: ShardMode | str
    sample_bytes: Size | None
    num_workers: Count
    prefetch: Count
    loading_mode: LoadingMode | str
    reader_mode: ReaderMode | str
    target_request_bytes: Size | None
    on_error: OnError | str
    max_bytes_in_flight: Size | None
    page_cache_mode: PageCacheMode | str


class VerdictKeywords(TypedDict, total=False):
    """How a comparison is judged, as typed keywords."""

    tolerance: Number
    max_lateness: Duration | None
    allow_empty: Flag
    partial: Flag
    expect_failures: Flag
    judge: str | Iterable[str]


class ReplayKeywords(StoreKeywords, VerdictKeywords, total=False):
    """The options of a replay, as typed keywords."""

    map: str | Iterable[str]
    start: Duration | None
    end: Duration | None
    op: Op | str | Iterable[str] | None
    uri_glob: str | None
    rank: Count | Iterable[Count] | None
    worker: Count | Iterable[Count] | None
    sample: Count | Iterable[Count] | None
    sample_rate: Number | None
    sample_by: SampleBy | str
    sample_seed: Count
    pace: Pace | str
    workers_model: WorkersModel
    order: ResourceOrder | str
    speed: Number
    max_gap: Duration | None
    loop: Count
    clients: Count
    stagger: Duration
    stagger_phase: Number
    on: str | None
    hosts: Count | None
    split: Split | str
    max_bytes_in_flight: Size | None
    max_ops_in_flight: Count | None
    page_cache_mode: PageCacheMode | str
    cold: Flag
    warm: Flag
    engine: Engine | str
    threads: Count | None
    max_workers: Count
    realtime: Flag
    allow_writes: Flag
    skip: Op | str | Iterable[str]
    write_data: str
    overwrite: Flag
    repeat: Count
