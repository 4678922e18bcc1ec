"""The report's figures as inline SVG text: sharp on paper and phone, light or dark, the same bytes each time.

Colours come from the page's CSS variables, so that figures follow its light and dark dress. Shapes and labels
repeat what colour says. Every SVG is 460 units wide, which keeps its text readable on a phone.
"""

from __future__ import annotations

import base64
import html
import io
import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from usjepa.evaluate.report.markup import Points

_WIDTH = 460
_MOST_POINTS = 400
_LABEL = 18
"""Characters that fit beside the plot of scores, bold, in any common font."""


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
        parts.append(_label(one.name, kind, left - 8, y))
        if one.interval is not None:
            low, high = (x(end) for end in one.interval)
            parts.append(f'<line class="{kind} interval" x1="{low:.1f}" y1="{y:.0f}" x2="{high:.1f}" y2="{y:.0f}"/>')
        parts += [f'<circle class="{kind}" cx="{x(s):.1f}" cy="{y:.0f}" r="3.5"/>' for s in one.seeds]
        parts.append(f'<line class="{kind} mean" x1="{mean:.1f}" y1="{y - 9:.0f}" x2="{mean:.1f}" y2="{y + 9:.0f}"/>')
        k = x(one.knn)
        parts.append(f'<path class="knn" d="M{k:.1f} {y - 6:.0f}l6 6l-6 6l-6 -6z"/>')
    return _svg("".join(parts), bottom + 24, title)


def loss_svg(train: Points, validation: Points, title: str) -> str:
    """Return the loss over epochs: training as a line, validation dashed with dots."""
    left, right, top, bottom = 52, 448, 14, 214
    train, validation = _thinned(train), _thinned(validation)
    every = train + validation
    last = max(x for x, _ in every) or 1.0
    low, high, ticks = nice_range([y for _, y in every])

    def place(points: Points) -> Points:
        return [
            (left + (right - left) * px / last, bottom - (bottom - top) * (py - low) / (high - low))
            for px, py in points
        ]

    parts = []
    for tick in ticks:
        y = bottom - (bottom - top) * (tick - low) / (high - low)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(0.0, last, 5):
        x = left + (right - left) * tick / last
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{(left + right) / 2:.0f}" y="{bottom + 34}" text-anchor="middle">epoch</text>')
    parts.append(_line("train", place(train)) + _line("validation", place(validation)))
    parts += [f'<circle class="validation" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in place(validation)]
    return _svg("".join(parts), bottom + 42, title)


def frame_png(pixels_CSS: NDArray[np.uint8], edge: int = 224) -> str:
    """Return stored pixels as the data URI of a PNG, at most `edge` pixels wide."""
    from PIL import Image

    grey = pixels_CSS.shape[0] == 1
    image = Image.fromarray(pixels_CSS[0] if grey else np.ascontiguousarray(pixels_CSS.transpose(1, 2, 0)))
    if image.width > edge:
        image = image.resize((edge, edge), Image.Resampling.BOX)
    sink = io.BytesIO()
    image.save(sink, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


def _svg(body: str, height: float, title: str) -> str:
    label = html.escape(title, quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{label}">{body}</svg>'


def _grid_x(x: Callable[[float], float], top: float, bottom: float) -> str:
    parts = []
    for percent in range(0, 101, 20):
        at = x(float(percent))
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{percent}</text>')
    return "".join(parts)


def _label(name: str, kind: str, x: float, y: float) -> str:
    """Return a line's name to the left of it, in up to three lines; what is longer still ends in an ellipsis."""
    lines = textwrap.wrap(name, _LABEL, max_lines=3, placeholder="…", break_long_words=True)
    top = y + 4 - 6.5 * (len(lines) - 1)
    return "".join(
        f'<text class="{kind}" x="{x}" y="{top + 13 * i:.1f}" text-anchor="end">{_text(line)}</text>'
        for i, line in enumerate(lines)
    )


def _line(kind: str, points: Points) -> str:
    if len(points) < 2:
        return ""
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _text(value: str) -> str:
    return html.escape(value)


def _thinned(points: Points) -> Points:
    """Return at most 400 points, each the mean of its neighbours: the curve, not its noise."""
    if len(points) <= _MOST_POINTS:
        return points
    pieces = np.array_split(np.asarray(points, dtype=np.float64), _MOST_POINTS)
    return [(float(piece[:, 0].mean()), float(piece[:, 1].mean())) for piece in pieces]


def nice_range(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return a range a little wider than the values', and about five round numbers within it."""
    low, high = min(values), max(values)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    margin = 0.04 * (high - low)
    low, high = low - margin, high + margin
    return low, high, _ticks(low, high, 5)


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Return about `wanted` round numbers within a range."""
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
