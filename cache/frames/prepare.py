"""Prepare a frame for its views: inpaint coloured marks, convert to grey, rescale intensities [paper]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from usjepa.cache.frames.marks import find_marks
from usjepa.cache.frames.regions import Region, find_region
from usjepa.cache.frames.text import paint_over

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import PreprocessSettings

PREPROCESS_VERSION = 2
"""Raised when `prepare` gives other pixels for the same frame and settings; part of the pixels' identity."""

_INPAINT_RADIUS = 3
"""Pixels around a mark that its filling is taken from."""
_EXACT_COUNTS = 2**24
"""Pixels up to which OpenCV's histogram, in float32, is exact."""
_MARGIN = 2 * _INPAINT_RADIUS + 2
"""Pixels around all marks that can affect their filling: its neighbours' neighbours."""


@dataclass(frozen=True)
class Prepared:
    """A frame, ready for its views."""

    pixels: NDArray[np.uint8]
    """[H, W] grey, or [H, W, 3] RGB."""
    region: NDArray[np.bool_]
    """[H, W], the scan."""


def _to_grey(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a frame [H, W] or [H, W, 3] RGB as grey [H, W]: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""
    if frame.ndim == 2:
        return frame
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def grey_of(pixels_BCSS: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return stored pixels uint8 [B, C, S, S] as grey float32 [B, S, S] in 0..255: `_to_grey` without rounding."""
    if pixels_BCSS.shape[1] == 1:
        return pixels_BCSS[:, 0].astype(np.float32)
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.asarray(np.einsum("bcij,c->bij", pixels_BCSS.astype(np.float32), weights), dtype=np.float32)


def _inpaint_marks(frame: NDArray[np.uint8], limit: float) -> NDArray[np.uint8]:
    """Return the frame with its coloured marks filled from around them (Telea's fast marching, 2004).

    Args:
        frame: [H, W] or [H, W, 3] RGB; a grey one has no marks.
        limit: share of the frame. Colour that covers as much or more is a tinted map or Doppler and is kept.
    """
    if frame.ndim == 2 or limit <= 0:
        return frame
    marks = find_marks(frame)
    covered = cv2.countNonZero(marks)
    if not 0 < covered < limit * marks.size:
        return frame
    # The rim of a mark is mixed with its surroundings; unless it is filled too, the filling is taken from it.
    rim = cv2.dilate(marks, np.ones((3, 3), np.uint8))
    # The cost of marching grows with the image: hand it the marks and the pixels around them only.
    x, y, width, height = cv2.boundingRect(rim)
    box = slice(max(0, y - _MARGIN), y + height + _MARGIN), slice(max(0, x - _MARGIN), x + width + _MARGIN)
    filled = frame.copy()
    filled[box] = cv2.inpaint(np.ascontiguousarray(frame[box]), rim[box].copy(), _INPAINT_RADIUS, cv2.INPAINT_TELEA)
    return filled


def _rescale(grey: NDArray[np.uint8], region: NDArray[np.bool_], percentiles: tuple[float, float]) -> NDArray[np.uint8]:
    """Return the frame with the low and high percentile of its intensities inside the region mapped to 0 and 255.

    Percentiles are observed values (numpy's "inverted_cdf"), from a histogram. For [H, W, 3] they are those of the grey
    conversion, and all channels are mapped alike. A region that is empty or of one intensity changes nothing.
    """
    low, high = percentiles
    counts = _histogram(_to_grey(grey), region)
    if not counts.any():
        return grey
    below = np.cumsum(counts)
    bottom, top = (int(np.searchsorted(below, max(1, np.ceil(p / 100 * below[-1] - 1e-9)))) for p in (low, high))
    if top <= bottom:
        return grey
    table = np.rint((np.arange(256.0) - bottom) * (255.0 / (top - bottom))).clip(0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(grey, table), np.uint8)


def _histogram(grey: NDArray[np.uint8], region: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many pixels of a region have each intensity, [256]."""
    if grey.size >= _EXACT_COUNTS:
        return np.bincount(grey[region], minlength=256)
    counts = cv2.calcHist([grey], [0], region.view(np.uint8), [256], [0, 256])
    return np.asarray(counts, dtype=np.int64).reshape(-1)


def prepare(frame: NDArray[np.uint8], settings: PreprocessSettings, region: Region | None = None) -> Prepared:
    """Return a frame [H, W] or [H, W, 3] RGB with its marks inpainted, grey or colour, rescaled, and its region.

    Lines that look like text are painted over where the recipe de-identifies and says so.

    Pixels outside the region are kept; the views zero them where the recipe de-identifies.

    Args:
        frame: as it came from its source.
        settings: of the recipe.
        region: of the clip that it belongs to; none: found on the frame by itself.
    """
    region = find_region(frame) if region is None else region
    mask = region.mask
    pixels = _inpaint_marks(frame, settings.inpaint_below)
    if region.text and settings.deidentify and settings.text == "inpaint":
        pixels = paint_over(pixels, region.text)
    if settings.grey:
        pixels = _to_grey(pixels)
    elif pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return Prepared(_rescale(pixels, mask, settings.percentiles), mask)
