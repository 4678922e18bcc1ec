"""Draw every encoder's score on a task as a dot with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from usjepa.cache.pages.drawing import nice_range, svg
from usjepa.evaluate.report.answer.standing import DICE, MACRO_F1, MAE
from usjepa.evaluate.report.charts import label_beside

if TYPE_CHECKING:
    from usjepa.evaluate.report.answer.standing import Standing

_WIDTH, _LEFT, _RIGHT, _TOP, _STEP = 360, 134, 346, 8, 38
_HEADINGS = {MACRO_F1: "macro F1, %", DICE: "Dice, %", MAE: "mean absolute error{} (lower is better)"}


@dataclass(frozen=True)
class Dots:
    """The chart of a task."""

    standing: Standing
    measured: str
    """What stands along its axis."""
    svg: Markup


def dots_of(one: Standing) -> Dots:
    """Return a task's chart: a line per encoder, the best on top; the floor is a dashed line."""
    measured = _HEADINGS[one.measure].format(f", {one.unit}" if one.unit else "")
    factor = 1.0 if one.measure == MAE else 100.0
    ends = [factor * end for row in one.rows for end in (row.value, *(row.interval or ()))]
    low, high, ticks = nice_range([*ends, factor * one.floor])
    bottom = _TOP + _STEP * len(one.rows)

    def x(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (factor * value - low) / (high - low)

    parts = []
    for tick in ticks:
        at = x(tick / factor)
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>')
    floor = x(one.floor)
    parts.append(f'<line class="floor" x1="{floor:.1f}" y1="{_TOP}" x2="{floor:.1f}" y2="{bottom}"/>')
    for number, row in enumerate(one.rows):
        y, kind = _TOP + _STEP * (number + 0.5), "ours" if row.ours else "other"
        parts.append(label_beside(row.title, kind, _LEFT - 8, y))
        if row.interval is not None:
            low_x, high_x = (x(end) for end in row.interval)
            parts.append(f'<line class="{kind} wide" x1="{low_x:.1f}" y1="{y:g}" x2="{high_x:.1f}" y2="{y:g}"/>')
        parts.append(f'<circle class="{kind} dot" cx="{x(row.value):.1f}" cy="{y:g}" r="5"/>')
    title = f"{measured[0].upper()}{measured[1:]} on {one.task} by encoder, with intervals"
    return Dots(one, measured, Markup(svg("".join(parts), _WIDTH, bottom + 20, title)))
