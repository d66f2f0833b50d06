"""How a trace is replayed: the replayer's options as one frozen object, checked before anything is opened.

`tracekit.options` describes and checks each option; rules between options are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Unpack

from tracekit.errors import UsageError
from tracekit.keywords import ReplayKeywords, VerdictKeywords
from tracekit.options import FILTERS, REPLAY, VERDICT
from tracekit.replayer.payload import compression_of
from tracekit.store_options import given_store_options
from tracekit.validation import assign, merge

__all__ = ["Filters", "ReplayOptions", "VerdictOptions"]


@dataclass(frozen=True, slots=True, init=False)
class Filters:
    """Which ops of the trace are replayed; None means all. Times are ns since the trace's first op.

    `sample_rate` keeps about that share of the streams, or of the files (`sample_by`), each whole.
    Single ops are never sampled: what is kept is a pattern that ran.
    """

    start: int | None
    end: int | None
    op: tuple[str, ...] | None
    uri_glob: str | None
    rank: tuple[int, ...] | None
    worker: tuple[int, ...] | None
    sample: tuple[int, ...] | None
    sample_rate: float | None
    sample_by: str
    sample_seed: int

    def __init__(self, **options: Any) -> None:
        assign(self, FILTERS, options)

    def __bool__(self) -> bool:
        """Whether any op may be left out."""
        return any(getattr(self, name) is not None for name, option in FILTERS.items() if option.optional)


@dataclass(frozen=True, slots=True, init=False)
class VerdictOptions:
    """How a comparison is judged; `max_lateness` in ns. docs/replay.md describes each option."""

    tolerance: float
    max_lateness: int | None
    allow_empty: bool
    partial: bool
    expect_failures: bool
    judge: tuple[str, ...]

    def __init__(self, **options: Unpack[VerdictKeywords]) -> None:
        assign(self, VERDICT, options)


@dataclass(frozen=True, slots=True, init=False)
class ReplayOptions:
    """The options of a replay. Sizes are in bytes, times in ns.

    Takes keywords; sizes and times may be text such as `"64MiB"` and `"2s"`. docs/replay.md describes each
    option. Those of object stores have the loader's names; None leaves the choice to the backend.
    Raises UsageError for an unknown name, an invalid value, or options that exclude each other.
    """

    map: tuple[str, ...]
    start: int | None
    end: int | None
    op: tuple[str, ...] | None
    uri_glob: str | None
    rank: tuple[int, ...] | None
    worker: tuple[int, ...] | None
    sample: tuple[int, ...] | None
    sample_rate: float | None
    sample_by: str
    sample_seed: int
    pace: str
    workers_model: str
    order: str
    speed: float
    max_gap: int | None
    loop: int
    clients: int
    stagger: int
    stagger_phase: float
    on: str | None
    hosts: int | None
    split: str
    max_bytes_in_flight: int | None
    max_ops_in_flight: int | None
    page_cache_mode: str
    cold: bool
    warm: bool
    engine: str
    threads: int | None
    max_workers: int
    realtime: bool
    allow_writes: bool
    skip: tuple[str, ...]
    write_data: str
    overwrite: bool
    repeat: int
    tolerance: float
    max_lateness: int | None
    allow_empty: bool
    partial: bool
    expect_failures: bool
    judge: tuple[str, ...]
    client: str | None
    endpoint: str | None
    region: str | None
    account: str | None
    anonymous: bool | None
    timeout_s: float | None
    retries: int | None
    connect_timeout_s: float | None
    total_timeout_s: float | None
    aws_profile: str | None
    addressing_style: str | None
    ca_bundle: str | None
    client_cert: str | None
    proxy: str | None
    requester_pays: bool | None
    version_id: str | None
    pool_size: int | None
    http2: bool | None
    verify_checksums: bool | None

    def __init__(self, **options: Unpack[ReplayKeywords]) -> None:
        assign(self, REPLAY, options)
        if self.cold and self.warm:
            raise UsageError("cold=True and warm=True exclude each other", "give one of them")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise UsageError(f"end={self.end} is not after start={self.start}", "both are times in ns")
        for name, given in (("stagger", self.stagger), ("stagger_phase", self.stagger_phase)):
            if given and self.clients == 1:
                raise UsageError(f"{name}= is the time between clients", "give clients=, too")
        if self.hosts is not None and self.on is None:
            raise UsageError(f"hosts={self.hosts} needs a place for them", "give on=, such as on='ray'")
        compression_of(self.write_data)

    @property
    def verdict(self) -> VerdictOptions:
        """The options of the comparison with the recording."""
        return VerdictOptions(**{name: getattr(self, name) for name in VERDICT})

    @property
    def filters(self) -> Filters:
        """The options that choose ops."""
        return Filters(**{name: getattr(self, name) for name in FILTERS})

    @property
    def store_options(self) -> dict[str, Any]:
        """The options to pass to the backends of object stores: those that were given."""
        return given_store_options(self)

    @property
    def capped(self) -> bool:
        """Whether there is an in-flight cap."""
        return self.max_bytes_in_flight is not None or self.max_ops_in_flight is not None

    @property
    def overwrite_objects(self) -> bool:
        """Whether a write may replace an object that exists."""
        return self.overwrite and self.allow_writes

    @classmethod
    def of(
        cls, options: ReplayOptions | Mapping[str, Any] | None = None, /, **given: Unpack[ReplayKeywords]
    ) -> ReplayOptions:
        """Options from a ReplayOptions or a dict (or neither), with `given` put over them."""
        return merge(cls, options, given)

    def to_dict(self) -> dict[str, Any]:
        """Every option by name; `ReplayOptions.of` takes it back."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
