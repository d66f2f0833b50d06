"""The package metadata: extras that exist, one place for the version, lower bounds, a core without extras."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import layers

from tracekit.version import __version__

PROJECT = tomllib.loads((layers.REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
TEXTS = [
    path
    for pattern in ("tracekit/**/*.py", "docs/**/*.md", "analysis/**/*.py", "*.md", "Makefile", ".ci/*")
    for path in sorted(layers.REPO.glob(pattern))
    if path.is_file()  # Python keeps bytecode beside modules
]


def canonical(requirement: str) -> str:
    """The name of the distribution that a requirement asks for."""
    return re.split(r"[\[<>=~!; ]", requirement, maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")


CORE = {canonical(requirement) for requirement in PROJECT["dependencies"]}


def test_every_extra_that_a_message_or_a_page_names_exists() -> None:
    named = {
        (extra.strip(), str(path.relative_to(layers.REPO)))
        for path in TEXTS
        for group in re.findall(r"tracekit\[([\w, ]+)\]", path.read_text(encoding="utf-8"))
        for extra in group.split(",")
    }
    assert len(named) > 3
    assert [(extra, path) for extra, path in sorted(named) if extra not in EXTRAS] == []


def test_the_extra_all_holds_every_extra_for_users() -> None:
    (requirement,) = EXTRAS["all"]
    assert set(re.findall(r"[\w-]+", requirement.partition("[")[2])) == set(EXTRAS) - {"all", "dev"}


def test_every_dependency_has_a_lower_bound_and_no_upper_bound() -> None:
    for requirement in [*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]:
        if canonical(requirement) != "tracekit":
            assert re.fullmatch(r"[\w.-]+(\[[\w,]+\])?>=[\d.]+", requirement), requirement


def test_the_known_good_versions_hold_what_is_declared() -> None:
    lines = (layers.REPO / "constraints.txt").read_text().splitlines()
    pins = {canonical(line): line.partition("==")[2] for line in lines if "==" in line}
    for requirement in [*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]:
        if canonical(requirement) != "tracekit":
            pinned = [int(part) for part in re.findall(r"\d+", pins[canonical(requirement)])]
            assert pinned >= [int(part) for part in requirement.partition(">=")[2].split(".")], requirement


def test_the_lock_has_a_hash_for_every_package_and_agrees_with_the_known_good_versions() -> None:
    lock = (layers.REPO / ".ci/requirements.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^([\w.-]+)==([\w.]+)(.*\n(?: .*\n?)*)", lock, re.MULTILINE)
    assert len(entries) > 100
    assert [name for name, _, rest in entries if "--hash=sha256:" not in rest] == []
    locked = {canonical(name): version for name, version, _ in entries}
    lines = (layers.REPO / "constraints.txt").read_text().splitlines()
    pins = {canonical(line): line.partition("==")[2] for line in lines if "==" in line}
    different = {name: (pin, locked[name]) for name, pin in pins.items() if locked.get(name, pin) != pin}
    assert different == {}, "run `make lock`"
    listed = (layers.REPO / "docs" / "licences.md").read_text(encoding="utf-8")
    assert [name for name, version, _ in entries if f"| {name} | {version} |" not in listed] == [], (
        "run `make lock`"
    )


def test_the_version_stands_in_one_place() -> None:
    assert "version" in PROJECT["dynamic"] and "version" not in PROJECT
    holders = [path for path in layers.PACKAGE.rglob("*.py") if f'"{__version__}"' in path.read_text()]
    assert holders == [layers.PACKAGE / "version.py"]
    headings = re.findall(r"^## (\d[\w.]*)", (layers.REPO / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == __version__


def test_every_python_of_the_classifiers_is_allowed() -> None:
    minors = re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["classifiers"]))
    assert minors and PROJECT["requires-python"] == f">=3.{minors[0]}"


def top_level_imports(path: Path) -> set[str]:
    """Packages that a module imports when it is itself imported."""
    found: set[str] = set()

    def walk(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
                walk(node.body + node.orelse)
            elif isinstance(node, ast.Try):
                walk(node.body + node.orelse + node.finalbody)

    walk(ast.parse(path.read_text(encoding="utf-8")).body)
    return found


def test_the_command_line_and_the_face_import_no_package_of_an_extra() -> None:
    script = (
        "import sys, tracekit, tracekit.cli.app\n"
        "for name in tracekit.__all__: getattr(tracekit, name)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names = packages_distributions()
    of_extras = {canonical(each) for extra in EXTRAS.values() for each in extra} - CORE - {"tracekit"}
    loaded = {canonical(each) for name in run.stdout.split() for each in names.get(name, [])}
    assert loaded >= {"typer", "duckdb", "pyarrow"}
    assert loaded & of_extras == set()


def test_modules_import_only_declared_packages() -> None:
    declared = {canonical(each) for extra in EXTRAS.values() for each in extra} | CORE | {"azure-core"}
    own = sys.stdlib_module_names | {"tracekit", "__future__"}
    names = packages_distributions()
    foreign = {name: path for path in layers.modules().values() for name in top_level_imports(path) - own}
    assert "duckdb" in foreign
    assert {
        name: str(path)
        for name, path in foreign.items()
        if not {canonical(each) for each in names.get(name, [name])} & declared
    } == {}
