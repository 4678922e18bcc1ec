"""Claims about pictures within a page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from usjepa.cache.pages.pictures import jpeg_uri, png_uri, stored_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray


def opened(uri: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4)])
def test_a_png_holds_the_pixels_as_they_are(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert (opened(png_uri(pixels)) == pixels).all()
    assert png_uri(pixels) == png_uri(pixels)


def test_a_stored_grey_frame_becomes_a_grey_picture() -> None:
    pixels_CSS = np.random.default_rng(0).integers(0, 256, (1, 16, 16), np.uint8)
    assert (opened(png_uri(stored_picture(pixels_CSS))) == pixels_CSS[0]).all()


def test_a_larger_picture_is_reduced_to_the_mean_of_its_pixels_and_keeps_its_shape() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 80), np.uint8)
    found = opened(png_uri(pixels, edge=40))
    assert found.shape == (20, 40)
    mean = pixels.reshape(20, 2, 40, 2).mean(axis=(1, 3))
    assert np.abs(found - mean).max() <= 1


def test_a_jpeg_is_near_the_pixels_and_smaller_than_a_png() -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    noisy = smooth + np.random.default_rng(0).integers(0, 30, (64, 64)).astype(np.uint8)
    assert jpeg_uri(noisy).startswith("data:image/jpeg;base64,")
    assert np.abs(opened(jpeg_uri(noisy)).astype(int) - noisy).mean() < 10
    assert len(jpeg_uri(noisy)) < len(png_uri(noisy))
