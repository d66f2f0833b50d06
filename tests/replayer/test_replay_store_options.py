"""A replay takes the loader's options of object stores, by the loader's names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import servers

from tracekit.errors import UsageError
from tracekit.replayer.materialize import materialize
from tracekit.replayer.run import replay
from tracekit.store.reader import open_reader

SAMPLE = Path(__file__).resolve().parents[2] / "sample_traces" / "s3.trace"
RULE = "s3://tracekit-sample=s3://"


@pytest.mark.parametrize("client", ["obstore", "aiobotocore"])
def test_endpoint_and_client_reach_the_store_without_the_environment(
    tmp_path: Path, clean_env: pytest.MonkeyPatch, moto: servers.S3Server, client: str
) -> None:
    clean_env.setenv("AWS_ACCESS_KEY_ID", "testing")
    clean_env.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret-key")
    bucket = f"options-{client}"
    moto.make_bucket(bucket)
    store: dict[str, Any] = {"client": client, "endpoint": moto.endpoint, "region": "us-east-1"}
    assert materialize(open_reader(SAMPLE), [RULE + bucket], **store).made == 4
    result = replay(SAMPLE, map=(RULE + bucket,), speed=0.3, end=400_000_000, **store)
    assert result.failed_ops == 0
    assert result.ops > 30
    command = [sys.executable, "-m", "tracekit", "replay", str(SAMPLE), "--map", RULE + bucket, "--json", "--end", "100ms",
               "--speed", "0.3", "--tolerance", "1e9", "--max-lateness", "1h"]  # fmt: skip
    for name, value in store.items():
        command += [f"--{name}", value]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["failed_ops"] == 0


def test_an_unknown_client_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="aiobotocore"):
        replay(SAMPLE, map=(RULE + "b",), client="curl", out=tmp_path / "r")
    assert not (tmp_path / "r").exists()
