"""The registry: the backend of a URI, and errors of one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tracekit.backends.registry import backend_for, known_schemes
from tracekit.errors import UsageError


def test_every_scheme_is_known() -> None:
    spelled = ("abfs", "abfss", "gcs")
    assert known_schemes() == ("file", "direct", "s3", "az", "gs", "https", "http", *spelled)


def test_local_schemes_and_plain_paths_get_their_backends() -> None:
    assert backend_for("file:///data").scheme == "file"
    assert backend_for("/data").scheme == "file"
    assert backend_for("DIRECT:///data").scheme == "direct"


def test_an_unknown_scheme_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        backend_for("hdfs://user:secret@bucket/key?sig=hidden")
    assert (
        str(caught.value)
        == "hdfs://bucket/key: unknown scheme 'hdfs' (known are file://, direct://, s3://, az://, gs://, "
        "https://, http://, abfs://, abfss://, gcs://)"
    )


@pytest.mark.parametrize("uri", ["file:///x", "direct:///x"])
def test_an_option_that_a_scheme_does_not_take_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="unknown option 'client'"):
        backend_for(uri, client="obstore")


def outcome(code: str) -> str:
    """Run `code` in a new interpreter and return what it prints."""
    begin = "import sys\nfrom tracekit.backends.registry import backend_for\n"
    done = subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_client_imports_its_own_library_only() -> None:
    libraries = ("obstore", "botocore", "aiobotocore", "aiohttp", "azure")
    shown = f"print(*[name for name in {libraries} if name in sys.modules])"
    assert outcome(f"backend_for('file:///x'); backend_for('direct:///x'); {shown}") == ""
    assert outcome(f"backend_for('s3://b'); {shown}") == "botocore"
    assert outcome(f"backend_for('s3://b', client='obstore'); {shown}") == "obstore botocore"
    assert outcome(f"backend_for('s3://b', client='aiobotocore'); {shown}") == "botocore aiobotocore aiohttp"
    az = "import os; os.environ['AZURE_STORAGE_CONNECTION_STRING'] = 'UseDevelopmentStorage=true'\n"
    assert outcome(f"{az}backend_for('az://b'); {shown}") == ""
    assert "obstore" not in outcome(f"{az}backend_for('az://b', client='azure-sdk'); {shown}")


@pytest.mark.parametrize(
    ("uri", "client", "package"), [("s3://b", "aiobotocore", "aiobotocore"), ("az://b", "azure-sdk", "azure")]
)
def test_a_missing_library_is_named_with_how_to_install_it(uri: str, client: str, package: str) -> None:
    """The environment gives the account: only one of the schemes has an option for it."""
    printed = outcome(
        "import os; os.environ['AZURE_STORAGE_CONNECTION_STRING'] = 'UseDevelopmentStorage=true'\n"
        f"sys.modules[{package!r}] = None\n"
        "from tracekit.errors import UsageError\n"
        f"try: backend_for({uri!r}, client={client!r})\n"
        "except UsageError as error: print(error)\n"
    )
    assert "pip install 'tracekit[clients]'" in printed and client in printed and "\n" not in printed
