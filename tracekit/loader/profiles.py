"""Framework profiles: how torch, tensorflow, jax and others read, as presets over the options.

A profile is nothing but option values: whatever is given besides wins over it.
"""

from __future__ import annotations

from typing import Any

from tracekit.errors import UsageError
from tracekit.loader.options import LoaderOptions, nearest

__all__ = ["PROFILES", "profile"]

PROFILES: dict[str, dict[str, Any]] = {
    "torch": {
        "num_workers": 4,
        "random_index_mode": "uniform",
        "target_request_bytes": 256 * 1024,
    },
    "tensorflow": {
        "reader_mode": "sequential",
        "target_request_bytes": 1024 * 1024,
        "page_cache_mode": "fadvise_sequential",
        "prefetch": 2,
    },
    "jax": {
        "batch_size": 256,
        "num_workers": 2,
        "prefetch": 8,
        "reader_mode": "range",
        "target_request_bytes": 512 * 1024,
    },
    "imagenet": {
        "batch_size": 256,
        "num_workers": 8,
        "prefetch": 2,
        "shuffle": True,
        "target_request_bytes": 8 * 1024,
        "page_cache_mode": "fadvise_random",
    },
    "webdataset": {
        "batch_size": 64,
        "num_workers": 4,
        "prefetch": 2,
        "shuffle": 64,
        "sample_bytes": 128 * 1024,
        "reader_mode": "sequential",
        "target_request_bytes": 128 * 1024,
        "page_cache_mode": "fadvise_sequential",
    },
}
"""What each profile sets; every other option keeps its default.

`torch` also sets `prefetch` to twice the workers. `imagenet` is for files of 2 to 6 KiB:
one open, one small read, one close for each. `webdataset` reads shards in records, front
to back but for a shuffle buffer of 64 records.
"""


def profile(name: str, **given: Any) -> LoaderOptions:
    """The options of the profile `name`, with `given` put over them.

    Raises UsageError for an unknown profile, or an option that cannot be meant.
    """
    if name not in PROFILES:
        known = ", ".join(PROFILES)
        raise UsageError(f"loader profile {name!r} is unknown", f"{nearest(name, PROFILES)}known are {known}")
    chosen = {**PROFILES[name], **given}
    options = LoaderOptions(**chosen)
    if name == "torch" and "prefetch" not in given:
        return LoaderOptions.of(options, prefetch=2 * options.num_workers)
    return options
