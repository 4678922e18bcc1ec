"""Grey conversion, inpainting and rescale against their definitions."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from usjepa.cache.frames import prepare as preprocess
from usjepa.cache.frames.marks import find_marks
from usjepa.cache.frames.prepare import _inpaint_marks, _rescale, _to_grey, prepare
from usjepa.cache.recipes.cache import PreprocessSettings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def textured(shape: tuple[int, int] = (120, 140), seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(110, 20, shape), 40, 200).astype(np.uint8)


def coloured(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, 2)


def test_grey_is_rec_601_to_the_nearest_level() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)
    expected = frame.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert np.abs(_to_grey(frame).astype(np.float64) - expected).max() <= 0.51


def test_a_grey_frame_passes_unchanged() -> None:
    grey = textured()
    assert _to_grey(grey) is grey
    assert np.array_equal(_to_grey(coloured(grey)), grey)


@given(
    st.integers(0, 2**32), st.integers(1, 30), st.floats(0, 45), st.floats(55, 100), st.sampled_from([0.05, 0.5, 1.0])
)
@settings(max_examples=80)
def test_rescale_maps_the_percentiles_inside_the_region_to_black_and_white(
    seed: int, edge: int, low: float, high: float, share: float
) -> None:
    rng = np.random.default_rng(seed)
    grey = rng.integers(20, 200, (edge, edge + 1)).astype(np.uint8)
    region = rng.random(grey.shape) < share
    found = _rescale(grey, region, (low, high))
    if not region.any():
        assert np.array_equal(found, grey)
        return
    # numpy's own inverted_cdf takes 0.55 * 380 for 209.00000000000003 and answers with the 210th value: count exactly.
    values = np.sort(grey[region])
    ranks = (ceil(Fraction(p) / 100 * values.size - Fraction(1, 10**9)) for p in (low, high))
    bottom, top = (int(values[max(1, rank) - 1]) for rank in ranks)
    if top <= bottom:
        assert np.array_equal(found, grey)
        return
    expected = np.clip(np.rint((grey.astype(np.float64) - bottom) * (255 / (top - bottom))), 0, 255)
    assert np.abs(found - expected).max() <= 1
    assert (found[grey <= bottom] == 0).all()
    assert (found[grey >= top] == 255).all()


def test_what_lies_outside_the_region_has_no_say_in_the_rescale() -> None:
    grey, region = textured(), np.zeros((120, 140), bool)
    region[30:90, 30:90] = True
    bright = grey.copy()
    bright[~region] = 255
    assert np.array_equal(_rescale(grey, region, (2, 98))[region], _rescale(bright, region, (2, 98))[region])


def test_colour_channels_are_mapped_alike() -> None:
    grey, region = textured(), np.ones((120, 140), bool)
    assert np.array_equal(_rescale(coloured(grey), region, (2, 98)), coloured(_rescale(grey, region, (2, 98))))


def test_a_coloured_mark_is_filled_from_around_it() -> None:
    grey = textured()
    frame = coloured(grey)
    frame[50:54, 40:80] = (250, 220, 30)
    filled = _inpaint_marks(frame, 0.05)
    assert np.abs(filled[50:54, 40:80].astype(float).mean() - grey.mean()) < 12
    assert np.ptp(filled.astype(int), axis=2).max() <= 2
    away = np.ones(grey.shape, bool)
    away[48:56, 38:82] = False
    assert np.array_equal(filled[away], frame[away])


def test_colour_that_covers_more_than_the_limit_is_left() -> None:
    frame = coloured(textured())
    frame[20:60, 20:100] = (200, 40, 30)
    assert np.array_equal(_inpaint_marks(frame, 0.05), frame)
    assert not np.array_equal(_inpaint_marks(frame, 0.5), frame)


def test_inpainting_turned_off_leaves_marks() -> None:
    frame = coloured(textured())
    frame[50:54, 40:80] = (250, 220, 30)
    assert _inpaint_marks(frame, 0.0) is frame


def test_the_tint_of_a_whole_clip_is_left() -> None:
    grey = textured().astype(np.float64)
    frame = np.stack([0.7 * grey, 0.75 * grey, 1.2 * grey], 2).astype(np.uint8)
    assert np.array_equal(_inpaint_marks(frame, 0.05), frame)


@pytest.mark.parametrize(("grey", "shape"), [(True, (120, 140)), (False, (120, 140, 3))])
@pytest.mark.parametrize("channels", [1, 3])
def test_prepare_gives_the_channels_that_are_asked_for(grey: bool, shape: tuple[int, ...], channels: int) -> None:
    frame = textured() if channels == 1 else coloured(textured())
    prepared = prepare(frame, PreprocessSettings(grey=grey))
    assert prepared.pixels.shape == shape
    assert prepared.pixels.dtype == np.uint8
    assert prepared.region.shape == (120, 140)


def test_prepare_does_not_change_the_frame_it_is_given() -> None:
    frame = coloured(textured())
    frame[50:54, 40:80] = (250, 220, 30)
    before = frame.copy()
    prepare(frame, PreprocessSettings())
    assert np.array_equal(frame, before)


def test_blue_tinted_clips_of_the_real_set_keep_every_pixel(dev_data: Path) -> None:
    names = ("Pneu_from_article_rippey.mp4", "Pneu_basalpneumonia_liftle_case1.mp4")
    files = [dev_data / "pocus/pneumonia" / name for name in names]
    for file in files:
        read, bgr = cv2.VideoCapture(str(file)).read()
        assert read
        frame = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8)
        assert np.ptp(frame.astype(int), axis=2).max() > 40
        assert np.array_equal(_inpaint_marks(frame, 0.05), frame)


def test_yellow_rulers_of_the_real_set_are_inpainted(dev_data: Path) -> None:
    file = min((dev_data / "timtrack/gastrocnemius_lateralis").glob("*.png"))
    frame = np.asarray(Image.open(file).convert("RGB"))
    assert np.count_nonzero(np.ptp(frame.astype(int), axis=2) > 100) > 200
    assert np.ptp(_inpaint_marks(frame, 0.05).astype(int), axis=2).max() < 100


@given(
    shape=st.tuples(st.integers(4, 160), st.integers(4, 160)),
    marks=st.lists(st.tuples(st.integers(0, 159), st.integers(0, 159), st.integers(1, 9)), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60)
def test_marks_are_filled_as_if_the_whole_frame_had_been_marched_through(
    shape: tuple[int, int], marks: list[tuple[int, int, int]], seed: int
) -> None:
    frame = coloured(textured(shape, seed))
    for top, left, edge in marks:
        frame[top % shape[0] :, left % shape[1] :][:edge, :edge] = (250, 20, 20)
    limit = 1.0  # any colour is a mark here, also where it covers most of a small frame
    rim = cv2.dilate(find_marks(frame), np.ones((3, 3), np.uint8))
    whole = cv2.inpaint(frame, rim, 3, cv2.INPAINT_TELEA) if cv2.countNonZero(rim) > 0 else frame
    assert np.array_equal(_inpaint_marks(frame, limit), whole)


def test_intensities_of_a_frame_too_large_for_float32_counts_are_counted_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grey, region = textured(), np.random.default_rng(1).random((120, 140)) < 0.5
    expected = _rescale(grey, region, (2, 98))
    monkeypatch.setattr(preprocess, "_EXACT_COUNTS", 0)
    assert np.array_equal(_rescale(grey, region, (2, 98)), expected)


@pytest.mark.parametrize("tint", [(1.0, 0.75, 0.4), (0.45, 0.7, 1.0), (1.0, 1.0, 0.5)])
def test_a_map_that_multiplies_is_left_however_bright_its_echoes(tint: tuple[float, float, float]) -> None:
    grey = np.random.default_rng(4).rayleigh(30, (120, 140)).clip(0, 255)
    frame = (grey[..., None] * tint).astype(np.uint8)
    few = np.ptp(frame.astype(int), axis=2) > 64
    assert 0 < few.mean() < 0.05  # few enough to pass for marks
    assert np.array_equal(_inpaint_marks(frame, 0.05), frame)
    frame[50:54, 40:80] = (30, 220, 250)
    assert np.ptp((_inpaint_marks(frame, 0.05)[50:54, 44:76] / tint).astype(int), axis=2).max() < 60
