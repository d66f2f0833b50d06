"""Capacity: cache size, bandwidth, and what more ranks would need. Run `marimo edit analysis/notebooks/capacity.py`."""

import marimo

app = marimo.App(width="medium", app_title="Capacity")


@app.cell
def _():
    import os
    from pathlib import Path

    import marimo as mo
    import polars as pl

    import tracekit

    here = Path(__file__).resolve().parents[2] / "sample_traces"
    trace = tracekit.open_trace(os.environ.get("TRACE", here / "s3.trace"))
    return mo, pl, trace


@app.cell
def _(mo, pl, trace):
    shares = [0.5, 0.8, 0.9, 0.99, 1.0]
    hot = pl.concat(
        [trace.pl("FROM hot_set($share)", {"share": s}).with_columns(share=pl.lit(s)) for s in shares]
    )
    mo.vstack(
        [
            mo.md(
                "# Cache size\n\nThe fewest files that take a share of all reads. A cache of `extent_bytes` would serve that share."
            ),
            mo.ui.table(hot),
        ]
    )
    return (hot,)


@app.cell
def _(mo, trace):
    peaks = trace.pl(
        "SELECT max(bytes_per_s) / 1048576 AS peak_mib_per_s, quantile_cont(bytes_per_s, 0.95) / 1048576 AS p95_mib_per_s,"
        " avg(bytes_per_s) / 1048576 AS mean_mib_per_s, max(mean_qd) AS deepest FROM over_time(100)"
    )
    mo.vstack(
        [
            mo.md("## Bandwidth\n\nPeak, 95th percentile and mean of the throughput in 100 windows."),
            mo.ui.table(peaks),
        ]
    )
    return (peaks,)


@app.cell
def _(mo, pl, trace):
    snapshot = trace.snapshot()
    rate, mean_s = snapshot.ops_per_s or 0.0, (snapshot.latency_us["mean"] or 0.0) / 1e6
    ranks = pl.DataFrame({"ranks": [1, 8, 64, 256]}).with_columns(
        mib_per_s=pl.col("ranks") * (snapshot.throughput_bytes_per_s or 0) / 2**20,
        # Little's law: ops in flight = rate x latency, if the latency stays the same.
        ops_in_flight=pl.col("ranks") * rate * mean_s,
    )
    mo.vstack(
        [
            mo.md(
                "## More ranks\n\nWhat several ranks of the same loader would ask for, at the same latency."
            ),
            mo.ui.table(ranks),
        ]
    )
    return (ranks,)


@app.cell
def _(hot, peaks, ranks):
    print(
        f"capacity: {hot.height} cache sizes, peak {peaks['peak_mib_per_s'][0]:.1f} MiB/s, {ranks.height} scales"
    )
    return


if __name__ == "__main__":
    app.run()
