"""From a capture to a verdict, step by step. Run `marimo edit analysis/notebooks/capture_to_verdict.py`."""

import marimo

app = marimo.App(width="medium", app_title="From a capture to a verdict")


@app.cell
def _():
    import os
    import sys
    import tempfile
    from pathlib import Path

    import marimo as mo

    import tracekit

    folder = Path(tempfile.mkdtemp(prefix="tracekit-notebook-"))
    mo.md(
        """
        # From a capture to a verdict

        A job in production reads its data too slowly, or is to move to other storage. This notebook records what the job asks of
        storage, finds out what that costs, runs the same requests on other files, and ends with a verdict. Put your own command into
        the next cell to do the same with it.
        """
    )
    return Path, folder, mo, os, sys, tracekit


@app.cell
def _(folder, mo, os, sys):
    # The job: four of twelve files in each of ten steps, in a random order, 128 KiB at a time. It knows nothing of tracekit.
    data = folder / "data"
    data.mkdir()
    for number in range(12):
        (data / f"{number:02}.bin").write_bytes(os.urandom(1 << 20))
    program = folder / "train.py"
    program.write_text(
        "\n".join(
            [
                "import pathlib, random, time",
                f"files = sorted(pathlib.Path({str(data)!r}).glob('*.bin'))",
                "random.seed(1)",
                "for step in range(10):",
                "    for path in random.sample(files, 4):",
                "        with open(path, 'rb', buffering=0) as file:",
                "            while file.read(1 << 17):",
                "                pass",
                "    time.sleep(0.02)",
            ]
        )
    )
    command = [sys.executable, str(program)]
    mo.md("## 1. The job\n\nAny command will do, in any language. This one stands for yours.")
    return command, data


@app.cell
def _(command, data, folder, mo, tracekit):
    captured = tracekit.capture.run(command, folder / "run.trace", include=[f"{data}/*"])
    notes = "\n".join(f"- {note}" for note in captured.notes)
    mo.md(
        f"## 2. The capture\n\n{captured.ops:,} ops were recorded by `{captured.method}`. A capture that missed something says "
        f"so:\n\n{notes or '- nothing to note'}"
    )
    return (captured,)


@app.cell
def _(captured, mo, tracekit):
    trace = tracekit.open_trace(captured.path)
    mo.vstack(
        [
            mo.md("## 3. What it did\n\nThe metrics of the whole run; docs/metrics.md defines each."),
            trace.snapshot(),
        ]
    )
    return (trace,)


@app.cell
def _(mo, trace, tracekit):
    pattern, again, stalls = (
        tracekit.ask(trace, question, limit=5) for question in ("access-pattern", "rereads", "stalls")
    )
    mo.vstack(
        [
            mo.md(
                "## 4. Why\n\nReady questions; each is a query. Each file is read in order, files are read several times, so that a "
                "small cache would serve most of the reads, and nothing is in flight while the job works."
            ),
            pattern,
            again,
            stalls,
        ]
    )
    return (again,)


@app.cell
def _(data, folder, mo, trace, tracekit):
    # Files of the recorded sizes take the place of the data, which may be elsewhere or secret.
    rules = (f"file://{data}=file://{folder}/target",)
    tracekit.materialize(trace, map=rules, seed=1)
    result = tracekit.replay(trace, map=rules, out=folder / "again.trace")
    mo.md(
        "## 5. The same requests on other storage\n\nA replay issues every request at its recorded time and records itself. Map to "
        "`direct://`, `s3://`, `az://` or `gs://` to try another kind of storage."
    )
    return (result,)


@app.cell
def _(mo, result):
    mo.vstack(
        [
            mo.md(
                f"## 6. The verdict\n\nParity {'holds' if result.parity.ok else 'does not hold'}; {result.verdict.reason}. "
                "`tracekit report run.trace --against again.trace -o verdict.html` makes a page of it to hand on."
            ),
            result.parity,
        ]
    )
    return


@app.cell
def _(again, captured, folder, result):
    import shutil

    shutil.rmtree(folder)
    print(f"captured {captured.ops} ops, {len(again)} files read again, replayed {result.ops}")
    return


if __name__ == "__main__":
    app.run()
