"""Pictures and the page: their numbers, and how a real browser shows them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reported import op, written

from tracekit.errors import UsageError
from tracekit.metrics.snapshot import snapshot
from tracekit.recorder import Recorder
from tracekit.replayer.compare import compare
from tracekit.replayer.run import replay
from tracekit.reporting.charts import figure
from tracekit.reporting.page import outcome, report
from tracekit.reporting.panel import Panel
from tracekit.reporting.plots import paint, plot
from tracekit.reporting.series import KINDS, panels
from tracekit.reporting.table import short_names
from tracekit.store.reader import TraceReader, open_reader
from tracekit.trace import open_trace


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> tuple[TraceReader, TraceReader]:
    folder = tmp_path_factory.mktemp("report")
    for name in ("a<b>&.bin", "b.bin"):
        (folder / name).write_bytes(b"x" * (1 << 20))
    with Recorder(folder / "run.trace") as recorder:
        start = time.monotonic_ns()
        for i in range(400):
            name = ("a<b>&.bin", "b.bin")[i % 2]
            recorder.record(f"file://{folder}/{name}", (i * 4096) % (1 << 20), 4096, start + i * 1_000_000, 20_000 + i * 50,
                            bytes=4096, sample_id=i, step=i // 16, worker=i % 3)  # fmt: skip
    replay(folder / "run.trace", out=folder / "replay.trace")
    return open_reader(folder / "run.trace"), open_reader(folder / "replay.trace")


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_every_picture_is_drawn_of_one_trace_and_of_two(
    tmp_path: Path, traces: tuple[TraceReader, TraceReader], kind: str, suffix: str
) -> None:
    for shown, against in ((traces[1], None), traces):
        out = tmp_path / f"p{suffix}"
        plot(kind, shown, out, against=against)
        head = out.read_bytes()[:200]
        assert head.startswith(b"\x89PNG") if suffix == ".png" else b"<svg" in head or b"<?xml" in head
        assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_pictures_of_an_empty_trace_are_drawn_too(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t"):
        pass
    for kind in KINDS.keys() - {"lateness"}:
        plot(kind, open_reader(tmp_path / "t"), tmp_path / "x.png")
    report(open_reader(tmp_path / "t"), tmp_path / "x.html")


def test_an_unknown_picture_or_file_type_is_refused(
    tmp_path: Path, traces: tuple[TraceReader, TraceReader]
) -> None:
    with pytest.raises(UsageError, match="latency-cdf"):
        plot("pie", traces[0], tmp_path / "x.png")
    with pytest.raises(UsageError, match=r"\.svg"):
        plot("offsets", traces[0], tmp_path / "x.gif")


def test_the_page_is_one_small_file_that_loads_nothing_else(
    tmp_path: Path, traces: tuple[TraceReader, TraceReader]
) -> None:
    parity = report(traces[0], tmp_path / "r.html", against=traces[1])
    page = (tmp_path / "r.html").read_text()
    assert parity is not None
    assert parity.ok == compare(*traces).ok
    assert len(page) < 6_000_000
    head = page.split("<script", 1)[0]
    assert "http" not in head
    assert "a&lt;b&gt;&amp;.bin" in page
    assert "<b>&.bin" not in head


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_every_chart_without_errors_and_shows_a_tooltip(
    tmp_path: Path, traces: tuple[TraceReader, TraceReader], browser: Any, scheme: str
) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    report(traces[0], tmp_path / "r.html", against=traces[1])
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get(f"file://{tmp_path}/r.html")
    WebDriverWait(browser, 30).until(
        lambda b: b.find_element(By.TAG_NAME, "body").get_attribute("data-drawn")
    )
    charts = browser.find_elements(By.CSS_SELECTOR, ".chart")
    assert len(charts) == 19
    for chart in charts:
        assert chart.find_elements(By.CSS_SELECTOR, "svg.main-svg"), chart.get_attribute("id")
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []
    latency = browser.find_element(By.ID, "chart-latency-cdf")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", latency)
    places = itertools.cycle([(0, 0), (25, 12), (-40, 5), (60, -8)])

    def hovered(_: Any) -> list[Any]:
        """Plotly answers a moving pointer, and drops moves while it is busy: keep moving."""
        ActionChains(browser).move_to_element_with_offset(latency, *next(places)).pause(0.1).perform()
        return list(latency.find_elements(By.CSS_SELECTOR, ".hoverlayer .hovertext"))

    WebDriverWait(browser, 30).until(hovered)
    assert "us" in latency.find_element(By.CSS_SELECTOR, ".hoverlayer").get_attribute("textContent")
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
    phone = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    wide = "return Math.max(...[...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect().right))"
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(wide, ".chart svg.main-svg") <= 400)
    assert browser.execute_script("return document.scrollingElement.scrollWidth") <= 400
    browser.save_screenshot(str(tmp_path / f"{scheme}-phone.png"))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.save_screenshot(str(tmp_path / f"{scheme}.png"))
    assert (tmp_path / f"{scheme}.png").stat().st_size > 20_000


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    assert short_names({0: "s3://b/rank0/x.tar", 1: "s3://b/rank1/x.tar"}) == {
        0: "rank0/x.tar",
        1: "rank1/x.tar",
    }
    assert short_names({0: "/d/a", 1: "/d/b"}) == {0: "a", 1: "b"}
    assert short_names({}) == {}


def test_lateness_of_a_trace_without_due_times_is_refused_in_one_line(tmp_path: Path) -> None:
    trace = Path(__file__).resolve().parents[2] / "sample_traces" / "file.trace"
    with pytest.raises(UsageError, match="no op has a due time"):
        plot("lateness", open_reader(trace), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def panels_of(kind: str, *traces: TraceReader) -> list[Panel]:
    return panels([kind], [(str(i) if len(traces) > 1 else "", trace) for i, trace in enumerate(traces)])


def panel_of(kind: str, *traces: TraceReader) -> Panel:
    (panel,) = panels_of(kind, *traces)
    return panel


def test_both_painters_draw_the_same_numbers(tmp_path: Path) -> None:
    trace = written(
        tmp_path / "t", [op(i * 10**7, latency=10**7, len=2**20, bytes=2**20) for i in range(300)]
    )
    panel = panel_of("throughput", trace)
    (line,) = paint([panel]).axes[0].get_lines()
    x, y = (np.asarray(data).tolist() for data in (line.get_xdata(), line.get_ydata()))
    (drawn,) = figure(panel)["data"]
    assert y == drawn["y"] == list(panel.series[0].y)
    assert x == drawn["x"]
    assert {round(y, 6) for y in drawn["y"]} == {100}
    assert panel.note == "windows of 50 ms"
    assert (panel.x.title, panel.y.title) == ("time (s)", "throughput (MiB/s)")


def test_a_periodic_load_with_gaps_is_level_to_its_end(tmp_path: Path) -> None:
    trace = written(tmp_path / "t", [op(i * 10**6, bytes=4096, latency=30_000) for i in range(400)])
    for kind in ("throughput", "in-flight"):
        (series,) = panel_of(kind, trace).series
        assert len({round(y, 9) for y in series.y if y is not None}) == 1, kind
    assert panel_of("throughput", trace).note == "windows of 5 ms, without the last 4.03 ms"


def test_bursts_of_steps_are_drawn_in_windows_of_whole_steps(tmp_path: Path) -> None:
    """Steps of 50.8 ms: windows of 50 ms would show dips that are not in the load."""
    bursts = [
        op(step * 50_800_000 + i * 10**6, bytes=4096, latency=500_000, step=step)
        for step in range(64)
        for i in range(8)
    ]
    trace, moved = written(tmp_path / "t", bursts), 4 * 8 * 4096
    panel = panel_of("throughput", trace)
    assert panel.note.startswith("windows of 4 steps (203 ms), without the last ")
    (drawn,) = figure(panel)["data"]
    assert {round(y * 1024) for y in drawn["y"]} == {round(moved / 0.2032)}
    (row,) = (
        open_trace(trace.path).query("SELECT DISTINCT bytes FROM over_time(100) WHERE win < 15").to_pylist()
    )
    assert row["bytes"] == moved
    assert panel_of("latency-heat", trace).note == "columns of 50 ms"


def test_two_runs_are_drawn_in_windows_of_one_length(tmp_path: Path) -> None:
    short = written(tmp_path / "a", [op(i * 10**7) for i in range(100)])
    long = written(tmp_path / "b", [op(i * 10**7) for i in range(1000)])
    a, b = panel_of("throughput", short, long).series
    assert list(a.x) == list(b.x)[: len(a.x)]


def test_two_runs_are_drawn_from_their_first_transfer(tmp_path: Path) -> None:
    listing = op(0, op="list", uri="file:///d/", offset=None, len=None)
    reads = [op(3 * 10**8 + i * 10**7, op="read") for i in range(100)]
    a = written(tmp_path / "a", [listing, *reads])
    b = written(tmp_path / "b", [op(i * 10**7, op="read") for i in range(100)])
    for kind in ("offsets", "lateness", "throughput", "latency-heat"):
        for panel in panels_of(kind, a, b):
            assert panel.x.title.startswith("time since the first transfer"), kind
    for panel in panels_of("offsets", a, b):
        assert (panel.series[0].x[0], panel.series[0].x[-1]) == (0, pytest.approx(990, abs=10))
    (alone,) = panels_of("throughput", a)
    assert alone.x.title == "time (ms)"


def test_unknown_values_are_neither_drawn_nor_zero(tmp_path: Path) -> None:
    trace = written(tmp_path / "t", [op(i * 1000, latency=None) for i in range(100)])
    assert all(
        panel_of(kind, trace).empty for kind in ("throughput", "in-flight", "latency-cdf", "latency-heat")
    )
    plot("throughput", trace, tmp_path / "x.png")
    report(trace, tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text().split("<script", 1)[0]
    assert "does not say whether its 100 ops ended" in page
    assert "0 B" not in page and 'class="verdict good"' not in page


@pytest.mark.parametrize(
    ("rows", "source", "kind", "words"),
    [
        ([], "loader", "open", "The trace has no ops."),
        ([{}], "loader", "good", "All 1 ops ended, and none failed."),
        ([{"latency": None}] * 3, "loader", "bad", "None of the 3 ops ended."),
        (
            [{"latency": None}] * 3,
            "import:x",
            "open",
            "The source of the trace does not say whether its 3 ops ended",
        ),
        ([{}, {"latency": None}], "loader", "open", "None of 2 ops failed, but 1 never ended."),
        ([{}, {"error": "timeout"}], "loader", "bad", "1 of 2 ops failed."),
        ([{"latency": None}, {"error": "timeout"}], "loader", "bad", "1 of 2 ops failed. 1 never ended."),
    ],
)
def test_the_verdict_names_the_evidence_for_it(
    tmp_path: Path, rows: list[dict[str, Any]], source: str, kind: str, words: str
) -> None:
    trace = written(tmp_path / "t", [op(i, **row) for i, row in enumerate(rows)], source=source)
    found = outcome(snapshot(trace))
    assert found[0] == kind
    assert found[1].startswith(words)


def test_the_heat_map_shows_a_pause_as_a_pause_and_ops_of_one_latency_at_all(tmp_path: Path) -> None:
    bursts = [op(s * 10**9 + i * 10**6) for s in (0, 10) for i in range(100)]
    grid = panel_of("latency-heat", written(tmp_path / "t", bursts)).grid
    assert grid is not None
    (cells,) = grid.cells
    assert [i for i, n in enumerate(cells) if n] == [0, len(cells) - 1]
    assert sum(n or 0 for n in cells) == 200
    assert len(grid.edges_x) == len(cells) + 1
    assert not panel_of("latency-heat", written(tmp_path / "one", [op(5)])).empty


def test_ops_of_no_latency_are_in_the_heat_map_within_its_axis(tmp_path: Path) -> None:
    instant = [op(i * 10**6, latency=0 if i % 2 else 5_000_000) for i in range(100)]
    panel = panel_of("latency-heat", written(tmp_path / "t", instant))
    assert panel.grid is not None and panel.y.limits is not None
    assert sum(n or 0 for row in panel.grid.cells for n in row) == 100
    assert panel.y.limits[0] < panel.grid.edges_y[1]


def test_the_duration_of_a_step_is_that_of_its_slowest_rank_and_no_step_is_missing(tmp_path: Path) -> None:
    ops = [op(s * 10**6, step=s, rank=r, latency=1000 * (r + 1)) for r in range(3) for s in range(600)]
    panel = panel_of("steps", written(tmp_path / "t", ops))
    (series,) = panel.series
    assert len(series.x) == 600
    assert {round(y, 9) for y in series.y if y is not None} == {3}
    assert panel.y.title == "duration (us)"
    many = [op(s * 10**6, step=s) for s in range(1200)]
    assert panel_of("steps", written(tmp_path / "m", many)).note == "the first 1,000 of 1,200 steps"


def test_long_durations_are_shown_in_seconds(tmp_path: Path) -> None:
    ops = [op(s * 10**11, step=s, latency=80 * 10**9) for s in range(5)]
    panel = panel_of("steps", written(tmp_path / "t", ops))
    assert (panel.y.title, panel.series[0].y[0]) == ("duration (s)", 80)


def test_offsets_show_the_busiest_files_and_say_of_how_many(tmp_path: Path) -> None:
    ops = [op(i * 100 + n, uri=f"file:///d/{i}") for i in range(12) for n in range(i + 1)]
    panel = panel_of("offsets", written(tmp_path / "t", ops))
    assert [series.name for series in panel.series] == [str(i) for i in range(11, 3, -1)]
    assert panel.note == "the 8 busiest of 12 files, 87% of the reads"
    assert panel_of("offsets", written(tmp_path / "u", ops[:8])).note == ""


def test_request_sizes_say_how_many_ops_have_no_length(tmp_path: Path) -> None:
    ops = [op(i, **({"op": "get", "len": None} if i % 3 else {"op": "read"})) for i in range(9)]
    panel = panel_of("request-sizes", written(tmp_path / "t", ops))
    assert panel.note == "6 of 9 ops without a length not shown"
    assert sum(y or 0 for y in panel.series[0].y) == 3


def test_the_maximum_of_lateness_does_not_hide_the_p99(tmp_path: Path) -> None:
    ops = [op(1000 + i * 10**6, t_due=i * 10**6) for i in range(50)]
    series = panel_of("lateness", written(tmp_path / "t", ops)).series
    assert [(one.name, one.kind) for one in series] == [("max", "points"), ("p99", "line"), ("p50", "line")]
    assert len({one.colour for one in series}) == 3


def test_log_axes_have_ticks_with_units_wherever_the_values_are(tmp_path: Path) -> None:
    for n, latencies in enumerate(([30_000, 40_000], [1000, 10**9], [5, 5])):
        trace = written(tmp_path / str(n), [op(i, latency=latency) for i, latency in enumerate(latencies)])
        ticks = panel_of("latency-cdf", trace).x.ticks
        inside = [
            label for value, label in ticks if min(latencies) / 1.6 <= value * 1000 <= max(latencies) * 1.6
        ]
        assert inside or latencies == [5, 5]
        assert all(label.split()[1] in ("ns", "us", "ms", "s", "m", "h") for _, label in ticks)


def test_very_long_names_leave_room_for_the_picture(tmp_path: Path) -> None:
    trace = written(tmp_path / "t", [op(i, uri=f"file:///d/{'x' * 300}\n\x1b{i % 2}") for i in range(9)])
    legend = paint(panels_of("offsets", trace)).axes[0].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == 2
    assert all(len(label) <= 40 and label.isprintable() for label in labels)


def test_request_sizes_of_two_traces_are_in_order(tmp_path: Path) -> None:
    a = written(tmp_path / "a", [op(0, len=4096), op(1, len=2**20)])
    b = written(tmp_path / "b", [op(0, len=512), op(1, len=65536)])
    for series in panel_of("request-sizes", a, b).series:
        assert list(series.x) == ["512 B to 1 KiB", "4 KiB to 8 KiB", "64 KiB to 128 KiB", "1 MiB to 2 MiB"]


def test_rows_of_equal_rank_have_one_order(tmp_path: Path) -> None:
    ops = [op(i, uri=f"file:///d/{i % 7}", step=i, rank=i % 2, worker=i % 3) for i in range(84)]
    for name, rows in (("a", ops), ("b", ops[::-1])):
        report(written(tmp_path / name, rows), tmp_path / f"{name}.html")
    a, b = ((tmp_path / f"{name}.html").read_text().split("<footer", 1)[0] for name in "ab")
    for chapter in ("advice", "time", "latency", "stalls", "who", "file-chapter", "step-chapter", "how"):
        of_a, of_b = (
            page.split(f'aria-labelledby="{chapter}"', 1)[1].split('class="chapter"')[0] for page in (a, b)
        )
        assert of_a == of_b, chapter


def test_a_page_of_two_traces_shows_both_in_tiles_tables_and_charts(
    tmp_path: Path, traces: tuple[TraceReader, TraceReader]
) -> None:
    report(traces[0], tmp_path / "two.html", against=traces[1])
    report(traces[0], tmp_path / "one.html")
    two, one = ((tmp_path / name).read_text().split("<script", 1)[0] for name in ("two.html", "one.html"))
    assert two.count("<span>recorded</span>") == two.count("<span>replayed</span>") > 20
    for title in (
        "Where each file is read",
        "Latency over time",
        "Streams",
        "Files",
        "Access patterns",
        "Advice",
    ):
        assert f"{title}: recorded</a></h3>" in two and f"{title}: replayed</a></h3>" in two
        assert title == "Advice" or f"{title}</a></h3>" in one
    assert two.index(">Differences<") < two.index(">The run<")
    assert "recorded" not in one and "replayed" not in one


@pytest.mark.parametrize(("module", "call"), [("plotly", "report"), ("matplotlib", "plot")])
def test_without_the_extra_one_line_says_how_to_install_it(tmp_path: Path, module: str, call: str) -> None:
    trace = Path(__file__).resolve().parents[2] / "sample_traces" / "file.trace"
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {module!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    kind, out = ([], "x.html") if call == "report" else (["throughput"], "x.png")
    command = [sys.executable, "-m", "tracekit", call, *kind, str(trace), "-o", str(tmp_path / out)]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, env=env)
    assert run.returncode == 2
    assert "pip install 'tracekit[report]'" in run.stderr
    assert len(run.stderr.splitlines()) == 1
