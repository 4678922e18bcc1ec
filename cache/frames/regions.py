"""Find the part of a frame, or of a whole clip, that holds echo.

A scan is a large, densely lit area, while text, rulers and icons are thin or small; to it a sector, trapezoid or
rectangle is fitted. No manufacturer's screen layout is built in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np

from usjepa.cache.frames.fitting import fit_shape
from usjepa.cache.frames.lit import Look, lit_in_clip, look_at
from usjepa.cache.frames.text import Line, find_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.sources.base import Box

REGION_VERSION = 2
"""Raised when regions of the same frames become others; part of the pixels' identity."""

_FILLED = 0.97
"""A region that covers more of the frame than this is the whole frame."""
_SMALLEST = 0.02
"""A core that covers less of the frame than this is an icon or a line of text, not a scan."""
_PIECE = 0.04
"""A densely lit area with at least this share of the largest one's pixels is a piece of the same scan."""


class Region(NamedTuple):
    """Where the scan lies in a frame."""

    mask: NDArray[np.bool_]
    """[H, W]"""
    origin: Literal["fitted", "filled", "dark", "none", "given"]
    """How it came about: a shape fitted to what is lit; the frame is lit to its edges, or has nothing lit, and is taken
    whole; nothing lit looks like a scan, and the mask is empty; or it came with the source."""
    text: tuple[Line, ...] = ()
    """Lines within it that look like text, where they were sought."""

    @property
    def is_whole(self) -> bool:
        """Whether the whole frame was taken for the scan."""
        return self.origin in ("filled", "dark")


def find_region(frame: NDArray[np.uint8]) -> Region:
    """Return the scan area of a frame [H, W] or [H, W, 3] RGB, seen by itself."""
    height, width = frame.shape[:2]
    return region_of([look_at(frame)], height, width)


def with_text(region: Region, frames: Iterable[NDArray[np.uint8]]) -> Region:
    """Return the region of frames [H, W] or [H, W, 3] with the lines in it that look like text in any of them."""
    return region._replace(text=tuple(sorted({line for frame in frames for line in find_text(frame, region.mask)})))


def rough_region(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the dense areas that a region would be fitted to, at most 256 pixels wide and high, in less time."""
    lit = look_at(frame).lit
    core = _core(lit) if lit.any() else np.ones_like(lit)
    return (core > 0) & (cv2.countNonZero(core) >= _SMALLEST * core.size)


def region_of(looks: Sequence[Look], height: int, width: int) -> Region:
    """Return the one scan area of frames that show the same screen.

    Args:
        looks: of one frame, or of a sample of a clip.
        height: of the frames, pixels.
        width: of the frames, pixels.
    """
    lit = lit_in_clip(looks)
    if not lit.any():
        return Region(np.ones((height, width), np.bool_), "dark")
    core = _core(lit)
    if cv2.countNonZero(core) < _SMALLEST * core.size:
        return Region(np.zeros((height, width), np.bool_), "none")
    shape = fit_shape(_regrown(core, lit)).scaled(width / lit.shape[1], height / lit.shape[0])
    mask = shape.drawn(height, width)
    if cv2.countNonZero(mask.view(np.uint8)) > _FILLED * mask.size:
        return Region(np.ones((height, width), np.bool_), "filled")
    return Region(mask, "fitted")


def region_in_boxes(boxes: Sequence[Box], looks: Sequence[Sequence[Look]], without: Region) -> Region:
    """Return the region of frames of which the file says that their images lie in these boxes.

    Headers outlive cropping and resizing: where the boxes hold nothing, or less than a quarter of what is found
    without them, they are not believed.

    Args:
        boxes: parts of the frame, within it.
        looks: of each box, the looks at that part of the frames.
        without: what was found in the whole frames.
    """
    mask = np.zeros_like(without.mask)
    for box, seen in zip(boxes, looks, strict=True):
        inside = region_of(seen, box.bottom - box.top, box.right - box.left)
        if inside.origin != "dark":
            mask[box.top : box.bottom, box.left : box.right] |= inside.mask
    shared = np.count_nonzero(mask & without.mask)
    believed = mask.any() and (without.origin != "fitted" or 4 * shared >= np.count_nonzero(without.mask))
    return Region(mask, "fitted") if believed else without


def plausible(boxes: Sequence[Box], height: int, width: int) -> list[Box]:
    """Return the boxes that lie within a frame and are neither a corner of it nor all of it."""
    area = height * width
    return [
        box
        for box in boxes
        if 0 <= box.left < box.right <= width
        and 0 <= box.top < box.bottom <= height
        and _SMALLEST * area <= (box.right - box.left) * (box.bottom - box.top) <= _FILLED * area
    ]


def _core(lit: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the largest densely lit areas, holes filled, as 0 or 1.

    Density in a window as high as a line of text: two thirds of its pixels or more for speckle, half for text. The
    opening then breaks off what is thinner than a paragraph: rulers, grey bars, logos, bridges from a scan to text.
    """
    edge = max(lit.shape)
    window = max(3, edge // 32 | 1)
    density = cv2.boxFilter(lit * np.uint8(200), -1, (window, window), borderType=cv2.BORDER_REFLECT)
    dense = _filled(_uint8(cv2.threshold(density, 120, 1, cv2.THRESH_BINARY)[1]))
    radius = max(2, edge // 26)
    # Padding repeats the edge, so that the opening does not eat at a scan that runs out of the frame.
    padded = cv2.copyMakeBorder(dense, radius, radius, radius, radius, cv2.BORDER_REPLICATE)
    eroded = _eroded(_uint8(padded), radius)
    opened = _uint8(_dilated(eroded, radius)[radius:-radius, radius:-radius])
    # A bar along the frame's edge would be thick by that padding: only the largest area needs it.
    thick = cv2.copyMakeBorder(dense, radius, radius, radius, radius, cv2.BORDER_CONSTANT, value=0)
    return _largest(opened, _eroded(_uint8(thick), radius)[radius:-radius, radius:-radius])


def _regrown(core: NDArray[np.uint8], lit: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the core with the lit pixels connected to it: corners, tips and thin bands that the opening cut off."""
    # A little opening first: the strokes of letters and a ruler's ticks are thinner than it. No closing before it, that
    # would bridge the two or three dark pixels between a scan and the text beside it.
    edge = max(core.shape)
    solid = cv2.morphologyEx(lit, cv2.MORPH_OPEN, _square(max(3, edge // 80)))
    near = cv2.bitwise_and(solid, _dilated(core, max(2, edge // 2)))
    _, labels = cv2.connectedComponents(cv2.bitwise_or(near, core), connectivity=4)
    kept = np.bincount(labels[core > 0], minlength=int(labels.max()) + 1) > 0
    kept[0] = False
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


def _largest(mask: NDArray[np.uint8], thick: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the largest components of a mask as 0 or 1; all but the largest must have a pixel that is `thick`.

    Several, because fluid or a full shadow across the sector splits a scan, and all pieces survive the opening.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if count < 2:
        return mask
    areas = np.asarray(stats[:, cv2.CC_STAT_AREA]).copy()
    areas[0] = 0
    pieces = areas >= max(1, _PIECE * areas.max())
    pieces &= np.bincount(labels[thick > 0], minlength=count) > 0
    pieces[int(areas.argmax())] = True
    pieces[0] = False
    return _uint8(pieces[np.asarray(labels)])


def _square(edge: int) -> NDArray[np.uint8]:
    return np.ones((edge, edge), np.uint8)


def _uint8(array: object) -> NDArray[np.uint8]:
    """Return an array that OpenCV made, typed."""
    return np.asarray(array, np.uint8)
