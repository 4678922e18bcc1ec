"""Views: pure, uniform, inside the frame; what is outside the scan never reaches a stored pixel."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usjepa.cache.errors import UsageError
from usjepa.cache.frames.prepare import Prepared, prepare
from usjepa.cache.frames.views import VIEW_VERSION, View, _shrink_region, apply_view, draw_views
from usjepa.cache.randomness import generator
from usjepa.cache.recipes.cache import PhantomSettings, PreprocessSettings, ViewSettings
from usjepa.cache.sources.phantom.source import Phantom

edges = st.integers(1, 700)


def prepared_noise(height: int, width: int, seed: int = 0, channels: int = 1) -> Prepared:
    rng = np.random.default_rng(seed)
    shape = (height, width) if channels == 1 else (height, width, 3)
    region = np.zeros((height, width), bool)
    top, left = rng.integers(0, height), rng.integers(0, width)
    region[top : top + 1 + height // 2, left : left + 1 + width // 2] = True
    return Prepared(rng.integers(1, 256, shape).astype(np.uint8), region)


def scalar_view(
    seed: int, content_hash: str, frame: int, view: int, shape: tuple[int, int], settings: ViewSettings
) -> View:
    """Draw a view of a frame of (height, width) by itself, apart from the product's own code."""
    height, width = shape
    if view == 0:
        return View(0, 0, height, width, False, False)
    low, high = settings.crop_scale
    rng = generator("view", VIEW_VERSION, seed, content_hash, frame, view)
    area, down, across, horizontal, vertical = rng.random(5).tolist()
    share = math.sqrt(low + (high - low) * area)
    crop_height, crop_width = (max(1, min(edge, round(edge * share))) for edge in (height, width))
    return View(
        int(down * (height - crop_height + 1)),
        int(across * (width - crop_width + 1)),
        crop_height,
        crop_width,
        horizontal < settings.horizontal_flip,
        vertical < settings.vertical_flip,
    )


def draw_view(
    seed: int, content_hash: str, frame: int, view: int, shape: tuple[int, int], settings: ViewSettings
) -> View:
    """Draw one alone."""
    boxes_N4, flips_N2 = draw_views(seed, [(content_hash, frame, view)], np.array([shape]), settings)
    return View(*boxes_N4[0].tolist(), *flips_N2[0].tolist())


@given(
    st.lists(
        st.tuples(st.text("0123456789abcdef"), st.integers(0, 2**31), st.integers(0, 9), edges, edges), max_size=9
    ),
    st.integers(0, 2**62),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    st.floats(0, 1),
)
def test_views_drawn_together_are_those_that_the_formulas_give_one_by_one(
    asked: list[tuple[str, int, int, int, int]], seed: int, scale: list[float], flip: float
) -> None:
    of = ViewSettings(crop_scale=(scale[0], scale[1]), horizontal_flip=flip, vertical_flip=1 - flip)
    names, shapes = [one[:3] for one in asked], np.array([one[3:] for one in asked], np.int32).reshape(-1, 2)
    boxes_N4, flips_N2 = draw_views(seed, names, shapes, of)
    together = [View(*box, *flips) for box, flips in zip(boxes_N4.tolist(), flips_N2.tolist(), strict=True)]
    assert together == [scalar_view(seed, *one[:3], one[3:], of) for one in asked]


@given(edges, edges, st.integers(0, 9), st.integers(0, 2**62), st.integers(1, 50))
@settings(max_examples=200)
def test_a_crop_lies_in_the_frame_keeps_its_aspect_and_covers_the_asked_share(
    height: int, width: int, frame: int, seed: int, view: int
) -> None:
    drawn = draw_view(seed, "ab", frame, view, (height, width), ViewSettings())
    assert 0 <= drawn.top <= height - drawn.height
    assert 0 <= drawn.left <= width - drawn.width
    # Edges are whole pixels: each may be half of one away from its share.
    for crop, edge in ((drawn.height, height), (drawn.width, width)):
        assert math.sqrt(0.6) * edge - 0.5 <= max(crop, 1) or crop == 1
        assert crop <= edge
    share = drawn.height / height
    assert abs(drawn.width - share * width) <= 0.5 + 0.5 * width / height + 1e-9 or drawn.width == 1


def test_view_0_is_the_plain_frame() -> None:
    assert draw_view(3, "ab", 7, 0, (30, 50), ViewSettings()) == View(0, 0, 30, 50, False, False)


def test_a_view_is_a_pure_function_of_its_arguments() -> None:
    base: tuple[Any, ...] = (0, "ab", 1, 2, (300, 400), ViewSettings())
    first = draw_view(*base)
    draw_view(9, "cd", 3, 4, (200, 100), ViewSettings())
    assert draw_view(*base) == first
    for place, other in ((0, 1), (1, "ac"), (2, 2), (3, 3)):
        changed = list(base)
        changed[place] = other
        assert draw_view(*changed) != first


def test_views_are_spread_over_crops_and_flips() -> None:
    drawn = [draw_view(0, "ab", n, 1, (1000, 1000), ViewSettings()) for n in range(2000)]
    areas = np.array([v.height * v.width for v in drawn]) / 1e6
    assert areas.min() == pytest.approx(0.6, abs=0.01)
    assert areas.max() == pytest.approx(1.0, abs=0.01)
    assert areas.mean() == pytest.approx(0.8, abs=0.01)
    assert np.mean([v.flip_horizontal for v in drawn]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([v.flip_vertical for v in drawn]) == pytest.approx(0.5, abs=0.04)
    free = np.array([v.top / max(1, 1000 - v.height) for v in drawn if v.height < 990])
    assert free.mean() == pytest.approx(0.5, abs=0.03)


def test_the_probability_of_flips_moves_no_crop() -> None:
    crops = [draw_view(0, "ab", 1, 1, (300, 400), ViewSettings(horizontal_flip=p, vertical_flip=p)) for p in (0.0, 1.0)]
    assert crops[0] == View(crops[1].top, crops[1].left, crops[1].height, crops[1].width, False, False)
    assert crops[1].flip_horizontal
    assert crops[1].flip_vertical


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(0, 2**32))
@settings(max_examples=150)
def test_a_pixel_of_the_shrunk_region_is_set_exactly_if_the_scan_touches_it(
    height: int, width: int, size: int, seed: int
) -> None:
    region = np.random.default_rng(seed).random((height, width)) < 0.1
    expected = np.zeros((size, size), bool)
    for y, x in zip(*np.nonzero(region), strict=True):
        # Open intervals (y, y + 1) and (i, i + 1) * height / size overlap.
        down = [i for i in range(size) if i * height < (y + 1) * size and (i + 1) * height > y * size]
        across = [i for i in range(size) if i * width < (x + 1) * size and (i + 1) * width > x * size]
        expected[np.ix_(down, across)] = True
    assert np.array_equal(_shrink_region(region, size), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 64, 150])
def test_what_is_outside_the_region_changes_no_stored_pixel(channels: int, size: int) -> None:
    for seed in range(8):
        prepared = prepared_noise(70, 90, seed, channels)
        other = prepared.pixels.copy()
        other[~prepared.region] = 255 - other[~prepared.region]
        view = draw_view(0, "ab", seed, 1, (70, 90), ViewSettings())
        image, region = apply_view(prepared, view, size, True)
        assert np.array_equal(image, apply_view(Prepared(other, prepared.region), view, size, True)[0])
        assert not image[:, ~region].any()
        assert image.shape == (channels, size, size)
        assert region.shape == (size, size)


def test_without_deidentification_pixels_outside_the_region_are_kept() -> None:
    prepared = prepared_noise(64, 64)
    image, region = apply_view(prepared, View(0, 0, 64, 64, False, False), 64, False)
    assert np.array_equal(image[0], prepared.pixels)
    assert np.array_equal(region, prepared.region)


@pytest.mark.parametrize(("horizontal", "vertical"), [(True, False), (False, True), (True, True)])
def test_flips_mirror_pixels_and_region_alike(horizontal: bool, vertical: bool) -> None:
    prepared = prepared_noise(50, 80, 3)
    plain = apply_view(prepared, View(3, 5, 40, 60, False, False), 32, True)
    image, region = apply_view(prepared, View(3, 5, 40, 60, horizontal, vertical), 32, True)
    down, across = (-1 if vertical else 1), (-1 if horizontal else 1)
    assert np.array_equal(image, plain[0][:, ::down, ::across])
    assert np.array_equal(region, plain[1][::down, ::across])
    assert image.flags.c_contiguous


@pytest.mark.parametrize(("edge", "method"), [(100, cv2.INTER_AREA), (20, cv2.INTER_LINEAR)])
def test_shrinking_averages_and_growing_interpolates(edge: int, method: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (edge, edge)).astype(np.uint8)
    image, _ = apply_view(Prepared(pixels, np.ones((edge, edge), bool)), View(0, 0, edge, edge, False, False), 40, True)
    assert np.array_equal(image[0], cv2.resize(pixels, (40, 40), interpolation=method))


def test_a_box_outside_the_frame_is_refused() -> None:
    with pytest.raises(UsageError, match="within a frame"):
        apply_view(prepared_noise(30, 30), View(10, 0, 25, 30, False, False), 16, True)


def test_an_empty_region_gives_black_pixels() -> None:
    prepared = Prepared(np.full((20, 20), 200, np.uint8), np.zeros((20, 20), bool))
    image, region = apply_view(prepared, View(0, 0, 20, 20, False, False), 16, True)
    assert not image.any()
    assert not region.any()


def test_no_pixel_of_a_name_reaches_the_views_of_the_phantom() -> None:
    phantom = Phantom(PhantomSettings(patients=12, seed=5))
    for source in phantom.patients()[::5]:
        frame, ink = phantom.frame(source.path, 0), phantom.ink(source.path)
        prepared = prepare(frame, PreprocessSettings())
        blank = Prepared(np.where(ink, 0, prepared.pixels).astype(np.uint8), prepared.region)
        for number in range(3):
            view = draw_view(0, phantom.content_hash(source.path), 0, number, (224, 224), ViewSettings())
            assert np.array_equal(apply_view(prepared, view, 112, True)[0], apply_view(blank, view, 112, True)[0])
