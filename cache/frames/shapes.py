"""Describe the shapes that scanners show: sectors, trapezoids and rectangles, upright and symmetric.

One family of seven numbers holds them all. Two sides lean outwards alike from an axis; top and bottom are straight, or
arcs around the point where the sides meet. What lies outside the frame is cut off by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UPRIGHT = 1e-4
"""Sides that lean less are upright: the point where they meet is too far off to compute with."""


class Shape(NamedTuple):
    """A sector, trapezoid or rectangle; x and y in pixels from the top left corner of the frame."""

    axis: float
    """x of the axis."""
    half_width: float
    """From the axis to a side, at y = 0; negative where the sides meet below it."""
    lean: float
    """By how much the half width grows per pixel of y; 0 or more."""
    top: float
    """y of the upper edge on the axis."""
    bottom: float
    """y of the lower edge on the axis."""
    top_round: float
    """0: the upper edge is straight; 1: an arc of a circle; else of an ellipse, (width / height of a pixel) squared."""
    bottom_round: float
    """The same for the lower edge."""

    def scaled(self, across: float, down: float) -> Shape:
        """Return the shape in a frame that is stretched by these factors."""
        squeeze = (down / across) ** 2
        return Shape(
            self.axis * across,
            self.half_width * across,
            self.lean * across / down,
            self.top * down,
            self.bottom * down,
            self.top_round * squeeze,
            self.bottom_round * squeeze,
        )

    def drawn(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return bool [H, W]: the pixels whose middles lie within."""
        top, bottom, _ = spans(np.array([self]), height, width)
        y = np.arange(height)[:, None] + 0.5
        return (y >= top) & (y <= bottom)


def spans(shapes: NDArray[np.float64], height: int, width: int) -> tuple[NDArray[np.float64], ...]:
    """Return where shapes begin and end in every column of pixels; a shape has no gaps in a column.

    Args:
        shapes: float [N, 7], a `Shape` per line.
        height: of the frame.
        width: of the frame.

    Returns:
        y of the upper end, of the lower end, and of the side, each [N, W]; the upper end is the side's where that lies
        lower than the upper edge. An end above the other one: the column lies outside.
    """
    axis, half, lean, top, bottom, top_round, bottom_round = (shapes[:, i : i + 1] for i in range(7))
    lean = np.maximum(lean, _UPRIGHT)
    away = np.abs(np.arange(width)[None] + 0.5 - axis)
    side = (away - half) / lean
    meet = -half / lean
    upper = np.maximum(_arc(top, top_round, meet, away), side)
    return upper, np.minimum(_arc(bottom, bottom_round, meet, away), height), side


def _arc(
    y: NDArray[np.float64], roundness: NDArray[np.float64], meet: NDArray[np.float64], away: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return an edge [N, W] that crosses the axis at y: straight, or around the point on the axis at `meet`."""
    reach = y - meet
    arc = meet + np.sqrt(np.maximum(reach**2 - roundness * away**2, 0))
    return np.where((roundness > 0) & (reach > 0), arc, y)
