"""Draw scores against bytes as an SVG picture."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 360, 56, 20, 30, 52


@dataclass(frozen=True)
class Point:
    """One form: its share of fp16's bytes, and a score of each seed."""

    name: str
    share: float
    scores: list[float]


def curve_svg(points: list[Point], title: str, unit: str) -> str:
    """Return a picture: a dot a seed, a bar at each mean, and the range of the first point's seeds as a band."""
    values = [score for point in points for score in point.scores]
    low, high = math.floor(min(values) - 1), math.ceil(max(values) + 1)
    left, right = math.log2(min(p.share for p in points) / 1.25), math.log2(1.25)

    def x(share: float) -> float:
        return _LEFT + (math.log2(share) - left) / (right - left) * (_W - _LEFT - _RIGHT)

    def y(score: float) -> float:
        return _TOP + (high - score) / (high - low) * (_H - _TOP - _BOTTOM)

    whole = points[0].scores
    mean, spread = statistics.mean(whole), statistics.stdev(whole) if len(whole) > 1 else 0.0
    top, bottom = y(min(mean + spread, high)), y(max(mean - spread, low))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_W} {_H}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_W}" height="{_H}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="18" font-size="14">{title}</text>',
        f'<rect x="{_LEFT}" y="{top:.1f}" width="{_W - _LEFT - _RIGHT}" height="{bottom - top:.1f}" fill="#dde8f2"/>',
        f'<line x1="{x(0.2):.1f}" x2="{x(0.2):.1f}" y1="{_TOP}" y2="{_H - _BOTTOM}" stroke="#999" '
        'stroke-dasharray="4 3"/>',
    ]
    for tick in _ticks(low, high):
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
        parts.append(f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#eee"/>')
    for share in (1, 0.5, 0.25, 0.2, 0.125, 0.0625):
        if math.log2(share) >= left:
            parts.append(f'<text x="{x(share):.1f}" y="{_H - 32}" text-anchor="middle">{share:g}</text>')
    parts.append(f'<text x="{_W / 2}" y="{_H - 8}" text-anchor="middle">bytes of a row, share of fp16</text>')
    parts.append(f'<text x="14" y="{_H / 2}" text-anchor="middle" transform="rotate(-90 14 {_H / 2})">{unit}</text>')
    for number, point in enumerate(points):
        here = x(point.share)
        parts += [f'<circle cx="{here:.1f}" cy="{y(s):.1f}" r="3.5" fill="#4a7ba6"/>' for s in point.scores]
        middle = y(statistics.mean(point.scores))
        parts.append(
            f'<line x1="{here - 9:.1f}" x2="{here + 9:.1f}" y1="{middle:.1f}" y2="{middle:.1f}" stroke="#b5482f" '
            'stroke-width="2.5"/>'
        )
        above = y(max(point.scores)) - 8 if number % 2 == 0 else y(min(point.scores)) + 18
        parts.append(f'<text x="{here:.1f}" y="{above:.1f}" text-anchor="middle">{point.name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _ticks(low: int, high: int) -> range:
    step = next(step for step in (1, 2, 5, 10, 20) if (high - low) / step <= 8)
    return range(-(-low // step) * step, high + 1, step)
