"""The registry: which backend a URI gets, and one clear line when there is none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tracekit.backends.local.direct import DirectBackend
from tracekit.backends.local.file import FileBackend
from tracekit.backends.registry import backend_for, known_schemes
from tracekit.errors import UsageError


def test_the_four_schemes_are_known() -> None:
    assert known_schemes() == ("file", "direct", "s3", "az")


def test_local_schemes_and_plain_paths_get_their_backends() -> None:
    assert isinstance(backend_for("file:///data"), FileBackend)
    assert isinstance(backend_for("/data"), FileBackend)
    assert isinstance(backend_for("DIRECT:///data"), DirectBackend)


def test_an_unknown_scheme_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        backend_for("gs://user:secret@bucket/key?sig=hidden")
    assert (
        str(caught.value)
        == "gs://bucket/key: unknown scheme 'gs' (known are file://, direct://, s3://, az://)"
    )


@pytest.mark.parametrize("uri", ["file:///x", "direct:///x"])
def test_an_option_that_a_scheme_does_not_take_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="unknown option 'client'"):
        backend_for(uri, client="obstore")


def test_object_store_libraries_are_not_imported_for_local_files() -> None:
    code = (
        "import sys; from tracekit.backends.registry import backend_for; backend_for('file:///x')\n"
        "print([name for name in ('obstore', 'botocore', 'azure') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_library_is_named_with_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['botocore'] = sys.modules['obstore'] = sys.modules['aiobotocore'] = None\n"
        "from tracekit.backends.registry import backend_for; from tracekit.errors import UsageError\n"
        "try: backend_for('s3://b/k', client='aiobotocore').stat('s3://b/k')\n"
        "except UsageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "(pip install " in done.stdout, done.stdout + done.stderr
