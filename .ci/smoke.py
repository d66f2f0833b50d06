"""Check an installed tracekit from outside: record, measure, query and replay on every scheme.

Usage: smoke.py PYTHON [--extras]

PYTHON is the interpreter of the environment under test. This script runs under the development
environment, because it starts the S3 and Azure servers of the tests; a server that is not
installed is reported and its scheme left out. Without --extras the environment must hold no
extra: the script then checks that a command which needs one names it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "tests"))

import servers  # noqa: E402

FILES, FILE_BYTES = 4, 200_000
EXTRAS = (
    "matplotlib",
    "plotly",
    "ruptures",
    "marimo",
    "aiobotocore",
    "azure",
    "polars",
    "pandas",
    "torch",
    "numba",
    "ray",
)


class Smoke:
    """Commands of one environment, run in a scratch folder outside the repository."""

    def __init__(self, python: Path, work: Path) -> None:
        self.python, self.work = python, work
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "AZURE_", "PYTHON"))}
        self.env.update(AWS_EC2_METADATA_DISABLED="true", COLUMNS="200")

    def run(self, *command: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
        words = [str(self.python), *map(str, command)]
        run = subprocess.run(
            words, cwd=self.work, env=self.env, stdin=subprocess.DEVNULL, text=True, capture_output=True
        )
        if run.returncode != expect:
            raise SystemExit(
                f"{' '.join(words)}: exit {run.returncode}, not {expect}\n{run.stdout}{run.stderr}"
            )
        return run

    def tracekit(self, *arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "tracekit", *arguments, expect=expect)

    def ops(self, trace: str) -> int:
        """The number of reads in a trace, by `tracekit query`."""
        sql = "SELECT count(*) AS n FROM ops WHERE op IN ('read', 'get')"
        return int(json.loads(self.tracekit("query", trace, sql, "--json").stdout)[0]["n"])

    def record_and_replay(self, target: str, name: str) -> None:
        """Record a loader on `target`, measure it, replay it and compare the number of reads."""
        self.tracekit("record", target, "-o", f"{name}.trace", "--batch-size", 2)
        stats = json.loads(self.tracekit("stats", f"{name}.trace", "--json").stdout)
        assert stats["bytes"] >= FILES * FILE_BYTES, stats
        self.tracekit("replay", f"{name}.trace", "--pace", "asap", "-o", f"{name}-again.trace")
        recorded, replayed = self.ops(f"{name}.trace"), self.ops(f"{name}-again.trace")
        assert 0 < recorded == replayed, (recorded, replayed)
        print(f"  {name}: {recorded} reads recorded and replayed")


def check(smoke: Smoke, extras: bool) -> None:
    version = smoke.tracekit("--version").stdout.strip()
    stated = smoke.run("-c", "import tracekit; print(tracekit.__version__, tracekit.__file__)").stdout.split()
    assert version == f"tracekit {stated[0]}", (version, stated)
    assert "site-packages" in stated[1], f"not the installed package: {stated[1]}"
    assert "record" in smoke.tracekit("--help").stdout

    data = smoke.work / "data"
    data.mkdir()
    for index in range(FILES):
        (data / f"{index}.bin").write_bytes(os.urandom(FILE_BYTES))
    smoke.record_and_replay(str(data), "file")
    smoke.record_and_replay(f"direct://{data}", "direct")
    if not extras:
        check_extras_are_named(smoke)
    check_stores(smoke, data)


def check_extras_are_named(smoke: Smoke) -> None:
    """A command that needs an extra ends with one line that holds the install command."""
    found = smoke.run(
        "-c", f"import importlib.util as u; print(*[n for n in {EXTRAS!r} if u.find_spec(n) is not None])"
    ).stdout.split()
    assert not found, f"packages of extras are in the core environment: {found}"
    for verb in (["plot", "offsets", "file.trace", "-o", "x.png"], ["report", "file.trace", "-o", "x.html"]):
        said = smoke.tracekit(*verb, expect=2).stderr
        assert "tracekit[report]" in said and said.count("\n") == 1, said
    print("  plot and report name their extra")


def check_stores(smoke: Smoke, data: Path) -> None:
    with contextlib.ExitStack() as stack:
        moto = stack.enter_context(servers.moto_server(smoke.work / "moto.log"))
        moto.make_bucket("smoke")
        for path in data.iterdir():
            moto.put("smoke", path.name, path.read_bytes())
        smoke.env.update(moto.env)
        smoke.record_and_replay("s3://smoke/", "s3")
    with contextlib.ExitStack() as stack:
        try:
            azurite = stack.enter_context(servers.azurite_server(smoke.work / "azurite.log"))
        except servers.Unavailable as missing:
            print(f"  az: not checked, {missing}")
            return
        azurite.make_container("smoke")
        for path in data.iterdir():
            azurite.put("smoke", path.name, path.read_bytes())
        smoke.env.update(azurite.env)
        smoke.record_and_replay("az://smoke/", "az")


def main() -> None:
    # Not resolved: the path of a virtual environment's interpreter is what makes it that environment's.
    python, extras = Path(sys.argv[1]).absolute(), "--extras" in sys.argv[2:]
    with tempfile.TemporaryDirectory() as work:
        check(Smoke(python, Path(work)), extras)


if __name__ == "__main__":
    main()
