"""Explore one trace: its figures, its access pattern, its slow steps. Run `marimo edit analysis/notebooks/explore.py`."""

import marimo

app = marimo.App(width="medium", app_title="Explore one trace")


@app.cell
def _():
    import os
    from pathlib import Path

    import marimo as mo
    import matplotlib.pyplot as plt

    import tracekit

    here = Path(__file__).resolve().parents[2] / "sample_traces"
    trace = tracekit.open_trace(os.environ.get("TRACE", here / "file.trace"))
    return mo, plt, trace


@app.cell
def _(mo, trace):
    snapshot = trace.snapshot()
    mo.md(
        f"# {trace.path.name}\n\n{snapshot.ops:,} ops, {(snapshot.bytes or 0) / 2**20:,.1f} MiB, at most {snapshot.max_qd} in flight"
    )
    return (snapshot,)


@app.cell
def _(plt, snapshot):
    histogram = snapshot.histogram("latency_us")
    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    axes.stairs(histogram.counts, [*histogram.lo, histogram.hi[-1]], fill=True) if histogram.counts else None
    axes.set(xscale="log", xlabel="latency (us)", ylabel="ops")
    figure
    return


@app.cell
def _(mo, trace):
    windows = trace.pl("SELECT s, bytes_per_s / 1048576 AS mib_per_s, mean_qd, p99_us FROM over_time(50)")
    mo.vstack([mo.md("## Over time"), mo.ui.table(windows)])
    return (windows,)


@app.cell
def _(mo, trace):
    walk = trace.pl("FROM sequentiality('worker')")
    slow = trace.pl("FROM per_step() ORDER BY wall_ms DESC LIMIT 5")
    mo.vstack(
        [mo.md("## Access pattern by stream, and the slowest steps"), mo.ui.table(walk), mo.ui.table(slow)]
    )
    return slow, walk


@app.cell
def _(slow, snapshot, walk, windows):
    print(
        f"explored {snapshot.ops} ops, {windows.height} windows, {walk.height} streams, {slow.height} slow steps"
    )
    return


if __name__ == "__main__":
    app.run()
