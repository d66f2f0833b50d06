"""Pictures and the page, looked at as a reader would: in a real browser."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from tracekit.errors import UsageError
from tracekit.recorder import Recorder
from tracekit.replayer.compare import compare
from tracekit.replayer.run import replay
from tracekit.reporting.charts import charts
from tracekit.reporting.page import report
from tracekit.reporting.plots import KINDS, plot
from tracekit.reporting.table import short_names
from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.writer import TraceWriter

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1200,1600",
)  # fmt: skip


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


def test_the_page_is_one_small_file_that_asks_for_nothing_else(
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


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
    assert len(charts) == 7
    for chart in charts:
        assert chart.find_elements(By.CSS_SELECTOR, "svg.main-svg"), chart.get_attribute("id")
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []
    latency = browser.find_element(By.ID, "chart-latency")
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
    browser.save_screenshot(str(tmp_path / f"{scheme}.png"))
    assert (tmp_path / f"{scheme}.png").stat().st_size > 20_000


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    assert short_names({0: "s3://b/rank0/x.tar", 1: "s3://b/rank1/x.tar"}) == {
        0: "rank0/x.tar",
        1: "rank1/x.tar",
    }
    assert short_names({0: "/d/a", 1: "/d/b"}) == {0: "a", 1: "b"}
    assert short_names({}) == {}


def test_lateness_of_a_trace_without_due_times_is_one_clear_line(tmp_path: Path) -> None:
    trace = Path(__file__).resolve().parents[2] / "sample_traces" / "file.trace"
    with pytest.raises(UsageError, match="no op has a due time"):
        plot("lateness", open_reader(trace), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def written(path: Path, rows: list[dict[str, Any]]) -> TraceReader:
    texts = ("uri", "op", "error")
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {
        n: pa.array([r.get(n) for r in rows], pa.string() if n in texts else pa.int64()) for n in names
    }
    with TraceWriter(path, source="import:test", epoch_unix_ns=0) as writer:
        writer.write(pa.RecordBatch.from_pydict(columns))
    return open_reader(path)


def op(t: int, **more: Any) -> dict[str, Any]:
    return {
        "t_submit": t,
        "uri": "file:///d/a",
        "offset": 0,
        "len": 4096,
        "latency": 1000,
        "sample_id": 0,
        **more,
    }


def axes_of(kind: str, *traces: TraceReader) -> Any:
    axes = Figure().subplots()
    KINDS[kind](axes, [(str(i), trace) for i, trace in enumerate(traces)])
    return axes


def test_the_heat_map_shows_a_pause_as_a_pause_and_ops_of_one_latency_at_all(tmp_path: Path) -> None:
    bursts = [op(s * 10**9 + i * 10**6) for s in (0, 10) for i in range(100)]
    (mesh, *_) = axes_of("latency-heat", written(tmp_path / "t", bursts)).collections
    cells = mesh.get_array().reshape(-1, 120)
    assert cells.shape == (1, 120)
    assert [i for i, n in enumerate(cells[0]) if n > 0] == [0, 1, 118, 119]
    assert cells.sum() == 200
    assert axes_of("latency-heat", written(tmp_path / "one", [op(5)])).collections


def test_a_step_is_as_long_as_its_slowest_rank_and_all_steps_of_all_ranks_are_there(tmp_path: Path) -> None:
    ops = [op(s * 10**6, step=s, rank=r, latency=1000 * (r + 1)) for r in range(3) for s in range(600)]
    axes = axes_of("steps", written(tmp_path / "t", ops))
    assert len(axes.patches) == 600
    assert {round(bar.get_height(), 9) for bar in axes.patches} == {0.003}
    many = [op(s * 10**6, step=s) for s in range(1200)]
    assert (
        axes_of("steps", written(tmp_path / "m", many)).get_title()
        == "Steps (the first 1,000 of 1,200 steps)"
    )


def test_a_picture_of_some_files_says_of_how_many(tmp_path: Path) -> None:
    ops = [op(i, uri=f"file:///d/{i}") for i in range(9)]
    assert axes_of("offsets", written(tmp_path / "t", ops)).get_title().endswith("(the first 8 of 9 files)")
    assert axes_of("offsets", written(tmp_path / "u", ops[:8])).get_title() == "Where each file is read"


def test_names_as_long_as_the_picture_leave_room_for_it(tmp_path: Path) -> None:
    trace = written(tmp_path / "t", [op(i, uri=f"file:///d/{'x' * 300}\n\x1b{i % 2}") for i in range(9)])
    labels = [text.get_text() for text in axes_of("offsets", trace).get_legend().get_texts()]
    assert len(labels) == 2
    assert all(len(label) <= 40 and label.isprintable() for label in labels)


def test_sizes_of_two_traces_stand_in_order(tmp_path: Path) -> None:
    a = written(tmp_path / "a", [op(0, len=4096), op(1, len=2**20)])
    b = written(tmp_path / "b", [op(0, len=512), op(1, len=65536)])
    (sizes,) = [chart for chart in charts([("a", a), ("b", b)]) if chart.name == "sizes"]
    shown = list(sizes.figure.layout.xaxis.categoryarray)
    assert shown == ["512 B - 1 KiB", "4 KiB - 8 KiB", "64 KiB - 128 KiB", "1 MiB - 2 MiB"]


def test_a_page_of_two_traces_says_whose_each_table_and_chart_is(
    tmp_path: Path, traces: tuple[TraceReader, TraceReader]
) -> None:
    report(traces[0], tmp_path / "two.html", against=traces[1])
    report(traces[0], tmp_path / "one.html")
    two, one = ((tmp_path / name).read_text().split("<script", 1)[0] for name in ("two.html", "one.html"))
    assert "slowest first. Of replayed." in two
    assert "window by window. Of recorded." in two
    assert "Of recorded" not in one and "Of replayed" not in one and "Of ." not in one
