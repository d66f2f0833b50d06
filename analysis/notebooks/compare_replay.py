"""A recording and its replay: parity, differences, lateness. Run `marimo edit analysis/notebooks/compare_replay.py`."""

import marimo

app = marimo.App(width="medium", app_title="A recording and its replay")


@app.cell
def _():
    import tempfile
    from pathlib import Path

    import marimo as mo
    import matplotlib.pyplot as plt

    import tracekit

    recording = tracekit.open_trace(Path(__file__).resolve().parents[2] / "sample_traces" / "file.trace")
    folder = Path(tempfile.mkdtemp(prefix="tracekit-notebook-"))
    return folder, mo, plt, recording, tracekit


@app.cell
def _(folder, recording, tracekit):
    rules = (f"file:///tmp/tracekit-sample=file://{folder}/data",)
    # The recorded files are elsewhere: make files of the same sizes here.
    tracekit.materialize(recording, map=rules, seed=1)
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
def _(mo, recording, replayed, tracekit):
    moved = tracekit.diverge(recording, replayed)
    mo.vstack(
        [
            mo.md("## Where the distributions differ"),
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
