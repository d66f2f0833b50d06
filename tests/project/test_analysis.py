"""The benchmarks, notebooks and scripts in analysis/ import names that exist."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import layers
import pytest

SCRIPTS = sorted((layers.REPO / "analysis").rglob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_imports_names_of_tracekit_that_exist(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tracekit"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


def test_there_are_scripts_to_check() -> None:
    assert len(SCRIPTS) > 10
