"""Draw predicted against true numbers, with the line of a faultless encoder and the floor."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.pages.drawing import mark, nice_range, svg

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_POINTS = 600
"""Points of a chart, evenly spaced over the test: more would hide each other."""
_WIDTH, _EDGE, _LEFT, _TOP = 260.0, 190.0, 52.0, 12.0


@dataclass(frozen=True)
class Scatter:
    """What one encoder predicts."""

    true_N: NDArray[np.float64]
    predicted_N: NDArray[np.float64]
    floor: float
    """Predicted for everything by the mean of the training values."""
    value_range: tuple[float, float]
    """Lowest and highest number shown, on both axes."""
    place: int
    """The encoder's colour and mark in every figure."""
    across: str
    """What stands below the horizontal axis."""


def scatter_svg(shown: Scatter, title: str) -> str:
    """Return a point for each of at most 600 items; the title is for those who can't see them."""
    low, high, ticks = nice_range(shown.value_range)

    def place(true: float, predicted: float) -> tuple[float, float]:
        across, up = (_EDGE * (value - low) / (high - low) for value in (true, predicted))
        return _LEFT + across, _TOP + _EDGE - up

    right, bottom = _LEFT + _EDGE, _TOP + _EDGE
    parts = []
    for tick in ticks:
        x, y = place(tick, tick)
        parts.append(f'<line class="grid" x1="{_LEFT:g}" y1="{y:.1f}" x2="{right:g}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16:g}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<line class="even" x1="{_LEFT:g}" y1="{bottom:g}" x2="{right:g}" y2="{_TOP:g}"/>')
    count = len(shown.true_N)
    some = np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(np.int64))
    points = [place(*pair) for pair in zip(shown.true_N[some].tolist(), shown.predicted_N[some].tolist(), strict=True)]
    parts.append(f'<g class="map">{"".join(mark(shown.place, x, y, 2.4) for x, y in points)}</g>')
    level = place(low, shown.floor)[1]
    parts.append(f'<line class="floor" x1="{_LEFT:g}" y1="{level:.1f}" x2="{right:g}" y2="{level:.1f}"/>')
    middle = _LEFT + _EDGE / 2
    parts.append(f'<text x="{middle:g}" y="{bottom + 33:g}" text-anchor="middle">{html.escape(shown.across)}</text>')
    return svg("".join(parts), _WIDTH, bottom + 40, title)
