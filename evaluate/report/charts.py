"""Line charts and maps of the report as inline SVG text. A series has a colour, a dash and a mark of its own.

Colours are Okabe and Ito's, through the page's CSS variables; marks and dashes repeat what colour says, so that the
figures can be read without it.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

from usjepa.evaluate.report.figures import nice_range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COLOURS = 7
"""`--c0` to `--c6` of the page's style."""

_DASHES = ("", "6 3", "2 3", "8 3 2 3", "4 2 1 2 1 2", "10 4", "1 3")
_MARKS = (
    "M{0} 0a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z",  # circle
    "M{0} {0}h{d}v{d}h-{d}z",  # square
    "M0 {0}l{r} {d}h-{d}z",  # triangle
    "M0 {0}l{r} {r}l-{r} {r}l-{r} -{r}z",  # diamond
    "M{0} {0}l{d} {d}M{0} {r}l{d} -{d}",  # cross
    "M0 {0}v{d}M{0} 0h{d}",  # plus
    "M0 {r}l{r} -{d}h-{d}z",  # triangle on its head
    "M{0} 0h{d}",  # bar
)


@dataclass(frozen=True)
class Line:
    """One encoder's curve, in percent."""

    name: str
    place: int
    """Which colour, dash and mark: the same in every figure."""
    points: tuple[tuple[int, float, float], ...]
    """(position on the axis, mean, standard deviation)."""


def mark(place: int, x: float, y: float, radius: float = 3.2) -> str:
    """Return a series' mark at a point."""
    path = _MARKS[place % len(_MARKS)].format(f"-{radius:g}", r=f"{radius:g}", d=f"{2 * radius:g}")
    return f'<path class="mark c{place % COLOURS}" transform="translate({x:.1f} {y:.1f})" d="{path}"/>'


def lines_svg(
    lines: Sequence[Line],
    ticks: Sequence[str],
    axis: str,
    title: str,
    value_range: tuple[float, float],
    width: int = 460,
) -> str:
    """Return curves over evenly spaced positions, standard deviations as whiskers.

    Args:
        lines: the curves.
        ticks: what stands below each position.
        axis: what the positions are.
        title: for those who can't see it.
        value_range: lowest and highest percent shown.
        width: of the drawing; its text keeps its size.
    """
    left, right, top = 38.0, width - 14.0, 12.0
    bottom = top + (190.0 if width > 300 else 120.0)
    low, high, marks = nice_range(value_range)

    def place(position: float, value: float) -> tuple[float, float]:
        across = left + 14 + (right - left - 28) * position / max(1, len(ticks) - 1)
        return across, bottom - (bottom - top) * (value - low) / (high - low)

    parts = []
    for tick in marks:
        y = place(0, tick)[1]
        parts.append(f'<line class="grid" x1="{left:g}" y1="{y:.1f}" x2="{right:g}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6:g}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for position, tick_text in enumerate(ticks):
        x = place(position, low)[0]
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16:g}" text-anchor="middle">{html.escape(tick_text)}</text>')
    if axis:
        middle = (left + right) / 2
        parts.append(f'<text x="{middle:g}" y="{bottom + 33:g}" text-anchor="middle">{html.escape(axis)}</text>')
    # The first series, the student, is drawn last: on top.
    for number, line in reversed(list(enumerate(lines))):
        shift = (number - (len(lines) - 1) / 2) * min(4.0, 14.0 / max(1, len(lines)))
        parts.append(_curve(line, shift, low, high, place))
    return _svg("".join(parts), width, bottom + (40 if axis else 22), title)


def _curve(
    line: Line, shift: float, low: float, high: float, place: Callable[[float, float], tuple[float, float]]
) -> str:
    dash = _DASHES[line.place % len(_DASHES)]
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
    return _svg(f'<g class="map">{body}</g>', width, height, title)


def legend(names: Sequence[tuple[int, str]], curves: bool) -> str:
    """Return what each mark stands for, as HTML; names are escaped."""
    lines = []
    for place, name in names:
        dash = _DASHES[place % len(_DASHES)] or "none"
        stroke = f'<polyline class="curve c{place % COLOURS}" stroke-dasharray="{dash}" points="0,7 34,7"/>'
        drawn = (stroke if curves else "") + mark(place, 17, 7)
        sign = f'<svg class="sign" viewBox="0 0 34 14" aria-hidden="true">{drawn}</svg>'
        lines.append(f"<li>{sign}{html.escape(name)}</li>")
    return f'<ul class="legend">{"".join(lines)}</ul>'


def _svg(body: str, width: float, height: float, title: str) -> str:
    label = html.escape(title, quote=True)
    return f'<svg viewBox="0 0 {width:g} {height:.0f}" role="img" aria-label="{label}">{body}</svg>'
