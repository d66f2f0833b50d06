"""The imports between the modules of tracekit, parsed from the source."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "tracekit"
FACE = "__init__.py"


@dataclass(frozen=True, slots=True)
class Import:
    """One import of a tracekit module by another, and the line where it stands."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules() -> dict[str, Path]:
    """Dotted name to path, for every module of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        dotted = ".".join(path.relative_to(REPO).with_suffix("").parts)
        found[dotted.removesuffix(".__init__")] = path
    return found


def rooms() -> set[str]:
    """The first level of the package: `backends/`, `gate.py`, and `__init__.py`, the face."""
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    return folders | {path.name for path in PACKAGE.glob("*.py")}


def room(module: str) -> str:
    """The room of a dotted module name."""
    parts = module.split(".")
    if len(parts) == 1:
        return FACE
    return f"{parts[1]}/" if (PACKAGE / parts[1]).is_dir() else f"{parts[1]}.py"


@cache
def imports() -> list[Import]:
    """Every import of one tracekit module by another, also inside functions and for type checking."""
    known = modules()
    found = []
    for importer, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{importer}:{node.lineno}: relative import"
                module = node.module or ""
                whole = [f"{module}.{alias.name}" for alias in node.names]
                names = [name if name in known else module for name in whole]
            else:
                continue
            found += [Import(importer, name, node.lineno) for name in dict.fromkeys(names) if name in known]
    return found
