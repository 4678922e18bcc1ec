"""Draw marks, legends and axes as inline SVG, with reproducible bytes.

Colours come from the page's CSS variables (Okabe and Ito's), so that figures follow its light and dark dress. A series
has a colour, a dash and a mark of its own: figures can be read without colour.
"""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

COLOURS = 7
"""`--c0` to `--c6` of `style.css`."""
DASHES = ("", "6 3", "2 3", "8 3 2 3", "4 2 1 2 1 2", "10 4", "1 3")
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


def mark(place: int, x: float, y: float, radius: float = 3.2) -> str:
    """Return a series' mark at a point."""
    path = _MARKS[place % len(_MARKS)].format(f"-{radius:g}", r=f"{radius:g}", d=f"{2 * radius:g}")
    return f'<path class="mark c{place % COLOURS}" transform="translate({x:.1f} {y:.1f})" d="{path}"/>'


def legend(names: Sequence[tuple[int, str]], curves: bool) -> str:
    """Return what each mark stands for, as HTML; names are escaped."""
    lines = []
    for place, name in names:
        dash = DASHES[place % len(DASHES)] or "none"
        stroke = f'<polyline class="curve c{place % COLOURS}" stroke-dasharray="{dash}" points="0,7 34,7"/>'
        drawn = (stroke if curves else "") + mark(place, 17, 7)
        sign = f'<svg class="sign" viewBox="0 0 34 14" aria-hidden="true">{drawn}</svg>'
        lines.append(f"<li>{sign}{html.escape(name)}</li>")
    return f'<ul class="legend">{"".join(lines)}</ul>'


def nice_range(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return a range a little wider than the values', and about five round numbers within it."""
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    if high - low < 1e-12 * max(1.0, largest):
        low, high = low - (0.1 * largest or 0.5), high + (0.1 * largest or 0.5)
    margin = 0.04 * (high - low)
    low, high = low - margin, high + margin
    return low, high, ticks_of(low, high, 5)


def ticks_of(low: float, high: float, wanted: int) -> list[float]:
    """Return about `wanted` round numbers within a range."""
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def svg(body: str, width: float, height: float, title: str) -> str:
    """Return a drawing of some units; the title is for those who can't see it."""
    label = html.escape(title, quote=True)
    return f'<svg viewBox="0 0 {width:g} {height:.0f}" role="img" aria-label="{label}">{body}</svg>'
