"""The page on paper: in Chromium, printed from a dark screen."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from test_page import OVERLAPS, load, varied, written

from tracekit.reporting.page import report

PAPER = 703
"""Pixels between the margins of A4 at 96 to the inch."""
LOOKS = """
var found = [];
function dark(colour) {
  var part = colour.match(/[\\d.]+/g).map(Number);
  return (part.length < 4 || part[3] > 0.1) && 0.299 * part[0] + 0.587 * part[1] + 0.114 * part[2] < 110;
}
document.querySelectorAll("body, main, main *").forEach(e => {
  if (!e.checkVisibility()) return;
  var style = getComputedStyle(e), box = e.getBoundingClientRect(), name = e.tagName + " " + (e.id || e.className.baseVal || e.className);
  if (dark(style.backgroundColor) && !e.closest("canvas")) found.push("dark: " + name);
  var own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (own && !dark(e.closest("svg") ? style.fill : style.color) && !e.closest(".fail, .pass, button, dt, dd span, th, figcaption, p.about, footer, summary, .hoverlayer"))
    found.push("pale: " + name + " " + (e.closest("svg") ? style.fill : style.color));
  if (box.width && (box.left < -1 || box.right > innerWidth + 1) && !e.closest("pre, .modebar-container, clipPath, defs")) found.push("cut: " + name + " " + box.right);
  if (["auto", "scroll", "hidden"].includes(style.overflowY) && e.scrollHeight > e.clientHeight + 1 && !e.closest("svg")) found.push("hidden: " + name);
});
return found;
"""


def on_paper(browser: Any) -> None:
    """Show the page as it is printed."""
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": PAPER, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    wide = "return Math.max(...[...document.querySelectorAll('.svg-container')].map(e => e.getBoundingClientRect().right))"
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(wide) <= PAPER)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    trace = written(folder / "run.trace", varied())
    report(trace, folder / "r.html", against=trace)
    return folder / "r.html"


def test_on_paper_nothing_is_dark_pale_cut_or_hidden(browser: Any, page: Path) -> None:
    load(browser, page, 1280, "dark")
    on_paper(browser)
    try:
        assert browser.execute_script(LOOKS) == []
        assert browser.execute_script(OVERLAPS) == []
        shown = "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).length"
        assert browser.execute_script(shown, "nav, .sql, .filter") == 0
        assert browser.execute_script(shown, "section.panel") > 20
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_charts_keep_their_heights_when_the_window_changes(browser: Any, page: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    load(browser, page, 1280, "light")
    heights = "return [...document.querySelectorAll('.chart')].map(e => [e.clientHeight, e.querySelector('.main-svg').clientHeight])"
    before = browser.execute_script(heights)
    size = {"width": 700, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wide = "return Math.max(...[...document.querySelectorAll('.chart .main-svg')].map(e => e.getBoundingClientRect().right))"
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(wide) <= 700)
    assert browser.execute_script(heights) == before
    assert browser.execute_script(OVERLAPS) == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_printed_page_has_charts_of_the_width_of_the_paper_and_gets_its_own_back(
    browser: Any, page: Path
) -> None:
    load(browser, page, 1280, "dark")
    widths = (
        "return [...document.querySelectorAll('.svg-container')].map(e => e.getBoundingClientRect().width)"
    )
    before = browser.execute_script(widths)
    browser.execute_script(
        "window.addEventListener('beforeprint', () => { window.printed = "
        "[...document.querySelectorAll('.svg-container')].map(e => parseFloat(e.style.width)); });"
    )
    made = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    pdf = base64.b64decode(made["data"])
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) > 5
    assert set(browser.execute_script("return window.printed")) == {680}
    assert browser.execute_script(widths) == before
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
