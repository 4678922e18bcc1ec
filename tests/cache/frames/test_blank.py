"""Black says so: frames that show no echo are counted and named, and kept, left out or refused as the recipe says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from tests.support.builds import small, tree
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import BlankError
from usjepa.cache.frames.blank import why_blank
from usjepa.cache.frames.regions import find_region, rough_region
from usjepa.cache.reading.store import open_store
from usjepa.cache.scanning.scan import scan_report
from usjepa.cache.upkeep.stats import stats
from usjepa.cache.upkeep.status import status_report
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

ECHO = np.random.default_rng(0).integers(20, 255, (96, 128), dtype=np.uint8)


def levels(count: int) -> NDArray[np.uint8]:
    return (np.arange(96 * 128).reshape(96, 128) % count * 30).astype(np.uint8)


def form() -> NDArray[np.uint8]:
    """Return a page of text in many greys: nothing in it is densely lit."""
    page = np.zeros((96, 128), np.uint8)
    for row in range(4, 96, 12):
        for column in range(4, 120, 14):
            page[row, column : column + 3] = 60 + (row + column) % 180
    return page


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        pytest.param(np.zeros((96, 128), np.uint8), "one colour", id="black"),
        pytest.param(np.full((96, 128), 200, np.uint8), "one colour", id="white"),
        pytest.param(np.full((96, 128, 3), (250, 0, 0), np.uint8), "one colour", id="red"),
        pytest.param(levels(2), "2 levels", id="a mask"),
        pytest.param(levels(7), "7 levels", id="a label map"),
        pytest.param(np.stack([levels(3)] * 3, -1), "3 levels", id="a label map in colour"),
        pytest.param(form(), "scan region of 0.0%", id="a form"),
        pytest.param(levels(8), "", id="8 levels"),
        pytest.param(ECHO, "", id="echo"),
    ],
)
def test_frames_that_show_no_echo_are_told(frame: NDArray[np.uint8], why: str) -> None:
    assert why_blank(frame, find_region(frame).mask) == why
    assert why_blank(frame, rough_region(frame)) == why


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of three frames with echo and three without."""
    root = tmp_path / "clinic"
    root.mkdir()
    frames = {
        "echo1": ECHO,
        "black": ECHO * 0,
        "echo2": ECHO[::-1],
        "form": form(),
        "few": levels(4),
        "echo3": 255 - ECHO,
    }
    for name, frame in frames.items():
        cv2.imwrite(str(root / f"{name}.png"), frame)
    return root


BLANK = ["black.png, frame 0: one colour", "few.png, frame 0: 4 levels", "form.png, frame 0: scan region of 0.0%"]


def test_a_scan_counts_and_names_them(folder: Path) -> None:
    report = scan_report(str(folder), small())
    assert "of 6 looked at: 3\n  black.png: frame 0 (one colour)\n  few.png: frame 0 (4 levels)\n  form.png" in report


def test_a_build_keeps_them_and_says_so_and_status_and_stats_name_them(
    tmp_path: Path, folder: Path, said: list[str]
) -> None:
    store = str(tmp_path / "s")
    recipe = small("cache.views.count=1")
    assert recipe.cache.on_blank == "keep"
    build(store, recipe, BuildRequest(str(folder), teacher="random"))
    (told,) = [text for text in said if "show no echo" in text]
    assert told.startswith("3 of 6 rows show no echo (cache.on_blank: keep, skip or stop)")
    assert len(open_store(store)) == 6
    for report in (told, status_report(store), str(stats(store))):
        for what in BLANK[:2]:
            assert what.split(":")[0] in report
    assert "blank rows: 3, of these 0 left out" in status_report(store)
    assert "failed: none" in status_report(store)
    assert all(what in status_report(store) for what in BLANK)
    assert "rows that show no echo: 3" in str(stats(store))
    assert verify(store).damages == []


def test_a_build_leaves_them_out_and_records_why(tmp_path: Path, folder: Path) -> None:
    store, recipe = str(tmp_path / "s"), small("cache.views.count=1", "cache.on_blank=skip")
    build(store, recipe, BuildRequest(str(folder), teacher="random"))
    opened = open_store(store)
    assert {opened.table.origin(place).source.path for place in range(len(opened))} == {
        f"echo{i}.png" for i in (1, 2, 3)
    }
    report = status_report(store)
    assert "blank rows: 3, of these 3 left out" in report
    assert "failed: none" in report
    assert "rows that show no echo: 0" in str(stats(store))
    again = str(tmp_path / "again")
    for part in ("1/2", "2/2"):
        build(again, recipe, BuildRequest(str(folder), teacher="random", part=part))
    assert tree(tmp_path / "again") == tree(tmp_path / "s")


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_build_stops_at_the_first_and_names_it(tmp_path: Path, folder: Path, on_error: str) -> None:
    recipe = small("cache.views.count=1", "cache.on_blank=stop", f"cache.on_error={on_error}")
    with pytest.raises(BlankError, match=r"black\.png: frame 0 shows no echo \(one colour\)\. .* cache\.on_blank=skip"):
        build(str(tmp_path / "s"), recipe, BuildRequest(str(folder)))


def test_a_store_without_blank_rows_says_none_and_records_nothing(tmp_path: Path, small_store: Path) -> None:
    assert "blank" not in status_report(str(small_store))
    assert not any(b'"blank"' in content for name, content in tree(small_store).items() if name.startswith("commits"))
