"""The public names: what `tracekit` exports, that the documentation says the same, and what an import costs."""

from __future__ import annotations

import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tracekit

REPO = Path(__file__).resolve().parents[2]
PAGES = sorted([*REPO.glob("*.md"), *REPO.glob("docs/*.md"), *REPO.glob("docs/api/*.md")])
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(tracekit.__path__, "tracekit.")
    if not module.name.endswith(("__main__", "sitecustomize"))
)
_OPTIONAL = (
    "aiohttp",
    "multidict",
    "darshan",
    "dftracer",
    "numba",
    "aiobotocore",
    "azure",
    "torch",
    "marimo",
    "textual",
    "mcp",
    "matplotlib",
    "plotly",
    "ruptures",
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)


def test_dir_lists_the_public_names_and_nothing_else() -> None:
    assert dir(tracekit) == sorted(tracekit.__all__)
    assert len(set(tracekit.__all__)) == len(tracekit.__all__)


@pytest.mark.parametrize("name", tracekit.__all__)
def test_every_public_name_is_there_and_documented_where_it_is_defined(name: str) -> None:
    value = getattr(tracekit, name)
    if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
        assert inspect.getdoc(value), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'recrod'"):
        tracekit.recrod  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", sorted(set(tracekit.__all__) - {"__version__"}))
def test_no_module_has_the_name_of_a_public_function(name: str) -> None:
    if name != "capture":  # the one namespace
        assert f"tracekit.{name}" not in MODULES


def test_every_module_can_be_imported_in_both_ways() -> None:
    """Run in one process: `import tracekit.x.y as z` and `import tracekit.x.y; tracekit.x.y`."""
    code = f"""if True:
        import tracekit
        for name in tracekit.__all__:
            getattr(tracekit, name)
        for name in {MODULES!r}:
            try:
                exec(f"import {{name}} as z; import {{name}}; assert z is eval(name), name")
            except ModuleNotFoundError as error:
                assert error.name.split(".")[0] in {_OPTIONAL!r}, (name, error)
    """
    run = python(code)
    assert run.returncode == 0, run.stderr


def test_importing_the_package_imports_no_library() -> None:
    """A captured program imports it before its own first line."""
    code = "import sys, tracekit; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    imported = set(python(code).stdout.split())
    heavy = {"numpy", "pyarrow", "duckdb", "rich", "typer", "matplotlib", "plotly", "obstore", "asyncio"}
    assert not imported & heavy


def test_the_help_imports_no_verb() -> None:
    """It names every verb, and would take half a second if it imported them."""
    code = """if True:
        import sys
        from tracekit.cli.app import run
        run(["--help"])
        sys.stderr.write(" ".join({name.split(".")[0] for name in sys.modules}))
    """
    assert not set(python(code).stderr.split()) & {
        "pyarrow",
        "numpy",
        "duckdb",
        "matplotlib",
        "plotly",
        "obstore",
    }


def test_a_query_does_not_import_pandas() -> None:
    """Arrow and DuckDB import it to look at some values, where it is installed; that takes a third of a second."""
    code = f"""if True:
        import sys
        from tracekit.cli.app import run
        assert run(["query", {str(REPO / "sample_traces" / "file.trace")!r}, "SELECT count(*) FROM ops"]) == 0
        sys.stderr.write(str("pandas" in sys.modules))
    """
    assert python(code).stderr == "False"


def test_the_python_page_documents_every_public_name() -> None:
    page = (REPO / "docs" / "api" / "python-api.md").read_text()
    index = page.partition("## Every name")[2]
    listed = re.findall(r"^- `(\w+)`: ", index, re.MULTILINE)
    assert sorted(listed) == sorted(tracekit.__all__)


def test_the_documentation_uses_no_name_that_is_not_public() -> None:
    used = {
        name
        for page in PAGES
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
        for name in re.findall(r"(?<![\w./])tracekit\.(\w+)", block)
    }
    assert used <= {*tracekit.__all__, "testing"}, used - set(tracekit.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_documentation_asks_for_no_import_from_a_module(page: Path) -> None:
    assert not re.findall(r"(?:from|import) tracekit\.(?!testing import)\w[\w.]*", page.read_text())
