"""Measure what the metrics of a large trace cost, beside polars and pandas on the same ops.

Each case runs in its own process, for its wall time, CPU time and peak memory. All summaries of the
same ops must agree on ops, bytes and the maximum of ops in flight, or the run fails. polars and
pandas read the op log that tracekit exports (TSV, zstd). The log has no requested lengths, samples
or steps, so they compute less than a snapshot does.

    python analysis/benchmarks/bench_metrics.py [--ops 10000000 100000000] [--tsv-ops 10000000] [--scratch DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

Summary = dict[str, int]


def stats(trace: Path) -> Summary:
    from tracekit.metrics.snapshot import snapshot
    from tracekit.store.reader import open_reader

    found = snapshot(open_reader(trace))
    found.to_json()
    return {"ops": found.ops, "bytes": found.bytes, "max_qd": found.max_qd}


def info(trace: Path) -> Summary:
    import tracekit

    return {"ops": tracekit.open_trace(trace).info()["ops"]}


def one_file(trace: Path) -> Summary:
    """Fetch every op of one shard from the middle of the run, as `tracekit query` does."""
    from tracekit.store.reader import open_reader

    reader = open_reader(trace)
    shard = reader.rows // 4 // 8 // 8192 // 2 * 8
    with closing(reader.connect(ordered=True)) as connection:
        sql = "SELECT * FROM ops WHERE uri = $uri"
        table = connection.sql(
            sql, params={"uri": f"s3://training-data/rank0/shard-{shard:06d}.tar"}
        ).to_arrow_table()
    if not len(table):
        raise SystemExit(f"no op of shard {shard}")
    return {"rows": len(table)}


def with_polars(log: Path) -> Summary:
    import polars as pl

    rows = pl.read_csv(
        log, separator="\t", columns=["op", "bytes", "endpoint", "error", "start", "duration_ns"]
    )
    rows = rows.with_columns(
        t=pl.col("start").str.to_datetime("%Y-%m-%dT%H:%M:%S%.9fZ", time_unit="ns").cast(pl.Int64)
    )
    rows.group_by("endpoint", "op", "error").agg(pl.len(), pl.col("bytes").sum())
    rows.select(pl.col("duration_ns").quantile(q).alias(f"q{q}") for q in (0.5, 0.9, 0.99, 0.999, 1.0))
    rows.group_by(size=pl.col("bytes").clip(1).log(2).floor()).agg(pl.len())
    rows.group_by(latency=(pl.col("duration_ns").clip(1).log(2) * 45).floor()).agg(pl.len())
    begin = rows.select("t", d=pl.lit(1, pl.Int64), b="bytes")
    end = rows.select(
        t=pl.col("t") + pl.col("duration_ns").clip(1), d=pl.lit(-1, pl.Int64), b=-pl.col("bytes")
    )
    events = (
        pl.concat([begin, end])
        .sort("t", "d")
        .select(pl.col("d").cum_sum().max(), pl.col("b").cum_sum().max())
    )
    return {"ops": rows.height, "bytes": int(rows["bytes"].sum()), "max_qd": int(events["d"][0])}


def with_pandas(log: Path) -> Summary:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    with pa.input_stream(str(log), compression="zstd") as text:  # pandas needs another library for this.
        rows = pd.read_csv(
            text,
            sep="\t",
            usecols=["op", "bytes", "endpoint", "error", "start", "duration_ns"],
            dtype={"error": "str"},
        )
    t = (
        pd.to_datetime(rows["start"], format="ISO8601")
        .astype("datetime64[ns, UTC]")
        .astype("int64")
        .to_numpy()
    )
    rows.groupby(["endpoint", "op", "error"], dropna=False)["bytes"].agg(["size", "sum"])
    rows["duration_ns"].quantile([0.5, 0.9, 0.99, 0.999, 1.0])
    rows.groupby(np.floor(np.log2(rows["bytes"].clip(lower=1))))["bytes"].size()
    rows.groupby(np.floor(np.log2(rows["duration_ns"].clip(lower=1)) * 45))["bytes"].size()
    events = pd.DataFrame(
        {
            "t": np.concatenate([t, t + rows["duration_ns"].clip(lower=1).to_numpy()]),
            "d": np.repeat([1, -1], len(rows)),
            "b": np.concatenate([rows["bytes"], -rows["bytes"]]),
        }
    ).sort_values(["t", "d"])
    events["b"].cumsum().max()
    return {"ops": len(rows), "bytes": int(rows["bytes"].sum()), "max_qd": int(events["d"].cumsum().max())}


CASES: dict[str, Callable[[Path], Summary]] = {
    "stats": stats,
    "info": info,
    "query of one file": one_file,
    "polars, op log": with_polars,
    "pandas, op log": with_pandas,
}


def measured(case: str, path: Path) -> dict[str, Any]:
    """Run a case in its own process; return s, CPU s, peak MB, and its result."""
    done = subprocess.run(
        [sys.executable, __file__, "--case", case, "--path", str(path)], stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        raise SystemExit(
            f"{case}: exit {done.returncode}{' (out of memory)' if done.returncode == -9 else ''}"
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def child(case: str, path: Path) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    found = CASES[case](path)
    used = {"s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu, "peak_mb": _peak_mb()}
    print(json.dumps({**used, "found": found}))


def _peak_mb() -> float:
    """Return the peak memory of this process; rusage may report the parent's at the fork."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def bench(scratch: Path, sizes: list[int], tsv_ops: int) -> None:
    from make_big_trace import make
    from results import Table

    from tracekit.formats.registry import export_trace

    table = Table("metrics", ["case", "ops", "s", "CPU s", "peak MB", "M ops/s", "x the time of stats"])
    for ops in sizes:
        trace = scratch / f"{ops}.trace"
        print(f"making {ops:,} ops", file=sys.stderr)
        make(trace, ops)
        runs = {case: measured(case, trace) for case in ("stats", "info", "query of one file")}
        if ops == tsv_ops:
            log = scratch / f"{ops}.tsv.zst"
            if not log.exists():
                print("exporting them as an s3dlio op log", file=sys.stderr)
                export_trace("s3dlio", trace, log)
            runs |= {case: measured(case, log) for case in ("polars, op log", "pandas, op log")}
            answers = {json.dumps(run["found"]) for case, run in runs.items() if "max_qd" in run["found"]}
            if len(answers) > 1:
                raise SystemExit(f"the summaries disagree: {', '.join(sorted(answers))}")
        for case, run in runs.items():
            whole = "max_qd" in run["found"]
            rate, ratio = (ops / run["s"] / 1e6, run["s"] / runs["stats"]["s"]) if whole else ("", "")
            table.add(
                case, ops, round(run["s"], 2), round(run["cpu_s"], 2), round(run["peak_mb"]), rate, ratio
            )
    table.finish()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ops", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument(
        "--tsv-ops", type=int, default=10_000_000, help="the size that is also read as an op log"
    )
    parser.add_argument(
        "--scratch", type=Path, help="where traces are made and kept (default: a temporary directory)"
    )
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        child(given.case, given.path)
    elif given.scratch:
        given.scratch.mkdir(parents=True, exist_ok=True)
        bench(given.scratch, given.ops, given.tsv_ops)
    else:
        with tempfile.TemporaryDirectory(prefix="tracekit-bench-") as scratch:
            bench(Path(scratch), given.ops, given.tsv_ops)


if __name__ == "__main__":
    main()
