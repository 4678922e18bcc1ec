"""Find the part of a frame that holds echo, apart from text, rulers and borders.

The search goes by texture, not by shape: a scan is a large, densely lit area, while text, rulers and icons are thin or
small and borders are dark. No manufacturer's screen layout is built in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

REGION_VERSION = 1
"""Raised when `find_region` gives other regions for the same frames; part of the pixels' identity."""

_EDGE = 256
"""Longest edge, pixels, at which the region is sought: text is still thin there, and the cost is bounded."""
_MARK_CHROMA = 64
"""Largest minus smallest channel beyond which a pixel is coloured, after the image's own tint is taken off."""
_MARK_SHARE = 0.05
"""Coloured pixels that cover less of the frame than this are marks, more are a tint or colour Doppler [paper: 5 %]."""
_DARK = 48
"""A frame whose border is brighter than this has no dark border: it is echo to its edges."""
_FILLED = 0.97
"""A region that covers more of the frame than this is the whole frame."""
_SMALLEST = 0.02
"""A core that covers less of the frame than this is an icon or a line of text, not a scan."""

_PIECE = 0.04
"""A densely lit area with at least this share of the largest one's pixels is a piece of the same scan."""


def find_region(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the scan area of a frame [H, W] or [H, W, 3] RGB as bool [H, W]: one filled convex shape, or nothing.

    A frame without bright pixels gives the whole frame: there is nothing to hide. A frame that has bright pixels but no
    densely lit area (a title page, a form) gives an empty region, so that text can never pass for a scan.
    """
    height, width = frame.shape[:2]
    scale = min(1.0, _EDGE / max(height, width))
    small = frame
    if scale < 1.0:
        shape = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = _uint8(cv2.resize(frame, shape, interpolation=cv2.INTER_AREA))
    lit = _lit(small)
    if not lit.any():
        return np.ones((height, width), np.bool_)
    core = _core(lit)
    if cv2.countNonZero(core) < _SMALLEST * core.size:
        return np.zeros((height, width), np.bool_)
    return _hull(_regrown(core, lit), (height, width))


def find_marks(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the coloured pixels of a frame [H, W, 3] RGB as 0 or 255, uint8 [H, W]; none when the frame is grey.

    Many scanners show echo through a tinted map. The tint, the usual difference of red and blue from green,
    is taken off first, so that the brightest echoes of a tinted clip don't count as marks.
    """
    chroma = _chroma(frame)
    if int(chroma.max()) <= _MARK_CHROMA:
        return np.zeros(frame.shape[:2], np.uint8)
    tint = _tint(frame)
    if any(tint):
        chroma = _chroma(_untinted(frame, tint))
    return _uint8(cv2.threshold(chroma, _MARK_CHROMA, 255, cv2.THRESH_BINARY)[1])


def _chroma(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the largest minus the smallest channel."""
    red, green, blue = cv2.split(frame)
    largest, smallest = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    return _uint8(cv2.subtract(largest, smallest))


def _tint(frame: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the median of (red - green) and (blue - green) of pixels that are lit.

    Medians: marks cover little of what is lit. A ninth of the pixels is enough, and keeps large frames quick.
    """
    red, green, blue = (np.ascontiguousarray(frame[::3, ::3, c]) for c in range(3))
    lit = cv2.max(cv2.max(red, green), blue) > _DARK
    if not lit.any():
        return 0.0, 0.0
    base = green[lit].astype(np.int16)
    return float(np.median(red[lit] - base)), float(np.median(blue[lit] - base))


def _untinted(frame: NDArray[np.uint8], tint: tuple[float, float]) -> NDArray[np.uint8]:
    """Return the frame with the tint taken from red and blue.

    It is taken as levels: scanners' maps add a nearly constant step of colour to all but the darkest greys.
    """
    red, green, blue = cv2.split(frame)
    channels = [cv2.addWeighted(c, 1.0, c, 0.0, -t) for c, t in ((red, tint[0]), (blue, tint[1]))]
    return _uint8(cv2.merge([channels[0], green, channels[1]]))


def _lit(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 1 where a pixel is brighter than the background and is no coloured mark, uint8 [H, W]."""
    grey = frame
    marks = None
    if frame.ndim == 3:
        grey = _uint8(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        marks = find_marks(frame)
    background, noise = _background(grey)
    lit = _uint8(cv2.threshold(grey, background + max(4, 3 * noise), 1, cv2.THRESH_BINARY)[1])
    if marks is not None and 0 < cv2.countNonZero(marks) < _MARK_SHARE * marks.size:
        # Video codecs smear colour over neighbours: what touches a mark is no echo either.
        lit[cv2.dilate(marks, _square(3)) > 0] = 0
    return lit


def _background(grey: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the level of the dark border and its spread; (0, 0) when the frame has no dark border.

    Black is 0 in PNG, 16 in a clip decoded without range expansion, dark grey on some screens: the commonest level of
    the frame's outermost pixels, if dark, is taken for it.
    """
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    counts = np.bincount(border, minlength=256)
    level = int(counts[:_DARK].argmax())
    near = border[np.abs(border.astype(np.int16) - level) <= 6]
    if len(near) < 0.1 * len(border):
        return 0, 0
    return level, round(float(np.abs(near.astype(np.int16) - level).mean()))


def _core(lit: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the largest densely lit area, holes filled, as 0 or 1.

    Density in a window as high as a line of text: two thirds of its pixels or more for speckle, half for text. The
    opening then breaks off what is thinner than a paragraph: rulers, grey bars, logos, bridges from a scan to text.
    """
    edge = max(lit.shape)
    window = max(3, edge // 32 | 1)
    density = cv2.boxFilter(lit * np.uint8(200), -1, (window, window), borderType=cv2.BORDER_REFLECT)
    dense = _uint8(cv2.threshold(density, 120, 1, cv2.THRESH_BINARY)[1])
    radius = max(2, edge // 26)
    # Padding repeats the edge, so that the opening does not eat at a scan that runs out of the frame.
    padded = cv2.copyMakeBorder(_filled(dense), radius, radius, radius, radius, cv2.BORDER_REPLICATE)
    opened = _dilated(_eroded(_uint8(padded), radius), radius)
    return _largest(_uint8(opened[radius:-radius, radius:-radius]))


def _regrown(core: NDArray[np.uint8], lit: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the core with the lit pixels connected to it nearby: corners and tips that the opening cut off.

    The opening by a disc of radius r cuts 0.4 r off a right angle and 0.7 r off the tip of a sector of 70 degrees.
    """
    # A little opening first: the strokes of letters and a ruler's ticks are thinner than it. No closing before it, that
    # would bridge the two or three dark pixels between a scan and the text beside it.
    edge = max(core.shape)
    solid = cv2.morphologyEx(lit, cv2.MORPH_OPEN, _square(max(3, edge // 80)))
    near = cv2.bitwise_and(solid, _dilated(core, max(2, edge // 28)))
    _, labels = cv2.connectedComponents(cv2.bitwise_or(near, core), connectivity=4)
    kept = np.bincount(labels[core > 0], minlength=int(labels.max()) + 1) > 0
    return _uint8(kept[labels])


def _dilated(mask: NDArray[np.uint8], radius: int) -> NDArray[np.uint8]:
    """Return a mask of 0 and 1 dilated by a disc; by distances, whose cost does not depend on the radius."""
    return _uint8(cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5) <= radius) if mask.any() else mask


def _eroded(mask: NDArray[np.uint8], radius: int) -> NDArray[np.uint8]:
    """Return a mask of 0 and 1 eroded by a disc."""
    return 1 - _dilated(1 - mask, radius)


def _filled(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a mask of 0 and 1 with its holes filled."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return _uint8(cv2.drawContours(np.zeros_like(mask), contours, -1, 1, cv2.FILLED))


def _largest(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the largest components of a mask as 0 or 1.

    Several, because fluid or a full shadow across the sector splits a scan, and all pieces survive the opening.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if count < 2:
        return mask
    pieces = np.asarray(stats[:, cv2.CC_STAT_AREA]) >= _PIECE * stats[1:, cv2.CC_STAT_AREA].max()
    pieces[0] = False
    return _uint8(pieces[np.asarray(labels)])


def _hull(mask: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the convex hull of a small mask, drawn at the frame's own size."""
    height, width = shape
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    points = np.concatenate(contours).reshape(-1, 2)
    # A small pixel is a square, not a point: its four corners bound the hull.
    corners = np.concatenate([points + offset for offset in ((0, 0), (0, 1), (1, 0), (1, 1))])
    corners = corners * np.array([width / mask.shape[1], height / mask.shape[0]])
    hull = cv2.convexHull(np.rint(corners).astype(np.int32)).reshape(-1, 2)
    # Corners lie between pixels, drawing covers the pixels it starts and ends on: step half a pixel inwards.
    middle = hull.mean(0)
    hull = np.where(hull > middle, hull - 1, hull)
    found = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(found, hull.astype(np.int32), 1)
    if cv2.countNonZero(found) > _FILLED * found.size:
        return np.ones(shape, np.bool_)
    return found.astype(np.bool_)


def _square(edge: int) -> NDArray[np.uint8]:
    return np.ones((edge, edge), np.uint8)


def _uint8(array: object) -> NDArray[np.uint8]:
    """Return an array that OpenCV made, typed."""
    return np.asarray(array, np.uint8)
