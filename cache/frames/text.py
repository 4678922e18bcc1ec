"""Find marks that look like text: short strokes of one brightness, in a line.

Letters of one line are about equally high, stand on one base line a little apart, and are drawn in one level. Speckle
does so by chance, more often the more of it there is: a line counts only if it is too long for chance (an a-contrario
test, Desolneux, Moisan and Morel, 2000).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from usjepa.cache.frames.marks import largest_channel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TEXT_VERSION = 2
"""Raised when other lines are found in the same frames; part of the pixels' identity where lines are taken out."""
_EDGE = 1024
"""Longest edge, pixels, at which text is sought."""
_STROKE = 9
"""Strokes are thinner than this, pixels."""
_CONTRASTS = (48, 80, 112)
"""Levels by which strokes stand out; letters that melt into bright echo at one are apart at another."""
_HEIGHTS = (6, 48)
"""Height of a letter, pixels."""
_WIDEST = 1.6
"""Width of a letter over its height."""
_INK = (0.15, 0.85)
"""Share of a letter's box that its strokes cover."""
_FLAT = 0.35
"""Share of a letter's pixels that have about its brightness: strokes are flat, blobs of echo are peaks."""
_LEVELS = 24
"""Levels by which letters of a line, and the pixels of a letter, differ."""
_GAP = 1.3
"""Largest gap between two letters over their height: a space or a hyphen may lie between."""
_OFF_LINE = 0.25
"""Largest distance of two letters' lower ends over their height."""
_AS_HIGH = 0.5
"""Lowest ratio of the heights of two letters that follow each other."""
_LETTERS = 5
"""Fewest letters of a line."""
_BY_CHANCE = 1e-5
"""Lines that strokes strewn at random may give, per frame, contrast and brightness."""
_INSIDE = 0.3
"""Share of a line's box that lies in the region."""


class Line(NamedTuple):
    """A line that looks like text, in pixels of the frame."""

    left: int
    top: int
    right: int
    bottom: int


class _Letters(NamedTuple):
    """What may be letters, from left to right, each [n]."""

    left: NDArray[np.int32]
    top: NDArray[np.int32]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    level: NDArray[np.int32]


def find_text(frame: NDArray[np.uint8], region: NDArray[np.bool_]) -> tuple[Line, ...]:
    """Return the lines within a region [H, W] of a frame [H, W] or [H, W, 3] RGB that look like text.

    Five letters or digits at least, bright on dark or dark on bright; a single letter, a ruler or an arrow is none.
    """
    grey = largest_channel(frame)
    scale = min(1.0, _EDGE / max(grey.shape))
    if scale < 1.0:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
    found: set[Line] = set()
    for shown in (grey, cv2.bitwise_not(grey)):
        strokes = cv2.morphologyEx(shown, cv2.MORPH_TOPHAT, np.ones((_STROKE, _STROKE), np.uint8))
        for contrast in _CONTRASTS:
            letters = _letters(np.asarray(shown, np.uint8), np.asarray(strokes > contrast, np.uint8))
            found.update(_lines(letters, grey.size))
    lines = [Line(*(round(edge / scale) for edge in line)) for line in found]
    return tuple(
        sorted(line for line in lines if region[line.top : line.bottom, line.left : line.right].mean() > _INSIDE)
    )


def paint_over(pixels: NDArray[np.uint8], lines: Sequence[Line]) -> NDArray[np.uint8]:
    """Return pixels [H, W] or [H, W, 3] with lines of text, and a rim around them, filled from their surroundings."""
    mask = np.zeros(pixels.shape[:2], np.uint8)
    for line in lines:
        rim = 2 + (line.bottom - line.top) // 4
        mask[max(0, line.top - rim) : line.bottom + rim, max(0, line.left - rim) : line.right + rim] = 1
    return np.asarray(cv2.inpaint(np.ascontiguousarray(pixels), mask, 3, cv2.INPAINT_TELEA), np.uint8)


def _letters(grey: NDArray[np.uint8], strokes: NDArray[np.uint8]) -> _Letters:
    """Return the connected strokes that have a letter's size and are of one level."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(strokes, connectivity=8)
    left, top, width, height, ink = np.asarray(stats).T
    box = width * height
    fits = (height >= _HEIGHTS[0]) & (height <= _HEIGHTS[1]) & (width >= 2) & (width <= _WIDEST * height)
    fits &= (ink >= _INK[0] * box) & (ink <= _INK[1] * box + 4)
    fits[0] = False
    inside = fits[labels]
    label, value = labels[inside], grey[inside].astype(np.int32)
    order = np.lexsort((value, label))
    label, value = label[order], value[order]
    chosen = np.flatnonzero(fits)
    first, count = np.searchsorted(label, chosen), ink[chosen]
    level = value[first + (count * 3) // 4] if len(chosen) else np.zeros(0, np.int32)
    sums = np.concatenate([[0], np.cumsum(value >= np.repeat(level, count) - 2 * _LEVELS)])
    flat = (sums[first + count] - sums[first]) >= _FLAT * count
    chosen, level = chosen[flat], level[flat]
    across = np.argsort(left[chosen], kind="stable")
    chosen, level = chosen[across], level[across]
    return _Letters(left[chosen], top[chosen], width[chosen], height[chosen], level)


def _fewest(letters: _Letters, area: int) -> int:
    """Return of how many letters a line is too long for chance; as many as there are and one, where none is."""
    count = len(letters.left)
    window = (_GAP + 0.15) * 2 * _OFF_LINE * float((letters.height.astype(np.float64) ** 2).mean())
    chance = count * window / area
    if chance >= 1:
        return count + 1
    return max(_LETTERS, 1 + math.ceil(math.log(_BY_CHANCE / count) / math.log(chance)))


def _lines(letters: _Letters, area: int) -> list[Line]:
    """Return the rows of letters, each followed by its nearest right neighbour of the kind, in a frame of that area."""
    if len(letters.left) < _LETTERS:
        return []
    fewest = _fewest(letters, area)
    left, top, width, height, level = letters
    right, bottom = left + width, top + height
    free = np.ones(len(left), np.bool_)
    found = []
    for start in range(len(left)):
        row = [start] if free[start] else []
        while row:
            last = row[-1]
            higher = np.maximum(height, height[last])
            gap = left - right[last]
            follows = free & (left > left[last]) & (gap >= -0.15 * higher) & (gap <= _GAP * higher)
            follows &= np.abs(bottom - bottom[last]) <= np.maximum(1.5, _OFF_LINE * higher)
            follows &= np.minimum(height, height[last]) >= _AS_HIGH * higher
            follows &= np.abs(level - level[last]) <= _LEVELS
            if not follows.any():
                break
            row.append(int(follows.argmax()))
        if len(row) >= fewest:
            free[row] = False
            found.append(Line(int(left[row].min()), int(top[row].min()), int(right[row].max()), int(bottom[row].max())))
    return found
