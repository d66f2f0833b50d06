"""Compiles the native capture engine into the wheel, where there is a C compiler.

Without one, or with TRACEKIT_PURE=1, the wheel is pure Python: `tracekit capture` then compiles the engine at its
first use, or falls back to DFTracer or strace.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds the engine to wheels; hatchling calls it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or os.environ.get("TRACEKIT_PURE"):
            return
        folder = Path(self.root, "tracekit", "capture", "native")
        spec = importlib.util.spec_from_file_location("build_engine", folder / "build.py")
        assert spec is not None and spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        for old in folder.glob("engine-*.so.1"):
            old.unlink()
        if build.compile_engine(folder) is None:
            self.app.display_warning(
                f"the native capture engine is left out: {build.reason_against() or 'it does not compile'}"
            )
            return
        build_data["artifacts"].append("tracekit/capture/native/engine-*.so.1")
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
