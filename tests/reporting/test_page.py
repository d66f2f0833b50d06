"""The page: its numbers against independent queries, hostile names, its size, and how Chromium lays it out."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from reported import op, written

from tracekit.metrics.measuring import measuring
from tracekit.metrics.snapshot import snapshot
from tracekit.reporting import charts
from tracekit.reporting.advice import RULES, advise
from tracekit.reporting.html import banner
from tracekit.reporting.listings import LISTINGS, listing
from tracekit.reporting.page import report
from tracekit.reporting.panel import Panel, visible
from tracekit.reporting.phases import phases
from tracekit.reporting.series import KINDS, drawn, panels
from tracekit.reporting.source import opened
from tracekit.reporting.story import consumer, paragraph
from tracekit.store.reader import TraceReader
from tracekit.store.statements import select
from tracekit.trace import open_trace

MOST_BYTES = 5_000_000
NAMES = ("<script>alert(1)</script>", "</script><b>&\"'", "$x^2$", "x" * 300, "é\u202e\x1b[2J")


def varied(n: int = 1500, seed: int = 3) -> list[dict[str, Any]]:
    """Ops of several kinds, ranks, sizes and outcomes, with pauses and unknown values."""
    rng, t, rows = random.Random(seed), 0, []
    for i in range(n):
        t += rng.choice([0, 1000, 30_000, 400_000]) + (5_000_000 if i % 300 == 299 else 0)
        kind = rng.choice(["read"] * 6 + ["write", "stat", "get", "list"])
        size = rng.choice([512, 4096, 65536])
        rows.append(
            op(
                t, uri=f"file:///d/{NAMES[i % 5]}/{rng.randrange(9)}", op=kind, rank=i % 3, worker=i % 2, step=i // 100,
                offset=rng.randrange(64) * 4096 if kind in ("read", "write") else None, len=size if kind in ("read", "write") else None,
                bytes=size if kind not in ("stat", "list") else 0, latency=None if i % 211 == 5 else rng.randrange(1000, 3_000_000),
                error="timeout" if i % 97 == 3 else None, tries=2 if i % 97 == 3 else 1, wait_ns=500 if i % 97 == 3 else 0,
            )
        )  # fmt: skip
    return rows


EMPTY_KINDS: dict[str, list[dict[str, Any]]] = {
    "no ops": [],
    "one op": [op(0, latency=1)],
    "failed ops only": [op(i * 1000, error="not_found", bytes=0) for i in range(30)],
    "nothing known": [
        op(i, uri=f"file:///{i % 3}", offset=None, len=None, bytes=None, latency=None, sample_id=None, rank=None, worker=None, step=None)
        for i in range(30)
    ],
    "half known": [
        op(
            i * 1000, op=["read", "write", "list"][i % 3], offset=None if i % 2 else 5, len=None if i % 3 else 7, bytes=None if i % 5 else 7,
            latency=None if i % 4 else 100, sample_id=None, rank=None if i % 2 else 1, worker=None if i % 3 else 2, step=None if i % 2 else i // 4,
        )
        for i in range(60)
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> TraceReader:
    return written(tmp_path_factory.mktemp("page") / "run.trace", varied())


def wide(streams: int = 1000, ops: int = 8_000) -> list[dict[str, Any]]:
    """Many workers, files with long names, and many steps."""
    rng = random.Random(1)
    return [
        op(
            i * 10_000 + rng.randrange(5000), uri=f"s3://bucket/<{i % 5000}>/{'x' * 150}/{i % 5000}", op=rng.choice(["get", "read", "put", "stat"]),
            offset=rng.randrange(1000) * 4096, len=rng.choice([123, 4096, 1 << 20]), bytes=4096, latency=int(rng.lognormvariate(13, 2)),
            rank=i % streams // 8, worker=i % 8, step=i // 7,
        )
        for i in range(ops)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def one(trace: TraceReader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of one trace."""
    out = tmp_path_factory.mktemp("one") / "r.html"
    report(trace, out)
    return out


@pytest.fixture(scope="module")
def two(trace: TraceReader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two traces."""
    out = tmp_path_factory.mktemp("two") / "r.html"
    report(trace, out, against=trace)
    return out


def page_of(trace: TraceReader, out: Path, against: TraceReader | None = None) -> str:
    report(trace, out, against=against)
    return out.read_text(encoding="utf-8")


def shown_sql(page: str) -> list[str]:
    return [unescape(text) for text in re.findall(r"<code>(.*?)</code>", page, re.DOTALL)]


def figures(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'id="page-figures">(.*?)</script>', page, re.DOTALL)
    found: dict[str, Any] = json.loads(text)
    return found


def picture(kind: str, trace: TraceReader) -> Panel:
    (panel,) = panels([kind], [("", trace)])
    return panel


def test_every_query_on_the_page_runs_as_it_stands(one: Path, trace: TraceReader) -> None:
    found = shown_sql(one.read_text(encoding="utf-8"))
    assert len(set(found)) > 25
    with measuring(trace) as connection:
        for sql in set(found):
            assert select(connection, sql).fetchall() is not None


@pytest.mark.parametrize("name", list(LISTINGS))
def test_the_rows_of_a_table_are_those_of_the_query_below_it(trace: TraceReader, name: str) -> None:
    with opened([("", trace)]) as sources:
        (found,) = listing(name, sources)
    (sql,) = found.sql
    rows = open_trace(trace).query(sql).to_pylist()
    assert [tuple(row[column] for column in found.columns) for row in rows] == list(found.rows)
    assert found.rows


def test_rates_and_queue_depth_are_those_of_the_ops(trace: TraceReader) -> None:
    ops = [row for row in varied() if row["latency"] is not None]
    whole = picture("throughput", trace)
    width_s = 1 / 1e3 * whole.series[0].x[1]  # type: ignore[operator]
    end_ns = max(whole.series[0].x) * 1e6  # type: ignore[type-var, operator]
    for panel, scale in ((whole, 2**20), (picture("in-flight", trace), 1.0)):
        for series in panel.series:
            mine = [row for row in ops if series.name in (row["op"], "all")]
            clipped = [
                min(row["t_submit"] + row["latency"] + row["wait_ns"], end_ns) - row["t_submit"]
                for row in mine
            ]
            time = [row["latency"] + row["wait_ns"] for row in mine]
            weight = [
                row["bytes"] if scale > 1 else 1e-9 * all_ns for row, all_ns in zip(mine, time, strict=True)
            ]
            want = sum(
                w * max(part, 0) / all_ns for w, part, all_ns in zip(weight, clipped, time, strict=True)
            )
            assert sum(y or 0 for y in series.y[:-1]) * scale * width_s == pytest.approx(want, rel=0.01)
    counts = Counter(row["op"] for row in varied() if row["t_submit"] < end_ns)
    for series in picture("request-rate", trace).series:
        assert sum(y or 0 for y in series.y[:-1]) * width_s == pytest.approx(counts[series.name])


def test_the_time_line_covers_the_ops_and_leaves_pauses_empty(tmp_path: Path) -> None:
    bursts = [
        op(s * 10**9 + i * 10**6, latency=500_000, worker=w)
        for s in (0, 10)
        for i in range(100)
        for w in range(2)
    ]
    panel = picture("timeline", written(tmp_path / "t", bursts))
    (series,) = panel.series
    spans = sorted(zip(series.y[::3], series.x[::3], series.x[1::3], strict=True), key=str)
    assert [(y, round(float(a or 0), 4), round(float(b or 0), 4)) for y, a, b in spans] == [
        (lane, start, pytest.approx(start + 0.0995)) for lane in (0, 1) for start in (0.0, 10.0)
    ]
    assert [text for _, text in panel.y.ticks] == ["0/1", "0/0"] or [text for _, text in panel.y.ticks] == [
        "0/0",
        "0/1",
    ]


def test_a_stream_of_which_no_op_ended_moves_no_other_from_its_lane(tmp_path: Path) -> None:
    rows = [
        op(i * 1000 + worker, worker=worker, latency=None if worker in (0, 2) else 500)
        for worker in range(5)
        for i in range(20)
    ]
    panel = picture("timeline", written(tmp_path / "t", rows))
    labels = dict(panel.y.ticks)
    found = {
        labels[y]: text
        for one in panel.series
        for y, text in zip(one.y, one.hover, strict=True)
        if y is not None
    }
    assert {label: text.split(":")[0] for label, text in found.items()} == {
        w: w for w in ("0/1", "0/3", "0/4")
    }


def test_spans_shorter_than_a_pixel_are_painted_and_the_numbers_stay(tmp_path: Path) -> None:
    panel = picture("timeline", written(tmp_path / "t", [op(i * 10**9, latency=1000) for i in range(5)]))
    (series,) = panel.series
    assert panel.x.limits is not None
    painted = visible(series, panel.x)
    least = (panel.x.limits[1] - panel.x.limits[0]) / 500
    for one, width in ((series, 1e-6), (painted, least)):
        for start, end in zip(one.x[::3], one.x[1::3], strict=True):
            assert float(end or 0) - float(start or 0) == pytest.approx(width, rel=1e-3)
    (made,) = charts.figure(panel)["data"]
    assert made["x"] == list(painted.x)


def test_idle_gaps_are_those_between_the_ops_and_carry_names(tmp_path: Path) -> None:
    rows = [
        op(0, op="list", latency=10), op(100, latency=50, step=0), op(120, latency=5, step=0), op(200, latency=10, step=0),
        op(500, latency=10, step=1), op(600, latency=None, step=1),
    ]  # fmt: skip
    with opened([("", written(tmp_path / "t", rows))]) as sources:
        (found,) = listing("idle", sources)
    between = found.columns.index("between")
    assert sorted((row[0], row[1], row[between]) for row in found.rows) == [
        (10, 90, "a list and step 0"), (150, 50, "two ops of step 0"), (210, 290, "step 0 and step 1"),
        (510, 90, "the last end and the end of the run"),
    ]  # fmt: skip


def test_the_reuse_distance_is_the_bytes_read_in_between(tmp_path: Path) -> None:
    rows = [op(i, uri=f"file:///{name}", len=100, bytes=100) for i, name in enumerate("abcabba")]
    found = open_trace(written(tmp_path / "t", rows)).query("FROM reuse_distance()").to_pylist()
    assert [(row["lo"], row["counts"]) for row in found] == [(None, 3), (0, 1), (128, 3)]
    panel = picture("reuse-distance", written(tmp_path / "u", rows))
    assert list(panel.series[0].y) == [1, 3]
    assert panel.note == "3 of 7 reads of what was not read before"


def test_files_have_the_pattern_of_their_requests(tmp_path: Path) -> None:
    at = {
        "in-order": [i * 4096 for i in range(20)], "strided": [i * 65536 for i in range(20)], "again": [0] * 20,
        "random": random.Random(2).sample(range(0, 1 << 24, 4096), 20), "once": [0],
    }  # fmt: skip
    rows = [
        op(i * 1000 + n, uri=f"file:///{name}", offset=o)
        for n, (name, some) in enumerate(at.items())
        for i, o in enumerate(some)
    ]
    rows.append(op(50_000, uri="file:///nowhere", offset=None, op="read"))
    found = (
        open_trace(written(tmp_path / "t", rows))
        .query("SELECT uri, pattern FROM file_patterns()")
        .to_pylist()
    )
    assert {row["uri"].removeprefix("file:///"): row["pattern"] for row in found} == {
        "in-order": "sequential", "strided": "strided", "again": "repeated", "random": "random", "once": "single", "nowhere": "unknown",
    }  # fmt: skip


def test_the_rank_that_held_up_a_step_is_named(tmp_path: Path) -> None:
    rows = [
        op(s * 10**6, step=s, rank=r, latency=9000 if (s, r) == (12, 2) else 1000)
        for s in range(20)
        for r in range(4)
    ]
    with opened([("", written(tmp_path / "t", rows))]) as sources:
        (found,) = listing("step-table", sources)
    row = dict(zip(found.columns, found.rows[12], strict=True))
    assert (row["step"], row["slowest_rank"], row["wall_ns"], row["median_wall_ns"], row["ranks"]) == (
        12,
        2,
        9000,
        1000,
        4,
    )


def test_phases_begin_where_the_load_changes(tmp_path: Path) -> None:
    slow = [op(i * 10**7, latency=10**6, op="write", bytes=4096) for i in range(100)]
    fast = [op(2 * 10**9 + i * 10**6, latency=10**6, bytes=65536) for i in range(1000)]
    with opened([("", written(tmp_path / "t", slow + fast))]) as sources:
        (found,) = phases(sources)
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    assert [row["what"] for row in rows] == ["write", "idle", "read"]
    assert [row["at_ns"] / 1e9 for row in rows] == pytest.approx([0, 1, 2], abs=0.1)
    assert sum(row["ops"] for row in rows) == 1100
    assert sum(row["moved_bytes"] for row in rows) == 100 * 4096 + 1000 * 65536


def test_the_end_of_a_run_that_fills_no_window_is_no_phase(tmp_path: Path) -> None:
    rows = [op(i * 250_000, latency=3_000_000, bytes=4096) for i in range(4020)]
    with opened([("", written(tmp_path / "t", rows))]) as sources:
        (found,) = phases(sources)
        assert sources[0].span_ns % sources[0].width_ns
    assert [row[1] for row in found.rows if row[1] > 0.9 * 10**9] == []


SCENES: dict[str, list[dict[str, Any]]] = {
    "small-random-reads": [op(i * 1000, op="read", offset=(i * 7919 % 500) * 8192) for i in range(300)],
    "slow-rank": [op(i * 1000, rank=i % 4, latency=9000 if i % 4 == 2 else 1000) for i in range(400)],
    "cap-reached": [op(i // 4 * 1000, worker=i % 4, latency=1000) for i in range(400)],
    "one-at-a-time": [op(i * 1000, latency=900) for i in range(300)],
    "throttling": [op(i * 1000, tries=3, wait_ns=50) for i in range(300)],
    "misaligned-direct-io": [op(i * 1000, uri="direct:///d/a", offset=i * 100) for i in range(9)],
    "cache": [op(i * 1000, offset=i % 10 * 4096, bytes=4096) for i in range(300)],
    "metadata": [op(i * 1000, op="stat", offset=None, len=None) for i in range(300)],
    "tail": [op(i * 1000, latency=500_000 if i % 60 == 0 else 1000) for i in range(600)],
    "idle-storage": [op(i * 10_000) for i in range(300)],
}


@pytest.mark.parametrize("rule", list(RULES))
def test_a_rule_advises_where_its_fault_is_and_not_where_it_is_not(tmp_path: Path, rule: str) -> None:
    fine = [
        op(
            i * 500, offset=i * 2**20, len=2**20, bytes=2**20, uri=f"file:///d/{i % 2}", rank=i % 3,
            latency=600 + i * 37 % 11 * 150,
        )
        for i in range(600)
    ]  # fmt: skip
    for n, (rows, wanted) in enumerate(((SCENES[rule], True), (fine, False))):
        with opened([("", written(tmp_path / str(n), rows))]) as (source,):
            (found,) = [one for one in advise(source) if one.rule == rule]
        assert bool(found.advice) == wanted, found
        assert found.number or not wanted
        (sql,) = found.sql
        assert open_trace(written(tmp_path / f"{n}-again", rows)).query(sql).num_rows == 1


def test_the_paragraph_holds_the_numbers_of_the_run(trace: TraceReader) -> None:
    with opened([("", trace)]) as (source,):
        said = " ".join(paragraph(source, snapshot(trace)))
        (time,) = source.file("busy")
    assert "1,500 ops" in said and "6 streams of 3 ranks" in said
    assert time["busy_ns"] + time["idle_ns"] == time["span_ns"]
    assert f"({100 * time['busy_ns'] / time['span_ns']:.3g} %)" in said
    assert "How long its consumer waited is not in the trace" in said


def test_what_an_ideal_loader_saves_is_all_waits_but_the_first() -> None:
    counters = {
        "consumer_batches": 4,
        "consumer_wait_ns": 900,
        "consumer_think_ns": 100,
        "consumer_first_wait_ns": 200,
    }
    found = consumer(counters)
    assert found is not None
    assert found.saved_ns == 700
    assert consumer({}) is None


def test_names_are_text_wherever_they_stand(one: Path) -> None:
    page = one.read_text(encoding="utf-8")
    outside = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    assert "alert(1)" in outside
    assert (
        "<script>alert" not in outside
        and "<b>" not in outside
        and "\x1b" not in outside
        and "\u202e" not in outside
    )
    (text,) = re.findall(r'id="page-figures">(.*?)</script>', page, re.DOTALL)
    assert "</" not in text and "<script" not in json.dumps(json.loads(text))


@pytest.mark.parametrize("kind", list(EMPTY_KINDS))
def test_a_page_of_hardly_anything_says_so(tmp_path: Path, kind: str) -> None:
    page = page_of(written(tmp_path / "t", EMPTY_KINDS[kind]), tmp_path / "r.html")
    assert "Not shown, since the trace does not hold what they need" in page
    body = page.split('id="page-figures"')[0]
    assert "nan" not in re.sub(r"<[^>]*>", " ", body).lower().split()
    assert not re.search(
        r"\bNone\b(?! of)", re.sub(r"<style>.*?</style>|<[^>]*>", " ", body, flags=re.DOTALL)
    )
    for made in figures(page).values():
        assert made["data"]


ODD: dict[str, list[dict[str, Any]]] = {
    "one sample in the future": [*(op(i * 1000) for i in range(50)), op(10**17)],
    "negative times": [op(-(10**9) + i * 1000) for i in range(50)],
    "no time passed": [op(0, latency=0) for _ in range(30)],
    "never ended": [op(i * 1000, latency=None if i else 5, bytes=None if i else 4096) for i in range(50)],
    "huge names": [op(i * 1000, uri=f"file:///{'x' * 30_000}{i % 3}") for i in range(30)],
    "unicode": [op(i * 1000, uri=f"file:///ü/日本語/🙂\u202e{i % 3}\n<b>") for i in range(30)],
    "no workers": [op(i * 1000, rank=None, worker=None) for i in range(30)],
    "many ranks": [op(i * 1000, rank=i % 700, worker=i % 7, step=i // 10) for i in range(2100)],
    "many files": [op(i * 1000, uri=f"s3://b/{i}", op="get", offset=None) for i in range(20_000)],
}


@pytest.mark.parametrize("kind", list(ODD))
def test_the_panels_of_an_odd_trace_count_every_op_and_byte_as_a_query_does(
    tmp_path: Path, kind: str
) -> None:
    trace = written(tmp_path / "t", ODD[kind])
    found = snapshot(trace)
    sql = "SELECT count(*) AS ops, sum(bytes)::BIGINT AS moved, count(DISTINCT uri) AS files FROM ops"
    (row,) = open_trace(trace).query(sql).to_pylist()
    assert (found.ops, found.bytes, found.files) == (row["ops"], row["moved"], row["files"])
    with opened([("", trace)]) as sources:
        (kinds,) = listing("op-kinds", sources)
        (source,) = sources
        said = " ".join(paragraph(source, found))
        (made,) = drawn("throughput", sources)
        (rate,) = drawn("request-rate", sources)
        for shown in (made, rate, *drawn("timeline", sources), *drawn("rank-by-time", sources)):
            json.dumps(charts.figure(shown), allow_nan=False)
    column = {name: [line[i] for line in kinds.rows] for i, name in enumerate(kinds.columns)}
    assert (sum(column["ops"]), sum(column["moved_bytes"])) == (row["ops"], row["moved"])
    assert f"{row['ops']:,} ops" in said and f"{row['files']:,} file" in said
    assert "\u202e" not in banner("good", said)


def test_any_two_traces_fit_into_five_megabytes(tmp_path: Path) -> None:
    trace = written(tmp_path / "t", wide())
    page_of(trace, tmp_path / "r.html", against=trace)
    assert (tmp_path / "r.html").stat().st_size < MOST_BYTES


def test_contents_lead_to_every_panel_and_anchors_are_unique(two: Path) -> None:
    page = two.read_text(encoding="utf-8").split('id="page-figures"')[0]
    names = re.findall(r' id="([^"]+)"', page)
    assert len(names) == len(set(names))
    contents = page.split("<nav", 1)[1].split("</nav>", 1)[0]
    links = re.findall(r'href="#([^"]+)"', contents)
    assert set(links) <= set(names)
    assert set(re.findall(r'class="panel" id="([^"]+)"', page)) <= set(links)


@pytest.mark.parametrize("kind", list(KINDS))
def test_pictures_over_time_share_one_axis(trace: TraceReader, kind: str) -> None:
    for panel in panels([kind], [("a", trace), ("b", trace)]):
        assert panel.x.linked == ("time" in panel.x.title)
        assert not panel.x.linked or panel.x == picture_axis(trace)


def picture_axis(trace: TraceReader) -> Any:
    return panels(["throughput"], [("a", trace), ("b", trace)])[0].x


OVERLAPS = """
var found = [];
function boxes(inside) {
  return [...inside].filter(t => t.textContent.trim() && t.getClientRects().length && t.checkVisibility() && !t.closest(".hoverlayer, .modebar"))
    .map(t => [t.textContent.slice(0, 40), t.getBoundingClientRect()]);
}
function meet(name, some) {
  for (var i = 0; i < some.length; i++) for (var j = i + 1; j < some.length; j++) {
    var a = some[i][1], b = some[j][1];
    if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1.5)
      found.push(name + ": " + some[i][0] + " | " + some[j][0]);
  }
}
document.querySelectorAll(".chart").forEach(chart => {
  var own = chart.getBoundingClientRect(), some = boxes(chart.querySelectorAll("text"));
  some.filter(b => b[1].left < own.left - 1 || b[1].right > own.right + 1 || b[1].bottom > own.bottom + 1)
    .forEach(b => found.push(chart.id + ": outside: " + b[0]));
  meet(chart.id, some);
});
meet("text", boxes(document.querySelectorAll("main h1, main h2, main h3, main p, dt, dd, figcaption, summary"))
  .filter(b => b[1].width > 0));
return found;
"""


def load(browser: Any, page: Path, width: int, scheme: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(f"file://{page}")
    WebDriverWait(browser, 60).until(lambda b: b.execute_script("return document.body.dataset.drawn"))


@pytest.mark.parametrize("kind", ["two", "half known"])
def test_nothing_overlaps_and_the_page_never_scrolls_sideways(
    tmp_path: Path, browser: Any, two: Path, kind: str
) -> None:
    page = two
    if kind != "two":
        page = tmp_path / "r.html"
        report(written(tmp_path / "t", EMPTY_KINDS[kind]), page)
    for width, scheme in ((400, "light"), (1280, "dark")):
        load(browser, page, width, scheme)
        assert browser.execute_script("return document.scrollingElement.scrollWidth") <= width
        assert browser.execute_script(OVERLAPS) == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_tables_sort_and_filter_and_queries_are_copied_from_the_keyboard(
    browser: Any, one: Path, trace: TraceReader
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    load(browser, one, 1280, "light")
    table = browser.find_element(By.ID, "t-files")
    ops = next(head for head in table.find_elements(By.CSS_SELECTOR, "th .sort") if head.text == "ops")
    column = "return [...document.querySelectorAll('#t-files tbody tr:not([hidden])')].map(r => Number(r.cells[1].dataset.v))"
    for order, down in (("descending", True), ("ascending", False)):
        ops.send_keys(Keys.ENTER)
        assert ops.find_element(By.XPATH, "..").get_attribute("aria-sort") == order
        shown = browser.execute_script(column)
        assert shown == sorted(shown, reverse=down)
    everything = len(browser.execute_script(column))
    search = browser.find_element(By.CSS_SELECTOR, "#files input")
    search.send_keys("alert")
    left = len(browser.execute_script(column))
    assert 0 < left < everything
    assert browser.find_element(By.CSS_SELECTOR, "#files output").text == f"{left} of {everything} rows"
    summary = browser.find_element(By.CSS_SELECTOR, "#files details.sql summary")
    summary.send_keys(Keys.ENTER)
    # Headless Chromium has no clipboard permission to ask for: keep what the page hands to it.
    browser.execute_script(
        "navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve(); };"
    )
    browser.find_element(By.CSS_SELECTOR, "#files button.copy").send_keys(Keys.ENTER)
    copied = browser.execute_script("return window.copied")
    assert open_trace(trace).query(copied).num_rows == everything
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_zooming_one_picture_zooms_all_that_share_its_axis(browser: Any, one: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    load(browser, one, 1280, "light")
    browser.execute_script("Plotly.relayout('chart-throughput', {'xaxis.range': [10, 20]})")
    ranges = "return [...document.querySelectorAll('.chart')].filter(c => c.layout.meta.linked).map(c => c._fullLayout.xaxis.range.map(Number))"
    WebDriverWait(browser, 20).until(lambda b: all(r == [10, 20] for r in b.execute_script(ranges)))
    assert len(browser.execute_script(ranges)) >= 8
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
