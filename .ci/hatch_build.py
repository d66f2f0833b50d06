"""Compiles the C sources into the wheel, where there is a C compiler.

Without one, or with TRACEKIT_PURE=1, the wheel is pure Python: what needs them then compiles them at its
first use, or does without (`tracekit capture`: DFTracer or strace; the HTTP client: its path in Python).
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds the compiled sources to wheels; hatchling calls it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or os.environ.get("TRACEKIT_PURE"):
            return
        package = Path(self.root, "tracekit")
        spec = importlib.util.spec_from_file_location("c_library", package / "c_library.py")
        assert spec is not None and spec.loader is not None
        library = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(library)
        made = []
        for source in sorted(package.rglob("*.c")):
            for old in source.parent.glob(f"{source.stem}-*.so.1"):
                old.unlink()
            compiled = library.compile_library(source, source.parent)
            if compiled is None:
                self.app.display_warning(
                    f"{source.name} is left out: {library.reason_against() or 'it does not compile'}"
                )
            else:
                made.append(str(compiled.relative_to(self.root)))
        if not made:
            return
        build_data["artifacts"].extend(made)
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
