"""Measure what the recording proxy adds to a request: GETs straight from nginx on loopback, and through `tracekit proxy`.

The two are sent in turn over kept connections, by one client, so that other work on the machine disturbs both alike. The
figures are medians.

    python analysis/benchmarks/bench_proxy.py [--quick]
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import servers
from results import Table

import tracekit

SIZES = {"4 KiB": 4096, "64 KiB": 65_536, "1 MiB": 1 << 20, "16 MiB": 1 << 24}
COLUMNS = ["get", "requests", "direct_us", "proxied_us", "added_us", "ratio"]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--quick", action="store_true", help="send a tenth of the requests")
    quick = arguments.parse_args().quick
    table = Table("proxy", COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "data" / "set").mkdir(parents=True)
        for name, size in SIZES.items():
            (work / "data" / "set" / name.replace(" ", "")).write_bytes(os.urandom(size))
        with (
            servers.nginx_bucket(work / "data", work / "nginx") as server,
            tracekit.proxy(work / "run.trace", upstream=server.endpoint, anonymous=True) as proxy,
        ):
            ends = [connection(server.endpoint), connection(proxy.endpoint)]
            for name, size in SIZES.items():
                count = max((2000 if size < 1 << 20 else 200) // (10 if quick else 1), 10)
                direct, proxied = measured(ends, f"/bucket/set/{name.replace(' ', '')}", size, count)
                table.add(name, count, direct, proxied, proxied - direct, proxied / direct)
    table.finish()


def connection(endpoint: str) -> http.client.HTTPConnection:
    where = urlsplit(endpoint)
    return http.client.HTTPConnection(where.hostname or "", where.port)


def measured(ends: list[http.client.HTTPConnection], path: str, size: int, count: int) -> tuple[float, float]:
    """The medians of both ends, in us."""
    took: list[list[float]] = [[], []]
    for number in range(count + 10):
        for end, times in zip(ends, took, strict=True):
            began = time.perf_counter_ns()
            end.request("GET", path)
            if len(end.getresponse().read()) != size:
                raise SystemExit(f"{path}: short body")
            if number >= 10:
                times.append((time.perf_counter_ns() - began) / 1e3)
    return statistics.median(took[0]), statistics.median(took[1])


if __name__ == "__main__":
    main()
