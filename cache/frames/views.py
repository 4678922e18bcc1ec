"""Draw and cut the K fixed views (crops, mirrored or not) of a frame.

View 0 is the plain frame. Geometry is stored with the latents that it belongs to; photometric noise is drawn anew in
every epoch of training (docs/method.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.randomness import uniforms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.frames.prepare import Prepared
    from usjepa.cache.recipes.cache import ViewSettings

VIEW_VERSION = 1
"""Raised when `draw_views` or `apply_view` gives other numbers; part of the pixels' identity."""


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


class Views(NamedTuple):
    """Views of many frames, a line each."""

    boxes: NDArray[np.int32]
    """[n, 4] top, left, height, width."""
    flips: NDArray[np.bool_]
    """[n, 2] mirrored left-right, top-bottom."""


def draw_views(
    seed: int, names: Sequence[tuple[str, int, int]], shapes: NDArray[np.integer], settings: ViewSettings
) -> Views:
    """Return views of frames: each a pure function of its arguments, the same in any order, worker or machine.

    Args:
        seed: of the recipe.
        names: of each of n, hash of the source's bytes, number of the frame in it, number of the view. View 0 is
            the whole frame, unmirrored; others are random.
        shapes: [n, 2] height and width of each frame.
        settings: area of a crop as a share of the frame's, uniform in a range; probabilities of mirroring.
    """
    low, high = settings.crop_scale
    random_N = np.array([view > 0 for _, _, view in names], np.bool_)
    # All five numbers are always drawn, so a changed probability of flips moves no crop.
    drawn_N5 = np.zeros((len(names), 5))
    drawn_N5[random_N] = uniforms((("view", VIEW_VERSION, seed, *name) for name in names if name[2] > 0), 5)
    share_N1 = np.sqrt(low + (high - low) * drawn_N5[:, :1])
    crops_N2 = np.where(random_N[:, None], np.clip(np.rint(shapes * share_N1), 1, shapes), shapes).astype(np.int32)
    corners_N2 = (drawn_N5[:, 1:3] * (shapes - crops_N2 + 1)).astype(np.int32)
    flips_N2 = random_N[:, None] & (drawn_N5[:, 3:] < (settings.horizontal_flip, settings.vertical_flip))
    return Views(np.hstack([corners_N2, crops_N2]), flips_N2)


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
