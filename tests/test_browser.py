"""The report in a real browser: no complaint, nothing fetched, nothing missing or cut off, on desktop and phone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser import NEEDED, Browser, chromium
from tests.test_report import CSV, curve, document, examples
from usjepa.evaluate.report import render

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DESKTOP, PHONE = 1200, 375
CLASSES = ("chocolate cyst", "serous cystadenoma", "teratoma", "theca cell tumour", "simple cyst", "normal ovary")

BROKEN_IMAGES = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
INVISIBLE = """[...document.querySelectorAll('svg, table, img, h1, h2, h3, figcaption')].filter(e => {
  const box = e.getBoundingClientRect(); return !box.width || !box.height; }).map(e => e.outerHTML.slice(0, 80))"""
CUT_TEXT = """[...document.querySelectorAll('svg[role=img]')].flatMap(s => [...s.querySelectorAll('text')].filter(t => {
  const box = t.getBBox(), view = s.viewBox.baseVal;
  return box.x < 0 || box.y < 0 || box.x + box.width > view.width || box.y + box.height > view.height;
}).map(t => t.textContent))"""
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PARTS = "[...document.querySelectorAll('h2, h3')].map(e => e.textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = document("ovary", CLASSES)
    made["encoders"]["teacher"]["title"] = "Its teacher (random weights)"
    made["encoders"]["hog"]["title"] = "An encoder of a remarkably long name, vit_huge_patch14_clip_quickgelu_378"
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render(made, curve(), examples("ovary"), CSV))
    return path


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_page_opens_without_complaint_and_nothing_is_missing_or_cut(
    browser: Browser, page: Path, width: int
) -> None:
    browser.open(page, width)
    assert browser.complaints() == []
    assert browser.requested() == [page.as_uri()]
    assert browser.run("document.images.length") == 12
    assert browser.run("document.querySelectorAll('svg[role=img]').length") >= 6
    assert browser.run(BROKEN_IMAGES) == 0
    assert browser.run(INVISIBLE) == []
    assert browser.run(CUT_TEXT) == []
    assert browser.run(TOO_WIDE) <= 0  # wide tables scroll within themselves
    assert browser.run("parseFloat(getComputedStyle(document.body).fontSize)") >= 16
    parts = browser.run(PARTS)
    for part in (
        "Scores",
        "Which differences are real",
        "With few labels",
        "On corrupted frames",
        "All tasks together",
    ):
        assert part in parts
    assert browser.run("atob(document.querySelector('a[download]').href.split(',')[1])") == CSV.decode()


def test_the_page_prints_to_paper_of_its_width(browser: Browser, page: Path) -> None:
    browser.open(page, DESKTOP)
    browser.ask("Emulation.setEmulatedMedia", media="print")
    browser.ask("Emulation.setDeviceMetricsOverride", width=718, height=1000, deviceScaleFactor=1, mobile=False)
    assert browser.run("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert browser.run(INVISIBLE) == []
    printed = browser.ask("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"]
    browser.ask("Emulation.setEmulatedMedia", media="")
    assert len(printed) > 20_000
    assert browser.complaints() == []


def test_a_page_with_faults_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<!doctype html><body><img src="gone.png"><table></table>'
        '<svg role="img" viewBox="0 0 50 50"><text x="-40" y="20">cut</text></svg>'
        '<div style="width: 3000px">wide</div><script>console.error("no"); missing()</script></body>'
    )
    browser.open(bad, DESKTOP)
    kinds = {event["method"] for event in browser.complaints()}
    assert {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Network.loadingFailed"} <= kinds
    assert browser.run(BROKEN_IMAGES) == 1
    assert browser.run(CUT_TEXT) == ["cut"]
    assert browser.run(INVISIBLE)
    assert browser.run(TOO_WIDE) > 0


def test_where_a_browser_is_promised_its_absence_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(NEEDED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Chromium found"):
        chromium()
    monkeypatch.setenv(NEEDED, "1")
    with pytest.raises(pytest.fail.Exception, match="promises one"):
        chromium()
