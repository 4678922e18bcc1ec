"""Draw and cut the K fixed views (crops, mirrored or not) of a frame.

View 0 is the plain frame. Geometry is stored with the latents that it belongs to; photometric noise is drawn anew in
every epoch of training (docs/method.md).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.randomness import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.frames.prepare import Prepared
    from usjepa.cache.recipes.cache import ViewSettings

VIEW_VERSION = 1
"""Raised when `draw_view` or `apply_view` gives other numbers; part of the pixels' identity."""


class View(NamedTuple):
    """A crop box in frame pixels, mirrored after it is cut."""

    top: int
    left: int
    height: int
    width: int
    flip_horizontal: bool
    """Mirrored left-right."""
    flip_vertical: bool
    """Mirrored top-bottom."""


def draw_view(
    seed: int, content_hash: str, frame: int, view: int, shape: tuple[int, int], settings: ViewSettings
) -> View:
    """Return a view of a frame: a pure function of its arguments, the same in any order, worker or machine.

    Args:
        seed: of the recipe.
        content_hash: of the source's bytes.
        frame: number of the frame in the source.
        view: 0 is the whole frame, unmirrored; others are random.
        shape: (height, width) of the frame.
        settings: area of a crop as a share of the frame's, uniform in a range; probabilities of mirroring.
    """
    height, width = shape
    if view == 0:
        return View(0, 0, height, width, False, False)
    low, high = settings.crop_scale
    rng = generator("view", VIEW_VERSION, seed, content_hash, frame, view)
    # All five numbers are always drawn, so a changed probability of flips moves no crop.
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


def apply_view(
    prepared: Prepared, view: View, size: int, deidentify: bool
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Cut a view from a frame.

    Args:
        prepared: the frame.
        view: what to cut.
        size: edge S of the result in pixels; the crop is stretched to a square.
        deidentify: what lies outside the region becomes 0, before resizing could smear it into neighbours, and after.

    Returns:
        Pixels uint8 [C, S, S], and the region bool [S, S]: every pixel that any of the scan's pixels touches.
    """
    box = slice(view.top, view.top + view.height), slice(view.left, view.left + view.width)
    pixels, region = prepared.pixels[box], prepared.region[box]
    if region.shape != (view.height, view.width):
        raise UsageError(f"{view} does not lie within a frame of {prepared.region.shape} pixels.")
    touched = _shrink_region(region, size)
    if deidentify and not region.all():
        pixels = pixels * (region if pixels.ndim == 2 else region[..., None])
    shrinks = size < max(view.height, view.width)
    resized = np.asarray(
        cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), np.uint8
    )
    if deidentify:
        resized = resized * (touched if resized.ndim == 2 else touched[..., None])
    image = resized[None] if resized.ndim == 2 else resized.transpose(2, 0, 1)
    down, across = (-1 if view.flip_vertical else 1), (-1 if view.flip_horizontal else 1)
    return np.ascontiguousarray(image[:, ::down, ::across]), np.ascontiguousarray(touched[::down, ::across])


def _shrink_region(region: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Return the region at `size` x `size`: a pixel is set if the area it stands for overlaps any pixel that is set."""
    return _any_over(_any_over(region, size).T, size).T


def _any_over(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Return the rows of a mask [n, m] joined by or into [size, m]; output row i covers [i, i + 1) x n / size."""
    count = len(mask)
    start = np.arange(size) * count // size
    stop = -(-(np.arange(1, size + 1) * count) // size)
    mask = np.ascontiguousarray(mask)  # whole rows are gathered
    joined = mask[start]
    for further in range(1, int((stop - start).max())):
        joined |= mask[np.minimum(start + further, stop - 1)]
    return joined
