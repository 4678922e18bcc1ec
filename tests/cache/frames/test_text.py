"""Marks that look like text in a region: found, told, and stopped, left out, painted over or kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from tests.cache.frames.test_regions import sector, speckled
from tests.support.builds import SMALL, small
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.errors import HoleError, TextError
from usjepa.cache.frames.layers import pixel_layers
from usjepa.cache.frames.text import find_text, paint_over
from usjepa.cache.reading.store import open_store
from usjepa.cache.upkeep.status import status_report

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FULL = np.ones((240, 320), bool)


def named(level: int = 255, at: tuple[int, int] = (60, 120), words: str = "DOE^JANE") -> NDArray[np.uint8]:
    """Echo to the edges with a name burned in over it."""
    frame = speckled(FULL, low=20, high=90)
    cv2.putText(frame, words, at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, level, 1)
    return frame


@pytest.mark.parametrize("words", ["DOE^JANE", "1970-01-01", "Smith, John", "ID 4711-0815"])
@pytest.mark.parametrize(("low", "level"), [(10, 255), (150, 0)])
def test_a_name_a_date_and_a_number_look_like_text(words: str, low: int, level: int) -> None:
    frame = speckled(FULL, low=low, high=low + 60)
    cv2.putText(frame, words, (60, 120), cv2.FONT_HERSHEY_SIMPLEX, 0.6, level, 1)
    assert find_text(frame, FULL)
    assert find_text(np.repeat(frame[..., None], 3, 2), FULL)


def test_text_outside_the_region_is_no_concern() -> None:
    region = FULL.copy()
    region[:130] = False
    assert not find_text(named(), region)


@pytest.mark.parametrize("seed", range(4))
def test_speckle_calipers_and_rulers_do_not_look_like_text(seed: int) -> None:
    frame = speckled(FULL, seed=seed, low=0, high=255)
    for place in range(20, 220, 12):
        cv2.line(frame, (300, place), (306, place), 255, 1)
    for x, y in ((80, 60), (150, 160)):
        cv2.drawMarker(frame, (x, y), 255, cv2.MARKER_CROSS, 9)
    assert not find_text(frame, FULL)


def test_text_that_is_painted_over_is_gone() -> None:
    painted = paint_over(named(), find_text(named(), FULL))
    assert not find_text(painted, FULL)
    assert painted[100:124, 50:180].max() < 200
    assert np.array_equal(painted[:90], named()[:90])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A frame with a name over the echo, one of echo to its edges, and a sector."""
    root = tmp_path / "in"
    root.mkdir()
    cv2.imwrite(str(root / "a.png"), named())
    cv2.imwrite(str(root / "b.png"), speckled(FULL, low=20, high=90))
    cv2.imwrite(str(root / "c.png"), speckled(sector()))
    return root


def made(tmp_path: Path, folder: Path, *sets: str) -> str:
    store = str(tmp_path / "s")
    recipe = small("cache.image_size=64", "cache.views.count=1", *sets)
    build(store, recipe, BuildRequest(source=str(folder), on_error="skip"))
    return store


def test_by_default_a_frame_with_text_in_its_region_stops_the_build_and_says_what_to_do(
    tmp_path: Path, folder: Path
) -> None:
    with pytest.raises(TextError, match=r"a\.png: frame 0 has marks that look like text .*column `region`.*text=skip"):
        made(tmp_path, folder)
    sets = [part for item in (*SMALL, "cache.image_size=64") for part in ("--set", item)]
    ended = CliRunner().invoke(
        main, ["build", str(tmp_path / "t"), "--source", str(folder), "--pipeline", "demo", *sets]
    )
    assert ended.exit_code == 1


def test_a_frame_with_text_is_left_out_and_told(tmp_path: Path, folder: Path) -> None:
    store = made(tmp_path, folder, "cache.preprocess.text=skip")
    assert len(open_store(store)) == 2
    with pytest.raises(HoleError):
        open_store(store).read([0])
    told = status_report(store)
    assert "rows that may show more than the scan: 2, of these 1 left out" in told
    assert "row 0: a.png, frame 0: marks that look like text in its region" in told
    assert "row 1: b.png, frame 0: taken whole for the scan" in told
    assert "c.png" not in told


def test_text_is_painted_over_or_kept_as_the_recipe_says(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "paint").mkdir()
    kept = open_store(made(tmp_path / "keep", folder, "cache.preprocess.text=keep", "cache.image_size=224"))
    painted = open_store(made(tmp_path / "paint", folder, "cache.preprocess.text=inpaint", "cache.image_size=224"))
    name, echo = kept.read([0]).pixels[0, 0].astype(int), painted.read([0]).pixels[0, 0].astype(int)
    box = slice(95, 115), slice(42, 125)
    assert (name[box] == 255).sum() > 3 * (echo[box] == 255).sum()
    assert len(kept) == len(painted) == 3


def test_nothing_is_sought_where_nothing_is_hidden(tmp_path: Path, folder: Path) -> None:
    store = made(tmp_path, folder, "cache.preprocess.deidentify=false")
    assert len(open_store(store)) == 3
    assert "more than the scan" not in status_report(store)


def test_text_of_a_clip_is_found_in_what_stays(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    frames = []
    for seed in range(6):
        frame = speckled(FULL, seed=seed, low=20, high=120)
        cv2.putText(frame, "DOE^JANE", (60, 120), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 250, 1)
        frames.append(frame)
    assert cv2.imwritemulti(str(tmp_path / "in/clip.tiff"), frames)
    with pytest.raises(TextError, match="look like text"):
        made(tmp_path, tmp_path / "in")


def named_in_part(folder: Path) -> None:
    """Write a clip of one sector, 24 frames, with a name in three of them."""
    folder.mkdir()
    frames = [speckled(sector(448), seed, low=20, high=120) for seed in range(24)]
    for frame in frames[9:12]:
        cv2.putText(frame, "DOE^JANE", (150, 240), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 250, 2)
    assert cv2.imwritemulti(str(folder / "clip.tiff"), frames)


def test_text_in_a_part_of_a_clip_is_found_though_it_fades_in_the_mean(tmp_path: Path) -> None:
    named_in_part(tmp_path / "in")
    with pytest.raises(TextError, match="look like text"):
        made(tmp_path, tmp_path / "in")


def test_text_in_a_part_of_a_clip_is_painted_over(tmp_path: Path) -> None:
    named_in_part(tmp_path / "in")
    as_bright = ("cache.image_size=448", "cache.preprocess.percentiles=[0,100]")

    def white(place: Path, text: str) -> NDArray[np.int64]:
        store = open_store(made(place, tmp_path / "in", f"cache.preprocess.text={text}", *as_bright))
        return np.asarray((store.read(store.rows).pixels > 230).sum(axis=(1, 2, 3)))

    kept_B, painted_B = white(tmp_path / "keep", "keep"), white(tmp_path, "inpaint")
    assert len(kept_B) == len(painted_B) == 24
    ink = kept_B[9:12].min() - kept_B[:9].max()
    assert ink > 500
    assert painted_B[9:12].max() < kept_B[9:12].min() - ink


@pytest.mark.parametrize(("text", "told"), [("stop", False), ("keep", False), ("skip", True), ("inpaint", True)])
def test_how_text_is_found_is_part_of_the_identity_where_stored_pixels_depend_on_it(text: str, told: bool) -> None:
    pixels, _ = pixel_layers(small(f"cache.preprocess.text={text}").cache, 64)
    assert ("text" in pixels.identity["versions"]) is told


@pytest.mark.parametrize("high", [90, 160, 256])
def test_noise_of_any_strength_does_not_look_like_text(high: int) -> None:
    rng = np.random.default_rng(high)
    for _ in range(3):
        assert not find_text(rng.integers(0, high, (240, 320)).astype(np.uint8), FULL)
