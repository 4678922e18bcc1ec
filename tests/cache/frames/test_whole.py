"""Frames taken whole for the scan: told, and stopped, left out or kept; black ones and the phantom's are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from tests.cache.frames.test_regions import sector, speckled
from tests.support.builds import SMALL, small, tree
from tests.support.files.damage import flip
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import WholeFrameError
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.upkeep.repair import repair
from usjepa.cache.upkeep.status import status_report

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.recipe import Recipe

SETTINGS = ("cache.image_size=64", "cache.views.count=1")
STOP, SKIP, KEEP = (f"cache.preprocess.whole={what}" for what in ("stop", "skip", "keep"))


def write(path: Path, mask: np.ndarray, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), speckled(mask, seed=seed, low=20, high=90))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sector, a frame of echo to its edges, and a black one."""
    write(tmp_path / "in/a.png", sector())
    write(tmp_path / "in/b.png", np.ones((240, 240), bool), 1)
    cv2.imwrite(str(tmp_path / "in/c.png"), np.zeros((240, 240), np.uint8))
    return tmp_path / "in"


def made(tmp_path: Path, folder: Path, recipe: Recipe) -> str:
    store = str(tmp_path / "s")
    build(store, recipe, BuildRequest(source=str(folder), on_error="skip"))
    return store


@pytest.mark.parametrize("name", ["us-jepa", "usrc-jepa"])
def test_the_recipes_of_the_paper_stop_and_name_the_frame_and_what_to_do(
    tmp_path: Path, folder: Path, name: str
) -> None:
    recipe = load_recipe(name, ("cache.image_size=64", "cache.teacher.patch_size=16"))
    with pytest.raises(
        WholeFrameError, match=r"b\.png: frame 0 is taken whole .*whole=keep .*column `region`.*whole=skip"
    ):
        made(tmp_path, folder, recipe)


def test_the_demo_keeps_them_and_counts_and_names_them(tmp_path: Path, folder: Path, said: list[str]) -> None:
    store = made(tmp_path, folder, small(*SETTINGS))
    assert len(open_store(store)) == 3
    (told,) = [text for text in said if "more of the screen" in text]
    assert "1 of 3 rows may show" in told
    assert "row 1: b.png, frame 0: taken whole for the scan" in told
    assert "rows that may show more than the scan: 1, of these 0 left out" in status_report(store)


def test_they_are_left_out_and_told(tmp_path: Path, folder: Path) -> None:
    store = made(tmp_path, folder, small(*SETTINGS, SKIP))
    assert open_store(store).rows.tolist() == [0, 2]
    assert "rows that may show more than the scan: 1, of these 1 left out" in status_report(store)
    assert "failed: none" in status_report(store)


def test_without_deidentify_there_is_nothing_to_hide(tmp_path: Path, folder: Path) -> None:
    store = made(tmp_path, folder, small(*SETTINGS, STOP, "cache.preprocess.deidentify=false"))
    assert len(open_store(store)) == 3
    assert "more than the scan" not in status_report(store)


def test_a_black_frame_is_blank_and_hides_nothing(tmp_path: Path, folder: Path) -> None:
    (folder / "b.png").unlink()
    store = made(tmp_path, folder, small(*SETTINGS, STOP))
    assert len(open_store(store)) == 2
    assert "blank rows: 1" in status_report(store)
    assert "more than the scan" not in status_report(store)


def test_a_frame_whose_region_is_given_is_not_taken_whole(tmp_path: Path, folder: Path) -> None:
    cv2.imwrite(str(folder / "all.png"), np.full((240, 240), 255, np.uint8))
    (folder / "manifest.csv").write_text("path,region\nb.png,all.png\n")
    store = made(tmp_path, folder / "manifest.csv", small(*SETTINGS, STOP))
    assert len(open_store(store)) == 1
    assert "more than the scan" not in status_report(store)


def test_the_phantom_goes_on_without_a_word(tmp_path: Path, said: list[str]) -> None:
    """Of 12 patients with 64 pixels, several frames have no border that is dark."""
    recipe = load_recipe("demo", (*SMALL, *SETTINGS, STOP, "cache.phantom.patients=12"))
    build(str(tmp_path / "s"), recipe)
    assert not [text for text in said if "more of the screen" in text]
    assert "more than the scan" not in status_report(str(tmp_path / "s"))


def test_another_rule_later_stops_no_repair_of_rows_that_were_kept(tmp_path: Path, folder: Path) -> None:
    store = made(tmp_path, folder, small(*SETTINGS, KEEP))
    before = tree(tmp_path / "s")
    flip(tmp_path / "s/pixels/c.0.0.0.0", 700)
    strict = small(*SETTINGS, STOP, "cache.on_blank=stop")
    assert repair(store, strict, source=str(folder)).left == []
    assert tree(tmp_path / "s")["pixels/c.0.0.0.0"] == before["pixels/c.0.0.0.0"]


def test_a_build_that_stopped_goes_on_once_the_rule_is_another(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(WholeFrameError):
        made(tmp_path, folder, small(*SETTINGS, STOP))
    resumed = made(tmp_path, folder, small(*SETTINGS, KEEP))
    assert len(open_store(resumed)) == 3
    (tmp_path / "b").mkdir()
    made(tmp_path / "b", folder, small(*SETTINGS, KEEP))
    assert tree(tmp_path / "b/s") == tree(tmp_path / "s")
