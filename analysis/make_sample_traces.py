"""Record `sample_traces/` again: the same loader over the same shards, on each of the four schemes.

S3 is moto's server and Azure is Azurite, started as the tests start them. Run it from the
repository: `python analysis/make_sample_traces.py`. It needs what `make test` installs.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "tests"))
import servers

import tracekit
from tracekit.backends.registry import backend_for

OPTIONS = tracekit.LoaderOptions(
    batch_size=8, num_workers=4, prefetch=2, shuffle=True, seed=3, sample_bytes=64 << 10, reader_mode="range",
    target_request_bytes=32 << 10, max_bytes_in_flight=1 << 20,
)  # fmt: skip
SHARDS, SHARD_BYTES, STEP_TIME_NS = 4, 4 << 20, 20_000_000
LOCAL = Path("/tmp/tracekit-sample/train")


def main() -> None:
    shards = {f"train-{i:05d}.bin": np.random.default_rng(i).bytes(SHARD_BYTES) for i in range(SHARDS)}
    shutil.rmtree(LOCAL.parent, ignore_errors=True)
    LOCAL.mkdir(parents=True)
    for name, content in shards.items():
        (LOCAL / name).write_bytes(content)
    record("file", f"file://{LOCAL}")
    record("direct", f"direct://{LOCAL}")
    with tempfile.TemporaryDirectory() as folder:
        with servers.moto_server(Path(folder) / "moto.log") as moto:
            os.environ.update(moto.env)
            moto.make_bucket("tracekit-sample")
            record_store("s3", "s3://tracekit-sample/train", shards)
        with servers.azurite_server(Path(folder) / "azurite.log") as azurite:
            os.environ.update(azurite.env)
            azurite.make_container("tracekit-sample")
            record_store("az", "az://tracekit-sample/train", shards)
    shutil.rmtree(LOCAL.parent)


def record_store(name: str, uri: str, shards: dict[str, bytes]) -> None:
    backend = backend_for(uri)
    for shard, content in shards.items():
        backend.put(f"{uri}/{shard}", content, overwrite=True)
    record(name, uri)


def record(name: str, uri: str) -> None:
    done = tracekit.record(
        uri, REPO / "sample_traces" / f"{name}.trace", OPTIONS, step_time=STEP_TIME_NS, overwrite=True
    )
    print(f"{name}: {done.ops} ops, {done.steps} steps")


if __name__ == "__main__":
    main()
