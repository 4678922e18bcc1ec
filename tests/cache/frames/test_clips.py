"""The region of a clip: one for all frames, of what moves, the same however the clip is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from tests.cache.frames.test_regions import overlap, sector, speckled
from tests.support.builds import small
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.frames.clips import ClipRegions, SourceRef, sampled
from usjepa.cache.frames.lit import is_one_scene, look_at
from usjepa.cache.frames.regions import find_region, region_of
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.sources.files.reader import SourceReader

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def clip(frames: int = 6) -> list[NDArray[np.uint8]]:
    """A sector of which each frame shows a third, beside a logo that stays."""
    shown = []
    for number in range(frames):
        frame = speckled(sector(), seed=number)
        for third in range(3):
            if third != number % 3:
                frame[:, 80 * third : 80 * third + 80] //= 12
        frame[10:90, 4:50] = np.random.default_rng(0).integers(90, 250, (80, 46))
        shown.append(frame)
    return shown


def write(folder: Path, frames: list[NDArray[np.uint8]]) -> None:
    """Write frames as a stack of pages."""
    folder.mkdir()
    assert cv2.imwritemulti(str(folder / "clip.tiff"), frames)


def test_a_clip_shows_the_sector_that_none_of_its_frames_shows_and_drops_what_stays() -> None:
    frames = clip()
    together = region_of([look_at(frame) for frame in frames], 240, 240)
    assert overlap(together.mask, sector()) > 0.95
    assert not together.mask[12:80, 8:40].any()
    assert find_region(frames[0]).mask[12:80, 8:40].any()  # of one frame, the logo passes for echo


def test_frames_that_have_nothing_in_common_are_no_clip() -> None:
    rng = np.random.default_rng(3)
    mixed = [speckled(np.roll(sector(), tuple(rng.integers(-80, 80, 2)), (0, 1)), seed=i) for i in range(6)]
    assert is_one_scene([look_at(frame) for frame in clip()])
    assert not is_one_scene([look_at(frame) for frame in mixed])


def test_black_frames_are_alike() -> None:
    assert is_one_scene([look_at(np.zeros((40, 50), np.uint8)) for _ in range(3)])


@pytest.mark.parametrize(("frames", "expected"), [(1, [0]), (3, [0, 1, 2]), (8, list(range(8)))])
def test_all_frames_of_a_short_clip_are_looked_at(frames: int, expected: list[int]) -> None:
    assert sampled(frames) == expected


def test_frames_of_a_long_clip_are_looked_at_from_end_to_end() -> None:
    numbers = sampled(10_000)
    assert len(numbers) == 8
    assert (numbers[0], numbers[-1]) == (0, 9_999)
    assert max(np.diff(numbers)) - min(np.diff(numbers)) <= 1


def test_a_region_is_found_once_for_all_blocks_of_a_clip(tmp_path: Path) -> None:
    write(tmp_path / "in", clip())
    reader = SourceReader(tmp_path / "in", load_recipe("demo").cache)
    content = reader.content_hash("clip.tiff", "images")
    source = SourceRef("clip.tiff", "images", content, 240, 240, 6)
    opened: list[str] = []
    regions = ClipRegions(reader, True)
    first, again = (regions.of(source, opened.append) for _ in range(2))
    assert first is again is not None
    assert len(opened) == 6


def test_a_clip_has_one_region_whatever_the_shards_and_children_that_cut_it(tmp_path: Path) -> None:
    write(tmp_path / "in", clip())
    found = []
    for name, sets in {"one": ("cache.rows_per_shard=64",), "many": ("cache.rows_per_shard=2",)}.items():
        recipe = small(*sets, "cache.image_size=64", "cache.views.count=1", "cache.decode_processes=2")
        build(str(tmp_path / name), recipe, BuildRequest(source=str(tmp_path / "in")))
        store = open_store(tmp_path / name)
        found.append(store.read(store.rows))
    assert np.array_equal(found[0].regions, found[1].regions)
    assert np.array_equal(found[0].pixels, found[1].pixels)
    assert (found[0].regions == found[0].regions[0]).all()
