"""Print the lowest direct versions that pyproject.toml declares, as pip constraints.

Usage: lowest.py [EXTRA ...]
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
requirements = [*project["dependencies"]]
for extra in sys.argv[1:]:
    requirements += project["optional-dependencies"][extra]
for requirement in requirements:
    name, _, bound = requirement.partition(">=")
    if not bound:
        raise SystemExit(f"{requirement}: no lower bound")
    print(f"{name.partition('[')[0]}=={bound}")
