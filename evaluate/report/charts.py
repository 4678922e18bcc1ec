"""Draw the charts of a report as inline SVG."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.pages.drawing import COLOURS, DASHES, mark, nice_range, svg

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.evaluate.scores.calibration import Diagram

_WIDTH = 460
"""Units of most drawings, which keeps their text readable on a phone."""
_LABEL = 18
"""Characters that fit beside the plot of scores, bold, in any common font."""


@dataclass(frozen=True)
class Line:
    """One encoder's curve, in percent."""

    name: str
    place: int
    """Which colour, dash and mark: the same in every figure."""
    points: tuple[tuple[int, float, float], ...]
    """(position on the axis, mean, standard deviation)."""


@dataclass(frozen=True)
class Axes:
    """What curves are drawn over."""

    ticks: tuple[str, ...]
    """Below each of the evenly spaced positions."""
    value_range: tuple[float, float]
    """Lowest and highest percent shown."""
    label: str = ""
    """Of the positions; "": none."""
    width: int = _WIDTH
    """Of the drawing; its text keeps its size."""


def lines_svg(lines: Sequence[Line], axes: Axes, title: str) -> str:
    """Return curves with standard deviations as whiskers; the title is for those who can't see them."""
    width = axes.width
    left, right, top = 38.0, width - 14.0, 12.0
    bottom = top + (190.0 if width > 300 else 120.0)
    low, high, marks = nice_range(axes.value_range)

    def place(position: float, value: float) -> tuple[float, float]:
        across = left + 14 + (right - left - 28) * position / max(1, len(axes.ticks) - 1)
        return across, bottom - (bottom - top) * (value - low) / (high - low)

    parts = []
    for tick in marks:
        y = place(0, tick)[1]
        parts.append(f'<line class="grid" x1="{left:g}" y1="{y:.1f}" x2="{right:g}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6:g}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for position, tick_text in enumerate(axes.ticks):
        x = place(position, low)[0]
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16:g}" text-anchor="middle">{html.escape(tick_text)}</text>')
    if axes.label:
        middle = (left + right) / 2
        parts.append(f'<text x="{middle:g}" y="{bottom + 33:g}" text-anchor="middle">{html.escape(axes.label)}</text>')
    # The first series, the student, is drawn last: on top.
    for number, line in reversed(list(enumerate(lines))):
        shift = (number - (len(lines) - 1) / 2) * min(4.0, 14.0 / max(1, len(lines)))
        parts.append(_curve(line, shift, low, high, place))
    return svg("".join(parts), width, bottom + (40 if axes.label else 22), title)


def _curve(
    line: Line, shift: float, low: float, high: float, place: Callable[[float, float], tuple[float, float]]
) -> str:
    dash = DASHES[line.place % len(DASHES)]
    kind = f"c{line.place % COLOURS}"
    points = [(*place(position, mean), mean, sd) for position, mean, sd in line.points]
    path = " ".join(f"{x + shift:.1f},{y:.1f}" for x, y, _, _ in points)
    parts = [f'<polyline class="curve {kind}" stroke-dasharray="{dash or "none"}" points="{path}"/>']
    for x, y, mean, sd in points:
        upper, lower = (place(0, min(high, max(low, value)))[1] for value in (mean + sd, mean - sd))
        if sd:
            at = f"{x + shift:.1f}"
            parts.append(f'<line class="whisker {kind}" x1="{at}" y1="{upper:.1f}" x2="{at}" y2="{lower:.1f}"/>')
        parts.append(mark(line.place, x + shift, y))
    return "".join(parts)


def map_svg(x: Sequence[int], y: Sequence[int], kinds: Sequence[int], resolution: int, title: str) -> str:
    """Return frames as marks on a square of whole coordinates 0..resolution; a mark's kind is its series."""
    width, margin = 460, 14
    scale = (width - 2 * margin) / resolution
    height = scale * max(y) + 2 * margin
    body = f'<rect class="frame" x="1" y="1" width="{width - 2}" height="{height - 2:.0f}"/>' + "".join(
        mark(kind, margin + scale * px, height - margin - scale * py, 2.8)
        for px, py, kind in zip(x, y, kinds, strict=True)
    )
    return svg(f'<g class="map">{body}</g>', width, height, title)


def reliability_svg(states: Sequence[tuple[int, Diagram]], label: str) -> str:
    """Return a reliability diagram: share right over confidence, a curve per state of the probe."""
    edge, left, top = 190.0, 38.0, 12.0

    def place(confidence: float, right: float) -> tuple[float, float]:
        return left + edge * confidence, top + edge * (1.0 - right)

    parts = []
    for tick in range(0, 101, 25):
        x, y = place(tick / 100, tick / 100)
        parts.append(f'<line class="grid" x1="{left:g}" y1="{y:.1f}" x2="{left + edge:g}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6:g}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
        parts.append(f'<text x="{x:.1f}" y="{top + edge + 16:g}" text-anchor="middle">{tick}</text>')
    parts.append(f'<line class="even" x1="{left:g}" y1="{top + edge:g}" x2="{left + edge:g}" y2="{top:g}"/>')
    for number, drawn in reversed(states):
        points = [place(*pair) for pair in zip(drawn.confidence, drawn.accuracy, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = "6 3" if number else "none"
        parts.append(f'<polyline class="curve c{number}" stroke-dasharray="{dash}" points="{path}"/>')
        parts += [mark(number, x, y) for x, y in points]
    middle = left + edge / 2
    parts.append(f'<text x="{middle:g}" y="{top + edge + 33:g}" text-anchor="middle">confidence, %</text>')
    return svg("".join(parts), 260, top + edge + 40, label)


@dataclass(frozen=True)
class Series:
    """One encoder's line in the plot of scores, percent."""

    name: str
    seeds: tuple[float, ...]
    knn: float
    ours: bool
    """The student: drawn in the accent colour."""
    interval: tuple[float, float] | None = None
    """95 %, of the mean."""


def scores_svg(series: Sequence[Series], floor: float, title: str) -> str:
    """Return a dot per probe seed, a bar at their mean and a diamond for k-NN, a line of the plot per encoder."""
    left, right, top, step = 138, 446, 20, 40
    bottom = top + step * len(series)

    def x(percent: float) -> float:
        return left + (right - left) * percent / 100.0

    parts = [_grid_x(x, top, bottom)]
    parts.append(f'<line class="floor" x1="{x(floor):.1f}" y1="{top - 6}" x2="{x(floor):.1f}" y2="{bottom}"/>')
    for i, one in enumerate(series):
        y, kind = top + step * i + step / 2, "ours" if one.ours else "other"
        mean = x(float(np.mean(one.seeds)))
        parts.append(label_beside(one.name, kind, left - 8, y))
        if one.interval is not None:
            low, high = (x(end) for end in one.interval)
            parts.append(f'<line class="{kind} interval" x1="{low:.1f}" y1="{y:.0f}" x2="{high:.1f}" y2="{y:.0f}"/>')
        parts += [f'<circle class="{kind}" cx="{x(s):.1f}" cy="{y:.0f}" r="3.5"/>' for s in one.seeds]
        parts.append(f'<line class="{kind} mean" x1="{mean:.1f}" y1="{y - 9:.0f}" x2="{mean:.1f}" y2="{y + 9:.0f}"/>')
        k = x(one.knn)
        parts.append(f'<path class="knn" d="M{k:.1f} {y - 6:.0f}l6 6l-6 6l-6 -6z"/>')
    return svg("".join(parts), _WIDTH, bottom + 24, title)


def _grid_x(x: Callable[[float], float], top: float, bottom: float) -> str:
    parts = []
    for percent in range(0, 101, 20):
        at = x(float(percent))
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{percent}</text>')
    return "".join(parts)


def label_beside(name: str, kind: str, x: float, y: float) -> str:
    """Return a line's name to the left of it, in up to three lines; what is longer still ends in an ellipsis."""
    lines = textwrap.wrap(name, _LABEL, max_lines=3, placeholder="…", break_long_words=True)
    top = y + 4 - 6.5 * (len(lines) - 1)
    return "".join(
        f'<text class="{kind}" x="{x}" y="{top + 13 * i:.1f}" text-anchor="end">{html.escape(line)}</text>'
        for i, line in enumerate(lines)
    )
