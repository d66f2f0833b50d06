"""Write docs/licences.md: the licence of every package in requirements.lock, extras and development tools too.

The licences are what the installed packages state; those of packages that are not installed here stand below.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
NVIDIA = "NVIDIA proprietary"
STATED = {
    "colorama": "BSD-3-Clause",
    "cuda-bindings": NVIDIA,
    "cuda-pathfinder": "Apache-2.0",
    "cuda-toolkit": NVIDIA,
    "darshan": "BSD-style (Argonne)",
    "httpx2-jsfetch": "BSD-3-Clause",
    "matplotlib": "matplotlib (PSF-based)",
    "msgpack": "Apache-2.0",
    "nvidia-nccl-cu13": "BSD-3-Clause",
    "polars": "MIT",
    "protobuf": "BSD-3-Clause",
    "pywin32": "PSF-2.0",
    "ray": "Apache-2.0",
    "triton": "MIT",
    "tzdata": "Apache-2.0",
}
"""Of packages that do not say it in their metadata, or are not installed where the list is made."""
NOTES = {
    "certifi": "the list of authorities of Mozilla",
    "docutils": "the GPL is that of a file for Emacs",
    "libcachesim": "a test compares its trace reader with ours; not distributed with tracekit",
    "torch": f"its wheels for Linux depend on CUDA ({NVIDIA}); `torch` of the index for CPUs does not",
}
HEAD = """# Licences

tracekit is under the Apache License 2.0. It contains no code of others. These are the licences of the packages that it
installs, with every extra and the development tools; `make lock` makes this list and `.ci/requirements.lock`.

| package | version | licence |
| --- | --- | --- |
"""


def licence(name: str) -> str:
    """Return the licence of a package: its SPDX expression, else its classifiers, else its text."""
    if name in STATED:
        return STATED[name]
    if name.startswith("nvidia-"):
        return NVIDIA
    try:
        stated = metadata(name)
    except PackageNotFoundError:
        raise SystemExit(
            f"{name} is not installed; install every extra, or state its licence in {__file__}"
        ) from None
    if expression := stated.get("License-Expression"):
        return str(expression)
    classified = [
        each.split("::")[-1].strip()
        for each in stated.get_all("Classifier") or ()
        if each.startswith("License ::")
    ]
    if classified:
        return ", ".join(each for each in classified if each != "DFSG approved")
    text = str(stated.get("License") or "").strip().splitlines()
    if not text:
        raise SystemExit(f"{name} states no licence; look it up and state it in {__file__}")
    return text[0]


def main() -> None:
    rows = []
    for line in (REPO / ".ci/requirements.lock").read_text().splitlines():
        pinned = re.match(r"([\w.-]+)==([\w.]+)", line)
        if pinned is not None:
            note = f" ({NOTES[pinned[1]]})" if pinned[1] in NOTES else ""
            rows.append(f"| {pinned[1]} | {pinned[2]} | {licence(pinned[1])}{note} |\n")
    (REPO / "docs" / "licences.md").write_text(HEAD + "".join(rows))


if __name__ == "__main__":
    main()
