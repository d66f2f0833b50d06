"""How torch, tensorflow, jax and others read, as presets of the loader's options."""

from __future__ import annotations

from typing import Unpack

from tracekit.errors import UsageError
from tracekit.keywords import LoaderKeywords
from tracekit.loader.options import LoaderOptions
from tracekit.validation import choosing

__all__ = ["PROFILES", "SAVE", "profile"]

PROFILES: dict[str, LoaderKeywords] = {
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
    "checkpoint-load": {
        "batch_size": 1,
        "num_workers": 4,
        "prefetch": 4,
        "reader_mode": "range",
        "target_request_bytes": 8 * 1024 * 1024,
    },
}
"""The options that each profile sets; all others keep their defaults.

`torch` also sets `prefetch` to twice `num_workers`. `imagenet` is for files of 2 to 6 KiB, each read by one
request. `webdataset` reads shards front to back in records, shuffled through a buffer of 64 records. `checkpoint-load` is for
the files of a checkpoint, several at once, each by requests of 8 MiB.
"""
SAVE = "checkpoint-save"
"""The profile of `record` that writes; the loader does not know it."""


def profile(name: str, **options: Unpack[LoaderKeywords]) -> LoaderOptions:
    """The options of the profile `name`, with `options` put over them.

    Raises UsageError for an unknown profile, an unknown option or an invalid value.
    """
    if name not in PROFILES:
        raise UsageError(f"profile={name!r} is unknown", choosing(name, PROFILES))
    chosen = LoaderOptions.of(dict(PROFILES[name]), **options)
    if name == "torch" and "prefetch" not in options:
        return LoaderOptions.of(chosen, prefetch=2 * chosen.num_workers)
    return chosen
