"""How a dataset is read: the loader's options as one frozen object.

`tracekit.options` describes and checks each option. What an option does to the ops of a run is decided by
the modules that take it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

from tracekit.errors import UsageError
from tracekit.keywords import LoaderKeywords
from tracekit.options import LOADER
from tracekit.store_options import given_store_options
from tracekit.validation import assign, merge

__all__ = ["LoaderOptions"]


@dataclass(frozen=True, slots=True, init=False)
class LoaderOptions:
    """The options of a loader: the same on every scheme. Sizes are in bytes.

    Takes keywords; sizes may be text such as `"256KiB"`. Those from `client` on go to the backend of an object
    store; None leaves the choice to it. docs/loader-options.md describes the effect of each option.
    Raises UsageError for an unknown name or an invalid value.
    """

    batch_size: int
    drop_last: bool
    shuffle: bool | int
    random_index_mode: str
    zipf_theta: float
    reshuffle_hot_set: bool
    seed: int
    shard_rank: int
    shard_world_size: int
    shard_mode: str
    sample_bytes: int | None
    num_workers: int
    prefetch: int
    loading_mode: str
    reader_mode: str
    target_request_bytes: int | None
    on_error: str
    max_bytes_in_flight: int | None
    page_cache_mode: str
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

    def __init__(self, **options: Unpack[LoaderKeywords]) -> None:
        assign(self, LOADER, options)
        if self.shard_rank >= self.shard_world_size:
            raise UsageError(
                f"shard_rank={self.shard_rank} is not below shard_world_size={self.shard_world_size}",
                f"give a rank from 0 to {self.shard_world_size - 1}",
            )

    @classmethod
    def of(
        cls, options: LoaderOptions | Mapping[str, Any] | None = None, /, **given: Unpack[LoaderKeywords]
    ) -> LoaderOptions:
        """Options from a LoaderOptions or a dict (or neither), with `given` put over them."""
        return merge(cls, options, given)

    def to_dict(self) -> dict[str, Any]:
        """Every option by name, as plain JSON values; `LoaderOptions.of` takes it back."""
        return dataclasses.asdict(self)

    def backend_options(self) -> dict[str, Any]:
        """The options to pass to the backend: those that were given."""
        return given_store_options(self)
