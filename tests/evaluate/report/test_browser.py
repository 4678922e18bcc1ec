"""Claims about the report in a browser: nothing is fetched, nothing fails, nothing is cut off, on desktop and phone."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support.documents import add_attentive, add_regression, document, examples, first_frames, page
from tests.support.processes.browser import NEEDED, Seen, find_browser, look
from tests.support.processes.layout import DESKTOP, PHONE, SCRIPTS

if TYPE_CHECKING:
    from pathlib import Path

FIRST = """['.answer', '.dots svg', '.trio img'].map(
  name => document.querySelector(name).getBoundingClientRect().top + window.scrollY)"""
SIDE = """(() => {
  const [nav, main] = ['nav', 'main'].map(name => document.querySelector(name).getBoundingClientRect());
  const links = [...document.querySelectorAll('nav a')];
  return {beside: nav.right <= main.left, above: nav.bottom <= main.top + 1, height: nav.height,
    dead: links.filter(link => !document.querySelector(link.getAttribute('href'))).length,
    low: Math.min(...links.map(link => link.getBoundingClientRect().height))};
})()"""
FOLD = """(() => {
  const folds = [...document.querySelectorAll('details')], closed = folds.every(fold => !fold.open);
  const height = document.body.scrollHeight;
  folds[0].querySelector('summary').click();
  const opened = document.body.scrollHeight > height + 50;
  folds[0].open = false;
  return [closed, opened];
})()"""
LONG = tuple(f"a rather long name of finding number {n}" for n in range(9))


def numbers() -> dict[str, Any]:
    """Return a document of classes and of a number in the thousands, its encoders far apart and its names long."""
    rng = np.random.default_rng(0)
    truth = 2500 + 900 * rng.standard_normal(700)
    said = {
        key: truth + 300 * (1 + i) * rng.standard_normal(700) for i, key in enumerate(("student", "teacher", "hog"))
    }
    name = "a rather long name of a dataset: estimated fetal weight"
    return add_regression(document(), truth, said, np.arange(700) // 7, name, "g")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Seen]:
    """Open three pages, of few classes, of many with long names, and of numbers, at both widths."""
    find_browser()
    found = {}
    for name, made in (("few", document()), ("many", document(classes=LONG)), ("numbers", numbers())):
        made["encoders"]["teacher"]["title"] = "Its teacher (random weights)"
        add_attentive(made, *made["scores"][:3])
        made["encoders"]["hog"]["title"] = "vit_base_patch16_dinov3_qkvb.lvd1689m"
        for width in (DESKTOP, PHONE):
            place = tmp_path_factory.mktemp("page") / "index.html"
            place.write_text(page(made, first=first_frames()))
            found[name, width] = look(place, [*SCRIPTS, FIRST, SIDE, FOLD], width, dark=width == PHONE)
    return found


def each(seen: dict[tuple[str, int], Seen], number: int) -> dict[tuple[str, int], Any]:
    """Return what a script gave on every page."""
    return {key: one.answers[number] for key, one in seen.items()}


def test_nothing_fails_and_nothing_but_the_file_is_fetched(seen: dict[tuple[str, int], Seen]) -> None:
    for one in seen.values():
        assert one.trouble == []
        assert [place for place in one.requested if not place.startswith("data:")] == [one.requested[0]]
        assert one.requested[0].startswith("file:")


def test_every_picture_is_there(seen: dict[tuple[str, int], Seen]) -> None:
    for pictures in each(seen, 1).values():
        assert len(pictures) == len(examples()) + 2 * len(first_frames())
        assert all(complete and width > 0 for complete, width in pictures)


def test_the_first_screen_answers(seen: dict[tuple[str, int], Seen]) -> None:
    for (name, width), (sentence, chart, frames) in each(seen, 5).items():
        assert sentence < 320
        assert sentence < chart < frames
        if (name, width) == ("few", DESKTOP):
            assert chart < 500
            assert frames < 900  # the height of the screen


def test_the_navigation_stands_at_the_side_or_as_a_strip_above_and_leads_somewhere(
    seen: dict[tuple[str, int], Seen],
) -> None:
    for (_, width), side in each(seen, 6).items():
        assert side["dead"] == 0
        assert side["above" if width == PHONE else "beside"]
        if width == PHONE:
            assert side["height"] < 80
            assert side["low"] >= 40  # for a finger


def test_explanations_are_closed_until_they_are_asked_for(seen: dict[tuple[str, int], Seen]) -> None:
    assert set(map(tuple, each(seen, 7).values())) == {(True, True)}


def test_the_page_never_scrolls_sideways(seen: dict[tuple[str, int], Seen]) -> None:
    assert set(each(seen, 0).values()) == {0}


def test_no_text_of_a_figure_is_cut_off_or_lies_on_another(seen: dict[tuple[str, int], Seen]) -> None:
    assert {key: texts for key, texts in each(seen, 2).items() if texts} == {}
    assert {key: texts for key, texts in each(seen, 3).items() if texts} == {}


def test_text_of_figures_can_be_read_on_a_phone(seen: dict[tuple[str, int], Seen]) -> None:
    assert min(each(seen, 4).values()) >= 8.5  # CSS pixels


def test_the_page_is_drawn_in_light_and_dark_and_prints(seen: dict[tuple[str, int], Seen]) -> None:
    for (_, width), one in seen.items():
        picture = np.asarray(Image.open(io.BytesIO(one.screenshot)).convert("L"))
        assert picture.shape[1] == width
        assert picture.shape[0] > 2000
        paper = np.median(picture)
        assert paper < 60 if width == PHONE else paper > 200
        assert picture.std() > 10
        assert one.pdf.startswith(b"%PDF")


def test_the_checks_see_a_page_that_is_broken(tmp_path: Path) -> None:
    find_browser()
    place = tmp_path / "index.html"
    text = '<text x="-30" y="15">cut off</text><text x="-28" y="15">on</text>'
    text = f'<svg viewBox="0 0 100 20" aria-label="f">{text}</svg>'
    place.write_text(
        f'<img src="gone.png" width="5"><div style="width: 3000px">wide</div>{text}<script>nope()</script>'
    )
    one = look(place, SCRIPTS, DESKTOP)
    overflow, images, cut_off, overlap, _ = one.answers
    assert overflow > 0
    assert images == [[True, 0]]
    assert cut_off == ["f: cut off", "f: on"]
    assert overlap == ["f: cut off | on"]
    assert len(one.trouble) >= 2
    assert any("gone.png" in place for place in one.requested)


def test_a_browser_that_is_needed_and_not_there_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(NEEDED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt install chromium"):
        find_browser()
    monkeypatch.setenv(NEEDED, "1")
    with pytest.raises(pytest.fail.Exception, match="must be here"):
        find_browser()
