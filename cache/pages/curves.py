"""Draw numbers over time as inline SVG: a curve per series, thinned, with axes."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.pages.drawing import COLOURS, DASHES, mark, nice_range, svg, ticks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH = 460
"""Units of a drawing, which keeps its text readable on a phone."""
_MOST_POINTS, _MARKED = 300, 40
"""Of a curve, and of one that has a mark at each."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 448.0, 14.0, 194.0

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Trace:
    """One curve."""

    name: str
    place: int
    """Which colour, dash and mark."""
    points: Points
    """(when, value), in order."""


def curves_svg(traces: Sequence[Trace], across: str, title: str) -> str:
    """Return curves over one axis that begins at 0; of many points, means of neighbours.

    Args:
        traces: at least one with a point; the first is drawn on top.
        across: what stands below the axis.
        title: for those who can't see it.
    """
    shown = [(one, thinned(one.points)) for one in traces]
    every = [point for _, points in shown for point in points]
    last = max(when for when, _ in every) or 1.0
    low, high, marks = nice_range([value for _, value in every])

    def x(when: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * when / last

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low)

    parts = []
    for tick in marks:
        parts.append(f'<line class="grid" x1="{_LEFT:g}" y1="{y(tick):.1f}" x2="{_RIGHT:g}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6:g}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in ticks_of(0.0, last, 5):
        parts.append(f'<text x="{x(tick):.1f}" y="{_BOTTOM + 16:g}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + _RIGHT) / 2
    parts.append(f'<text x="{middle:g}" y="{_BOTTOM + 34:g}" text-anchor="middle">{html.escape(across)}</text>')
    for one, points in reversed(shown):
        parts.append(_curve(one.place, [(x(when), y(value)) for when, value in points]))
    return svg("".join(parts), _WIDTH, _BOTTOM + 42, title)


def thinned(points: Points, most: int = _MOST_POINTS) -> Points:
    """Return at most so many points, each the mean of its neighbours: the curve, not its noise."""
    if len(points) <= most:
        return points
    pieces = np.array_split(np.asarray(points, dtype=np.float64), most)
    return [(float(piece[:, 0].mean()), float(piece[:, 1].mean())) for piece in pieces]


def _curve(place: int, points: Points) -> str:
    """Return a line, with a mark at each of a few points."""
    dash, parts = DASHES[place % len(DASHES)] or "none", []
    if len(points) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="curve c{place % COLOURS}" stroke-dasharray="{dash}" points="{path}"/>')
    if len(points) <= _MARKED:
        parts += [mark(place, x, y, 2.5) for x, y in points]
    return "".join(parts)
