"""The page in a browser: it filters, sorts, answers clicks and keys, fetches nothing, and fits a phone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.cache.inspecting.looked import DIM, EDGE, SIZE, TOKENS, speckle, write_looked
from tests.support.labelled import File
from tests.support.processes.browser import Seen, find_browser, look
from usjepa.cache.inspecting.page import PAGE, write_page

if TYPE_CHECKING:
    from pathlib import Path

DESKTOP, PHONE = 1280, 390
EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
ROWS = 24
LABELS = ("none", "cyst", EVIL)

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SHOWN = "cards.filter(card => !card.hidden && card.offsetParent).map(card => Number(card.id.slice(1)))"
ORDER = "[...list.children].map(card => Number(card.id.slice(1)))"
NEAR = """({shown: !near.hidden, said: asked.textContent,
  rows: [...nearest.children].map(item => item.textContent), pictures: nearest.querySelectorAll('img').length,
  fits: near.getBoundingClientRect().bottom <= innerHeight + 1 && near.getBoundingClientRect().top > 0,
  boxes: document.querySelectorAll('.card .box').length})"""
PICK = """(() => { const select = document.querySelector('[data-filter="%s"]');
  select.selectedIndex = [...select.options].findIndex(option => option.textContent.startsWith('%s'));
  select.dispatchEvent(new Event('change', {bubbles: true})); return select.selectedIndex; })()"""
SORT = "sort.value = '%s'; sort.dispatchEvent(new Event('change', {bubbles: true})); " + ORDER
CLICK = """(() => { const frame = document.querySelector('#r%d .frame'); frame.scrollIntoView({block: 'center'});
  const box = frame.getBoundingClientRect();
  const at = {clientX: box.left + box.width * %g, clientY: box.top + box.height * %g};
  frame.dispatchEvent(new MouseEvent('click', {bubbles: true, detail: 1, ...at})); return true; })()"""
KEY = """(() => { const target = document.activeElement; target.dispatchEvent(
  new KeyboardEvent('keydown', {key: '%s', bubbles: true, cancelable: true})); return target.className; })()"""
SCRIPTS = {
    "overflow": OVERFLOW,
    "images": "[...document.images].map(image => image.complete && image.naturalWidth > 0)",
    "title": "document.title",
    "first": SHOWN,
    "cysts": PICK % ("label", "cyst") + ", " + SHOWN,
    "cysts in test": PICK % ("split", "test") + ", " + SHOWN,
    "of one patient": PICK % ("group", "patient-2 ") + ", " + SHOWN,
    "count": "document.getElementById('count').textContent + document.getElementById('none').hidden",
    "none": PICK % ("dataset", "liver") + ", " + SHOWN,
    "nothing fits": "document.getElementById('none').hidden",
    "again": "document.getElementById('reset').click(), " + SHOWN,
    "only duplicates": PICK % ("flag", "near-dup") + ", " + SHOWN,
    "reset": "showAll()",
    **{f"sorted by {key}": SORT % key for key in ("doubtful", "blank", "duplicate", "outlier", "row", "")},
    "click": CLICK % (9, 0.6, 0.1),
    "near": NEAR,
    "overflow with neighbours": OVERFLOW,
    "outside": (CLICK % (9, 0.6, 0.9)) + ", " + NEAR,
    "tab": "document.querySelector('#r4 .frame').focus()",
    "left": KEY % "ArrowLeft",
    "and left": KEY % "ArrowLeft",
    "up": KEY % "ArrowUp",
    "by keys": NEAR,
    "by a button": "near.querySelector('[data-key=ArrowRight]').click(), " + NEAR,
    "go there": "nearest.children[1].querySelector('button').click(), " + NEAR,
    "escape": KEY % "Escape",
    "closed": NEAR,
    "region off": "document.getElementById('region').click(), "
    "getComputedStyle(document.querySelector('.region')).display",
    "folds": "document.querySelectorAll('details').forEach(one => one.open = true), " + OVERFLOW,
    "names": "[...document.querySelectorAll('button, select, input')].filter(one => !one.labels?.length"
    " && !one.textContent.trim() && !one.querySelector('img[alt]:not([alt=\"\"])')).length",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rows of 8 patients in two datasets; one doubtful, one blank, two alike, one far from all."""
    files = [
        File(LABELS[i % 3], f"patient-{i // 3} ", "test" if i // 3 % 2 else "train", "liver" if i < 6 else "breast")
        for i in range(ROWS)
    ]
    pixels, rng = speckle(ROWS), np.random.default_rng(0)
    pixels[8], pixels[14] = 5, pixels[9]
    latents = rng.normal(size=(ROWS, TOKENS, DIM)).astype("f4")
    latents[20] = 9 * np.sign(latents[20, 0])
    cells = np.zeros((ROWS, SIZE // 2, SIZE // 2), bool)
    cells[:, :8] = True  # the upper half
    folder = tmp_path_factory.mktemp("looked")
    write_looked(
        folder / "s", files, pixels=pixels, latents={"toy": latents}, doubtful={5: EVIL},
        regions=np.packbits(cells.reshape(ROWS, -1), axis=1), paths=[f"{EVIL}{i}.png" for i in range(ROWS)],
    )  # fmt: skip
    write_page(str(folder / "s"), str(folder / "page"))
    return folder


@pytest.fixture(scope="module")
def seen(store: Path) -> dict[int, Seen]:
    find_browser()
    page, scripts = store / "page" / PAGE, list(SCRIPTS.values())
    return {width: look(page, scripts, width, dark=width == PHONE) for width in (DESKTOP, PHONE)}


def said(seen: dict[int, Seen], name: str) -> Any:
    """Return what a script gave, the same at both widths."""
    place = list(SCRIPTS).index(name)
    desktop, phone = (seen[width].answers[place] for width in (DESKTOP, PHONE))
    assert desktop == phone
    return desktop


def test_nothing_fails_and_nothing_but_the_file_is_fetched(seen: dict[int, Seen]) -> None:
    for one in seen.values():
        assert one.trouble == []
        assert [place for place in one.requested if not place.startswith("data:")] == [one.requested[0]]
        assert one.requested[0].startswith("file:")


def test_a_name_that_is_a_script_does_nothing(seen: dict[int, Seen]) -> None:
    assert said(seen, "title") == "s: rows"


def test_pictures_are_there_and_no_width_scrolls_sideways(seen: dict[int, Seen]) -> None:
    assert all(said(seen, "images"))
    for name in ("overflow", "overflow with neighbours", "folds"):
        assert said(seen, name) == 0


def test_what_needs_a_look_comes_first(seen: dict[int, Seen]) -> None:
    first = said(seen, "first")
    assert sorted(first) == list(range(ROWS))
    assert first[:2] == [5, 8]
    assert set(first[2:4]) == {9, 14}
    assert first[4] == 20


def test_filters_join_and_can_all_be_taken_back(seen: dict[int, Seen]) -> None:
    cysts = [n for n in said(seen, "first") if n % 3 == 1]
    assert said(seen, "cysts") == cysts
    assert said(seen, "cysts in test") == [n for n in cysts if n // 3 % 2]
    assert said(seen, "of one patient") == []  # patient 2 is in training
    assert said(seen, "count") == "0 of 24 rowsfalse"
    assert said(seen, "none") == []
    assert said(seen, "nothing fits") is False
    assert said(seen, "again") == said(seen, "first")
    assert said(seen, "only duplicates") in ([9, 14], [14, 9])


def test_rows_are_sorted_by_what_is_asked(seen: dict[int, Seen]) -> None:
    assert said(seen, "sorted by doubtful")[0] == 5
    assert said(seen, "sorted by blank")[0] == 8
    assert set(said(seen, "sorted by duplicate")[:2]) == {9, 14}
    assert said(seen, "sorted by outlier")[0] == 20
    assert said(seen, "sorted by row") == list(range(ROWS))
    assert said(seen, "sorted by ") == said(seen, "first")


def test_a_click_shows_the_nearest_patches_of_other_patients(store: Path, seen: dict[int, Seen]) -> None:
    found = said(seen, "near")
    assert found["shown"]
    assert found["fits"]
    assert found["said"].startswith("Row 9, patch 3 across, 1 down: the nearest patches of other patients")
    assert found["boxes"] == 2
    assert found["pictures"] == 14
    assert found["rows"][0].startswith("asked: row 9 ")
    from usjepa.cache.reading.store import open_store

    others = [int(text.partition("row ")[2].partition(" ")[0]) for text in found["rows"][1:]]
    assert len({row // 3 for row in others} - {3}) == len(others) == 6
    latents = open_store(store / "s").read(range(ROWS)).targets().numpy()[:, : TOKENS // 2]
    flat = latents.reshape(-1, DIM)
    unit = (latents - flat.mean(axis=0)) / flat.std(axis=0)
    unit /= np.linalg.norm(unit, axis=2, keepdims=True)
    cosines = unit @ unit[9, 2]
    cosines[9:12] = -2
    assert others[0] == cosines.max(axis=1).argmax()
    assert abs(float(found["rows"][1].split(" ")[0]) - cosines.max()) < 0.02


def test_outside_the_region_nothing_is_compared(seen: dict[int, Seen]) -> None:
    found = said(seen, "outside")
    assert "outside the scan region" in found["said"]
    assert len(found["rows"]) == 1


def test_a_patch_can_be_chosen_with_keys_and_left_with_escape(seen: dict[int, Seen]) -> None:
    assert said(seen, "left") == "picture frame"
    middle = EDGE // 2 + 1
    assert said(seen, "by keys")["said"].startswith(f"Row 4, patch {middle - 1} across, {middle - 1} down: the")
    assert said(seen, "by a button")["said"].startswith(f"Row 4, patch {middle} across, {middle - 1} down: the")
    assert said(seen, "by a button")["fits"]
    assert said(seen, "go there")["rows"][0] != said(seen, "by a button")["rows"][0]
    closed = said(seen, "closed")
    assert not closed["shown"]
    assert closed["boxes"] == 0


def test_the_region_can_be_taken_off_and_every_control_has_a_name(seen: dict[int, Seen]) -> None:
    assert said(seen, "region off") == "none"
    assert said(seen, "names") == 0


def test_without_its_own_script_the_rows_are_still_there(store: Path, tmp_path: Path) -> None:
    """Its policy runs no script but the one that it names: of another one nothing is run, and the frames are shown."""
    find_browser()
    html = (store / "page" / PAGE).read_text().replace('"use strict";', '"use strict"; document.title = "changed";')
    (tmp_path / PAGE).write_text(html)
    one = look(tmp_path / PAGE, ["[document.title, document.querySelectorAll('.card').length]"], PHONE)
    assert json.dumps(one.answers[0]) == '["s: rows", 24]'
    assert any("Content Security Policy" in trouble for trouble in one.trouble)
