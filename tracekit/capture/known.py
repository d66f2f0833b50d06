"""The names of the hooks, and what installs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracekit.errors import UsageError
from tracekit.validation import choosing

__all__ = ["AUTO", "HOOKS", "known_hooks"]

HOOKS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "files": (("builtins", "install"),),
    "numpy": (("numpy", "install"),),
    "fsspec": (("fsspec", "install"),),
    "botocore": (("botocore.client", "install"), ("aiobotocore.client", "install_async")),
    "azure": (
        ("azure.storage.blob._shared.base_client", "install"),
        ("azure.storage.blob._shared.base_client_async", "install"),
    ),
    "obstore": (("obstore", "install"),),
    "s3torch": (("s3torchconnector", "install"),),
    "kvikio": (("kvikio.remote_file", "install_remote"), ("kvikio.cufile", "install_files")),
    "torch": (("torch.utils.data", "install"),),
}
"""Hook name -> (library module, function of `tracekit.capture.hooks.HOOK` to call once that module is imported)."""

AUTO = tuple(name for name in HOOKS if name != "files")
"""The hooks that `"auto"` selects: all but `files`, which patches `open` and `os.pread` and must be named."""


def known_hooks(hooks: str | Sequence[str]) -> tuple[str, ...]:
    """The hooks named by a list or a comma-separated string. Raises UsageError for an unknown hook."""
    names = hooks.split(",") if isinstance(hooks, str) else list(hooks)
    chosen: dict[str, str] = {}
    for name in (name.strip() for name in names):
        for one in AUTO if name == "auto" else (name,) if name else ():
            if one.partition(":")[0] not in HOOKS:
                raise UsageError(f"unknown hook {one!r}", choosing(one, ("auto", *HOOKS)))
            chosen[one.partition(":")[0]] = one
    return tuple(chosen.values())
