"""Find coloured marks: pixels whose colour is not that of the frame's own map.

Many scanners show echo through a tinted map, which gives every level of grey one colour. Where the tint grows with the
level or is a constant step, it is taken off first, so that the brightest echoes of a tinted clip don't count as marks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MARK_CHROMA = 64
"""Largest minus smallest channel beyond which a pixel is coloured, after the map's own tint is taken off."""
_DARK = 48
"""Pixels up to this level tell nothing about the map: their colours are noise."""
_ENOUGH = 8192
"""Pixels from which the map is told."""
_ROUNDS = 8
"""Rounds of reweighting in which the line of least absolute deviations is found to a fraction of a level."""


def find_marks(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the coloured pixels of a frame [H, W, 3] RGB as 0 or 255, uint8 [H, W]; none when the frame is grey."""
    chroma = _chroma(frame)
    if int(chroma.max()) <= _MARK_CHROMA:
        return np.zeros(frame.shape[:2], np.uint8)
    tints = _tint(frame)
    if any(step or rise for step, rise in tints):
        chroma = _chroma(_untinted(frame, tints))
    return np.asarray(cv2.threshold(chroma, _MARK_CHROMA, 255, cv2.THRESH_BINARY)[1], np.uint8)


def largest_channel(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the brightest channel of each pixel of a frame [H, W] or [H, W, 3], [H, W]."""
    if frame.ndim == 2:
        return frame
    red, green, blue = cv2.split(frame)
    return np.asarray(cv2.max(cv2.max(red, green), blue), np.uint8)


def _chroma(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the largest minus the smallest channel."""
    red, green, blue = cv2.split(frame)
    largest, smallest = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    return np.asarray(cv2.subtract(largest, smallest), np.uint8)


def _tint(frame: NDArray[np.uint8]) -> list[tuple[float, float]]:
    """Return how red and blue differ from green over the pixels that are lit, each as (step, rise per level of green).

    Some thousands of pixels are enough, and keep large frames quick.
    """
    stride = max(1, math.isqrt(frame.shape[0] * frame.shape[1] // _ENOUGH))
    red, green, blue = (frame[::stride, ::stride, c].astype(np.int16).ravel() for c in range(3))
    lit = np.maximum(np.maximum(red, green), blue) > _DARK
    if not lit.any():
        return [(0.0, 0.0), (0.0, 0.0)]
    base = green[lit].astype(np.float64)
    return [_line(base, channel[lit] - base) for channel in (red, blue)]


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return (step, rise) of the line of least absolute deviations: marks cover little of what is lit, and pull little.

    By least squares, reweighted with the distance from the line before.
    """
    step, rise = float(np.median(y)), 0.0
    for _ in range(_ROUNDS):
        weight = 1.0 / np.maximum(np.abs(y - step - rise * x), 1.0)
        total, mean_x, mean_y = weight.sum(), np.average(x, weights=weight), np.average(y, weights=weight)
        spread = float((weight * (x - mean_x) ** 2).sum())
        rise = float((weight * (x - mean_x) * (y - mean_y)).sum()) / spread if spread > total else 0.0
        step = float(mean_y - rise * mean_x)
    return step, rise


def _untinted(frame: NDArray[np.uint8], tints: list[tuple[float, float]]) -> NDArray[np.uint8]:
    """Return the frame with the tint taken from red and blue."""
    red, green, blue = cv2.split(frame)
    pairs = zip((red, blue), tints, strict=True)
    channels = [cv2.addWeighted(channel, 1.0, green, -rise, -step) for channel, (step, rise) in pairs]
    return np.asarray(cv2.merge([channels[0], green, channels[1]]), np.uint8)
