"""botocore's own folders of API models and endpoint rules: what lies there changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import botocore.loaders
import pytest
from faults import BODY, Handler, serving

from tracekit.store_options import CLIENTS

PROGRAM = """
import sys
from tracekit import backend_for
from tracekit.backends.objects.aws import resolve

print(resolve(None, "us-east-1", None, True, "auto").aws_endpoint("bucket", "us-east-1"))
backend = backend_for("s3://bucket", client=sys.argv[1], endpoint=sys.argv[2], region="us-east-1", retries=0)
buffer = backend.allocate(50)
print(backend.open("s3://bucket/k").read_into(100, buffer).nbytes, bytes(buffer).hex())
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A home in which S3 has other hosts, and an API without operations."""
    folder = tmp_path / ".aws" / "models"
    api = folder / "s3" / "2006-03-01"
    api.mkdir(parents=True)
    shipped = Path(botocore.loaders.Loader.BUILTIN_DATA_PATH)
    rules = json.loads((shipped / "partitions.json").read_text())
    for partition in rules["partitions"]:
        partition["outputs"]["dnsSuffix"] = "elsewhere.invalid"
    (folder / "partitions.json").write_text(json.dumps(rules))
    (folder / "endpoints.json").write_text("{}")
    (folder / "_retry.json").write_text("{}")
    (api / "service-2.json").write_text('{"metadata": {}, "operations": {}}')
    return folder


@pytest.mark.parametrize("client", CLIENTS["s3"])
@pytest.mark.parametrize("how", ["~/.aws/models", "AWS_DATA_PATH"])
def test_models_and_rules_of_the_user_lead_no_request_elsewhere(models: Path, client: str, how: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env |= {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    if how == "AWS_DATA_PATH":
        elsewhere = models.parent.parent / "data"
        shutil.move(models, elsewhere)
        env["AWS_DATA_PATH"] = str(elsewhere)
    else:
        env["HOME"] = str(models.parent.parent)
    with serving(Handler.ranged) as (endpoint, seen):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, client, endpoint],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [
            "https://bucket.s3.us-east-1.amazonaws.com", "50", BODY[100:150].hex()
        ]  # fmt: skip
        assert [line.partition("?")[0] for line in seen] == ["GET /bucket/k"]
