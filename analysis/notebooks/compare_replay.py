"""A recording beside its replay: parity, what moved, lateness. `marimo edit analysis/notebooks/compare_replay.py`."""

import marimo

app = marimo.App(width="medium", app_title="A recording and its replay")


@app.cell
def _():
    import tempfile
    from pathlib import Path

    import marimo as mo
    import matplotlib.pyplot as plt

    import tracekit
    from tracekit.comparison.divergence import diverge
    from tracekit.replayer.materialize import materialize

    recording = tracekit.open_trace(Path(__file__).resolve().parents[2] / "sample_traces" / "file.trace")
    folder = Path(tempfile.mkdtemp(prefix="tracekit-notebook-"))
    return diverge, folder, materialize, mo, plt, recording, tracekit


@app.cell
def _(folder, materialize, recording, tracekit):
    rules = (f"file:///tmp/tracekit-sample=file://{folder}/data",)
    materialize(recording.reader, rules, seed=1)
    result = tracekit.replay(recording, map=rules, out=folder / "replay.trace")
    replayed = tracekit.open_trace(folder / "replay.trace")
    return replayed, result


@app.cell
def _(mo, result):
    rows = [
        {"metric": r.metric, "recorded": r.a, "replayed": r.b, "difference": r.difference, "ok": r.ok}
        for r in result.parity.rows
    ]
    mo.vstack([mo.md(f"# Parity {'holds' if result.parity.ok else 'does not hold'}"), mo.ui.table(rows)])
    return


@app.cell
def _(diverge, mo, recording, replayed):
    moved = diverge(recording.reader, replayed.reader)
    mo.vstack(
        [
            mo.md("## What moved"),
            mo.ui.table(
                [{"metric": d.metric, "ks": d.ks, "wasserstein": d.wasserstein} for d in moved.distances]
            ),
        ]
    )
    return (moved,)


@app.cell
def _(plt, replayed):
    late = replayed.pl("FROM lateness(60)")
    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    for column in ("p50_us", "p99_us", "max_us"):
        axes.plot(late["s"], late[column].clip(lower_bound=0.1), label=column.removesuffix("_us"))
    axes.set(yscale="log", xlabel="time (s)", ylabel="lateness (us)")
    axes.legend()
    figure
    return (late,)


@app.cell
def _(folder, late, moved, result):
    import shutil

    shutil.rmtree(folder)
    print(f"parity ok {result.parity.ok}, ks {moved.distances[0].ks:.2f}, {late.height} windows")
    return


if __name__ == "__main__":
    app.run()
