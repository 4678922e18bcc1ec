"""The region finder against known regions, and the packed form against its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from usjepa.cache.errors import UsageError
from usjepa.cache.frames.cells import pack_cells, patch_validity, unpack_cells
from usjepa.cache.frames.marks import find_marks
from usjepa.cache.frames.regions import find_region
from usjepa.cache.recipes.cache import PhantomSettings
from usjepa.cache.sources.phantom.source import Phantom

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    PhantomFrames = list[tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]]
    """(frame, the region found, its true region, the text burned into it)"""


def mask_of(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return find_region(frame).mask


def overlap(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    return float((found & true).sum() / (found | true).sum())


def speckled(mask: NDArray[np.bool_], seed: int = 0, low: float = 60, high: float = 160) -> NDArray[np.uint8]:
    """Rayleigh speckle where the mask is set, black elsewhere."""
    noise = np.random.default_rng(seed).rayleigh(1.0, mask.shape)
    return (np.clip(low + (high - low) * noise / 2, 0, 255) * mask).astype(np.uint8)


def sector(size: int = 240) -> np.ndarray:
    down, across = np.mgrid[:size, :size] + 0.5
    x, z = across - size / 2, down + 20 - 30
    reach = np.hypot(x, z)
    return (reach > 25) & (reach < 0.8 * size) & (np.abs(np.arctan2(x, z)) < 0.6)


@pytest.fixture(scope="module")
def phantom_frames() -> PhantomFrames:
    phantom = Phantom(PhantomSettings(patients=20, seed=11))
    paths = [p.path for p in phantom.patients()][::2]
    frames = [phantom.frame(path, 0) for path in paths]
    return [(f, mask_of(f), phantom.true_region(p), phantom.ink(p)) for f, p in zip(frames, paths, strict=True)]


def test_the_phantoms_regions_are_found(phantom_frames: PhantomFrames) -> None:
    overlaps = [overlap(mask, true) for _, mask, true, _ in phantom_frames]
    assert np.mean(overlaps) >= 0.98
    assert min(overlaps) >= 0.95


def test_no_burned_in_text_lies_in_a_found_region(phantom_frames: PhantomFrames) -> None:
    assert max(int((mask & ink).sum()) for _, mask, _, ink in phantom_frames) == 0


def test_a_region_is_the_same_every_time(phantom_frames: PhantomFrames) -> None:
    for frame, mask, _, _ in phantom_frames[:4]:
        assert np.array_equal(mask_of(frame.copy()), mask)


def test_a_grey_frame_and_the_same_in_three_channels_have_one_region() -> None:
    grey = speckled(sector())
    assert np.array_equal(mask_of(grey), mask_of(np.repeat(grey[..., None], 3, 2)))


@pytest.mark.parametrize("black", [0, 16, 30])
def test_a_sector_is_found_on_any_dark_background(black: int) -> None:
    frame = np.maximum(speckled(sector(), low=90), black).astype(np.uint8)
    assert overlap(mask_of(frame), sector()) > 0.95


@pytest.mark.parametrize("shape", [(224, 224), (480, 640), (1080, 1920)])
def test_a_rectangle_beside_text_and_a_ruler_is_found_at_any_size(shape: tuple[int, int]) -> None:
    height, width = shape
    true = np.zeros(shape, bool)
    true[height // 5 : -height // 8, width // 4 : -width // 5] = True
    frame = speckled(true)
    scale = height / 240
    for line in range(3):
        at = (round(4 * scale), round((14 + 12 * line) * scale))
        cv2.putText(frame, "DOE, JANE  1970-01-01  HOSPITAL", at, 0, 0.35 * scale, 240, max(1, round(scale)))
    for tick in range(20):
        cv2.line(frame, (int(0.85 * width), tick * height // 20), (int(0.87 * width), tick * height // 20), 255, 1)
    assert overlap(mask_of(frame), true) > 0.97


def test_fluid_across_the_whole_sector_does_not_cut_it_in_two() -> None:
    frame = speckled(sector())
    frame[90:135] = 0
    assert overlap(mask_of(frame), sector()) > 0.93


def test_dark_corners_of_a_rectangle_belong_to_it() -> None:
    true = np.zeros((240, 320), bool)
    true[30:210, 60:260] = True
    lit = true.copy()
    for down, across in ((slice(170, 210), slice(60, 100)), (slice(180, 210), slice(220, 260))):
        lit[down, across] = False
    assert overlap(mask_of(speckled(lit)), true) > 0.97


def test_a_flank_in_shadow_belongs_to_the_sector() -> None:
    frame = speckled(sector())
    frame[60:170, 150:] = 0
    assert overlap(mask_of(frame), sector()) > 0.95


@pytest.mark.parametrize("level", [70, 128, 255])
@pytest.mark.parametrize("noise", [0, 2])
def test_a_sector_on_a_bright_page_is_found_and_the_text_beside_it_is_not(level: int, noise: int) -> None:
    frame = np.full((240, 240), level, np.uint8)
    cv2.putText(frame, "DOE, JANE", (4, 24), 0, 0.5, 0 if level > 100 else 255, 1)
    frame = np.clip(frame + np.random.default_rng(1).normal(0, noise, frame.shape), 0, 255).astype(np.uint8)
    frame[sector()] = speckled(sector(), low=20)[sector()]
    found = mask_of(frame)
    assert overlap(found, sector()) > 0.95
    assert not found[:26, :80].any()


def test_bars_along_the_edges_of_the_screen_are_no_scan() -> None:
    frame = np.repeat(speckled(np.pad(sector(), ((40, 40), (0, 0))))[..., None], 3, 2)
    frame[:30] = (40, 60, 90)
    cv2.putText(frame, "DOE, JANE 1970-01-01", (4, 20), 0, 0.5, (255, 255, 255), 1)
    frame[-20:, 20:220] = np.random.default_rng(2).integers(60, 120, (20, 200, 1)).astype(np.uint8)
    found = mask_of(frame)
    assert overlap(found, np.pad(sector(), ((40, 40), (0, 0)))) > 0.95
    assert not found[:30].any()


def test_a_scan_one_level_above_its_background_is_found_where_the_file_is_exact() -> None:
    true = sector()
    frame = true.astype(np.uint8)
    frame[60:100] = speckled(true)[60:100]
    assert overlap(mask_of(frame), true) > 0.95


def test_a_frame_full_of_echo_is_its_own_region() -> None:
    assert mask_of(speckled(np.ones((200, 260), bool))).all()


def test_a_frame_with_nothing_bright_is_returned_whole() -> None:
    assert mask_of(np.zeros((90, 120), np.uint8)).all()
    assert mask_of(np.full((90, 120, 3), 16, np.uint8)).all()


def test_a_page_of_text_has_no_region() -> None:
    frame = np.zeros((300, 400), np.uint8)
    for line in range(8):
        cv2.putText(frame, "PATIENT: DOE, JANE  1970-01-01", (10, 30 + 34 * line), 0, 0.6, 255, 1)
    assert not mask_of(frame).any()


def test_coloured_marks_are_no_echo() -> None:
    frame = np.repeat(speckled(sector())[..., None], 3, 2)
    frame[20:60, 2:22] = (0, 220, 40)
    assert overlap(mask_of(frame), sector()) > 0.95


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 2), (8, 9), (30, 1000)])
def test_frames_of_odd_shapes_have_a_region(shape: tuple[int, int]) -> None:
    for fill in (0, 200):
        assert mask_of(np.full(shape, fill, np.uint8)).shape == shape


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))))
@example(np.zeros((4, 1), np.uint8))
@settings(max_examples=100)
def test_any_frame_has_a_region_of_its_shape(frame: NDArray[np.uint8]) -> None:
    found = mask_of(frame)
    assert found.shape == frame.shape
    assert found.dtype == np.bool_


def test_a_tinted_clip_has_no_marks_but_its_coloured_arrow() -> None:
    grey = speckled(np.ones((120, 120), bool)).astype(np.float64)
    frame = np.stack([0.75 * grey, 0.8 * grey, grey], 2).astype(np.uint8)
    assert not find_marks(frame).any()
    frame[50:56, 40:70] = (250, 210, 20)
    assert np.array_equal(find_marks(frame) > 0, (frame == (250, 210, 20)).all(2))


@pytest.mark.parametrize(
    ("part", "least", "most"), [("camus", 0.45, 0.65), ("timtrack/vastus_lateralis", 0.99, 1.0), ("pocus", 0.5, 1.0)]
)
def test_regions_of_real_frames_cover_what_a_person_sees(dev_data: Path, part: str, least: float, most: float) -> None:
    files = [f for f in sorted((dev_data / part).rglob("*")) if f.suffix in (".png", ".jpg")]
    shares = [mask_of(np.asarray(Image.open(f).convert("RGB"))).mean() for f in files[::12]]
    assert shares
    assert least <= min(shares)
    assert max(shares) <= most


def test_the_interface_of_a_real_screen_is_outside_the_region(dev_data: Path) -> None:
    # A screen of 800 x 600 with text above, a grey bar on the left and yellow rulers around the scan.
    for file in sorted((dev_data / "timtrack/gastrocnemius_lateralis").glob("*.png")):
        found = mask_of(np.asarray(Image.open(file).convert("RGB")))
        assert not found[:40].any()
        assert not found[:, :60].any()
        assert not found[:, 760:].any()
        assert found[150:500, 150:650].all()


even = st.integers(1, 30).map(lambda half: 2 * half)


@given(even, st.integers(0, 2**32), st.floats(0, 1))
@settings(max_examples=60)
def test_packed_cells_are_the_touched_ones(size: int, seed: int, share: float) -> None:
    region = np.random.default_rng(seed).random((size, size)) < share
    packed = pack_cells(region)
    assert packed.dtype == np.uint8
    assert packed.shape == (-(-((size // 2) ** 2) // 8),)
    (cells,) = unpack_cells(packed[None], size)
    for y in range(size // 2):
        for x in range(size // 2):
            assert cells[y, x] == region[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].any()


def test_the_first_cell_is_the_highest_bit() -> None:
    region = np.zeros((8, 8), bool)
    region[0, 1] = region[3, 2] = True
    assert pack_cells(region).tolist() == [0b10000100, 0]


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**32), st.sampled_from([0.0, 0.002, 0.05, 1.0]))
@settings(max_examples=60)
def test_a_patch_is_valid_exactly_if_it_holds_a_pixel_of_the_region(
    grid: int, half: int, seed: int, share: float
) -> None:
    patch = 2 * half
    size = grid * patch
    regions = np.random.default_rng(seed).random((3, size, size)) < share
    valid = patch_validity(np.stack([pack_cells(r) for r in regions]), size, patch)
    expected = [
        [
            bool(r[y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].any())
            for y in range(grid)
            for x in range(grid)
        ]
        for r in regions
    ]
    assert valid.tolist() == expected


@pytest.mark.parametrize(("size", "patch"), [(224, 15), (224, 0), (224, 48), (15, 2)])
def test_patches_that_cells_do_not_fill_are_refused(size: int, patch: int) -> None:
    with pytest.raises(UsageError):
        patch_validity(np.zeros((1, -(-((size // 2) ** 2) // 8)), np.uint8), size, patch)


def test_regions_that_cells_do_not_fill_are_refused() -> None:
    for shape in ((5, 5), (4, 6)):
        with pytest.raises(UsageError, match="even edge"):
            pack_cells(np.zeros(shape, bool))
    with pytest.raises(UsageError, match="packed regions"):
        unpack_cells(np.zeros((1, 3), np.uint8), 16)
