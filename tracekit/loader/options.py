"""The loader's options: one frozen dataclass, the same names on every scheme, none ignored.

A wrong name or value is refused in one line that names the option, what is allowed and the
nearest right name. This module checks and explains options; what each does to the ops of
a run is the business of the modules that take them.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from tracekit.errors import UsageError
from tracekit.keywords import OnError, ShardMode
from tracekit.options import PAGE_CACHE_MODES
from tracekit.units import parse_size

__all__ = [
    "LOADING_MODES",
    "OPTION_NAMES",
    "RANDOM_INDEX_MODES",
    "READER_MODES",
    "LoaderOptions",
    "nearest",
]

READER_MODES = ("sequential", "range")
LOADING_MODES = ("sequential", "prefetch", "async_pool")
RANDOM_INDEX_MODES = ("none", "uniform", "zipfian")
_CHOICES = {
    "reader_mode": READER_MODES,
    "loading_mode": LOADING_MODES,
    "random_index_mode": RANDOM_INDEX_MODES,
    "page_cache_mode": PAGE_CACHE_MODES,
    "shard_mode": get_args(ShardMode),
    "on_error": get_args(OnError),
}
_LEAST = {
    "batch_size": 1,
    "num_workers": 1,
    "prefetch": 0,
    "seed": 0,
    "shard_rank": 0,
    "shard_world_size": 1,
    "retries": 0,
}
_SIZES = ("target_request_bytes", "max_bytes_in_flight", "sample_bytes")
_BACKEND_OPTIONS = ("client", "endpoint", "region", "account", "anonymous", "timeout_s", "retries")
_MAX_THETA = 20.0


@dataclass(frozen=True, slots=True)
class LoaderOptions:
    """How a dataset is read. Sizes are bytes, or text such as `"256KiB"`.

    The last seven go to the backend of an object store; None leaves them to it. See
    docs/api/python-api.md for what each option does to the ops of a run. Raises UsageError
    for a name or a value that cannot be meant.
    """

    batch_size: int = 32
    drop_last: bool = False
    num_workers: int = 4
    prefetch: int = 2
    shuffle: bool | int = False
    seed: int = 0
    shard_rank: int = 0
    shard_world_size: int = 1
    shard_mode: str = "even"
    reader_mode: str = "sequential"
    loading_mode: str = "prefetch"
    target_request_bytes: int | str | None = 131_072
    max_bytes_in_flight: int | str | None = None
    random_index_mode: str = "none"
    zipf_theta: float = 0.99
    reshuffle_hot_set: bool = False
    on_error: str = "raise"
    page_cache_mode: str = "default"
    sample_bytes: int | str | None = None
    client: str | None = None
    endpoint: str | None = None
    region: str | None = None
    account: str | None = None
    anonymous: bool | None = None
    timeout_s: float | None = None
    retries: int | None = None

    def __new__(cls, *_args: object, **given: object) -> LoaderOptions:
        _check_names(given)  # here, because __init__ would say less than we can
        return object.__new__(cls)

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            _check_choice(name, getattr(self, name), allowed)
        for name, least in _LEAST.items():
            if not (name in _BACKEND_OPTIONS and getattr(self, name) is None):
                _check_int(name, getattr(self, name), least)
        for name in _SIZES:
            object.__setattr__(self, name, _size(name, getattr(self, name)))
        for name in ("drop_last", "reshuffle_hot_set", "anonymous"):
            _check_bool(name, getattr(self, name), optional=name == "anonymous")
        for name in ("client", "endpoint", "region", "account"):
            _check_text(name, getattr(self, name))
        if self.timeout_s is not None:
            object.__setattr__(
                self, "timeout_s", _number("timeout_s", self.timeout_s, "seconds > 0", 1e-3, 1e9)
            )
        theta = _number("zipf_theta", self.zipf_theta, f"a number from 0 to {_MAX_THETA:g}", 0, _MAX_THETA)
        object.__setattr__(self, "zipf_theta", theta)
        if not isinstance(self.shuffle, bool):
            _check_int("shuffle", self.shuffle, 2, "True, False, or a buffer of 2 samples or more")
        if self.shard_rank >= self.shard_world_size:
            raise _wrong(
                "shard_rank", self.shard_rank, f"0 to {self.shard_world_size - 1} (shard_world_size - 1)"
            )

    @classmethod
    def of(cls, options: LoaderOptions | Mapping[str, Any] | None = None, /, **given: Any) -> LoaderOptions:
        """Options from a LoaderOptions or a dict (or neither), with `given` put over them."""
        if options is None:
            return cls(**given)
        if isinstance(options, LoaderOptions):
            return dataclasses.replace(options, **given) if given else options
        if not isinstance(options, Mapping):
            raise UsageError(f"options: {options!r} is neither LoaderOptions nor a dict")
        _check_names(options)
        return cls(**{**options, **given})

    def to_dict(self) -> dict[str, Any]:
        """Every option by name, as plain JSON values; `LoaderOptions.of` takes it back."""
        return dataclasses.asdict(self)

    def bytes_of(self, name: str) -> int | None:
        """A size option in bytes, whichever way it was written."""
        size: int | None = getattr(self, name)
        return size

    def backend_options(self) -> dict[str, Any]:
        """What is to be passed to the backend: only what was given."""
        values = {name: getattr(self, name) for name in _BACKEND_OPTIONS}
        return {name: value for name, value in values.items() if value is not None}


OPTION_NAMES: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(LoaderOptions))


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean X? ` if a known word is near `word`, else nothing."""
    close = difflib.get_close_matches(word.lower().replace("-", "_"), list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}? " if close else ""


def _check_names(given: Iterable[object]) -> None:
    known = [field.name for field in dataclasses.fields(LoaderOptions)]
    for name in given:
        if name not in known:
            raise UsageError(
                f"loader option {name!r} is unknown",
                f"{nearest(str(name), known)}known are {', '.join(known)}",
            )


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = nearest(value, allowed) if isinstance(value, str) else ""
        raise _wrong(name, value, f"{near}one of {', '.join(allowed)}")


def _check_int(name: str, value: object, least: int, allowed: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _wrong(name, value, allowed or f"a whole number, {least} or more")


def _check_bool(name: str, value: object, *, optional: bool) -> None:
    if not isinstance(value, bool) and not (optional and value is None):
        raise _wrong(name, value, "True or False")


def _check_text(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise _wrong(name, value, "text, or None for the backend's own choice")


def _number(name: str, value: object, allowed: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _wrong(name, value, allowed)
    return float(value)


def _size(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _wrong(name, value, "bytes such as 131072 or 128KiB, or None")
    size = parse_size(value, name=name)
    if size < 1:
        raise _wrong(name, value, "1 byte or more, or None")
    return size


def _wrong(name: str, value: object, allowed: str) -> UsageError:
    return UsageError(f"loader option {name}={value!r} is not allowed", f"allowed: {allowed}")
