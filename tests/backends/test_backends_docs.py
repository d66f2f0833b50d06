"""The examples of docs/backends.md run, in order, against moto and Azurite."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import servers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backends.md"


def test_the_examples_of_the_page_run(
    s3_env: servers.S3Server, az_env: servers.AzuriteServer, capsys: pytest.CaptureFixture[str]
) -> None:
    s3_env.make_bucket("bucket")
    s3_env.put("bucket", "data/1", b"one")
    az_env.make_container("container")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    scope: dict[str, object] = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
    printed = capsys.readouterr().out
    assert "s3://bucket/data/1 3" in printed
    assert "not_found s3://bucket/no-such-object: no such object" in printed


def test_the_page_names_every_option_and_counter() -> None:
    import dataclasses

    from tracekit.backends.objects import az, s3
    from tracekit.store_options import CLIENTS

    text = PAGE.read_text()
    names = [field.name for cls in (s3.S3Options, az.AzOptions) for field in dataclasses.fields(cls)]
    for name in [*names, *CLIENTS["s3"], *CLIENTS["az"], *s3.backend(anonymous=True).counters]:
        assert f"`{name}`" in text, name
