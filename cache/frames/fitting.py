"""Fit a sector, trapezoid or rectangle to the lit area of a frame.

The best shape holds most of what is lit and little of what is dark, and its edges lie where light ends. Dark is a weak
reason: shadows and deep tissue are dark inside a scan. So a corner or a flank in shadow is taken in where a straight
side, or the mirror image of the other one, goes on through it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from usjepa.cache.frames.shapes import Shape, spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DARK_COSTS = 0.07
"""What a dark pixel inside costs, in lit pixels outside."""
_EDGE_GAINS = 4.0
"""What a pixel along an edge where light ends gains, in lit pixels, for a frame whose edges' mean is 256 pixels."""
_ODD_PIXELS_COST = 0.02
"""What pixels e times as wide as high cost, as a share of the lit area: frames are seldom stretched."""
_COARSE = 96
"""Longest edge, pixels, at which starts are tried and improved, before the full size."""
_LEANS = np.tan(np.radians([0, 3, 6, 9, 12, 16, 20, 24, 28, 32, 36, 40, 45, 50, 55, 60]))
"""Leans of the sides that are tried."""
_ROUNDS = (1.0, 0.6, 1.6)
"""Roundness of arcs that are tried: of square pixels, and of frames stretched by a fourth."""
_OUTLIERS = 0.004
"""Share of lit pixels that a start may leave outside on each side."""
_STARTS = 3
"""Starts that are improved, of different leans."""
_APART = 0.1
"""Leans that differ by more are different."""
_STEPS = (2.0, 1.0, 0.5)
"""Steps of the search, pixels."""
_MOST_MOVES = 12
"""Moves of one step size at most."""


def fit_shape(lit: NDArray[np.uint8]) -> Shape:
    """Return the shape that fits the lit area of a frame best; deterministic.

    Args:
        lit: 0 or 1, [H, W], at least one pixel lit; hundreds of pixels wide, not thousands: time grows with the width.
    """
    height, width = lit.shape
    scale = min(1.0, _COARSE / max(height, width))
    small = lit
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        shares = np.asarray(cv2.resize(lit * np.uint8(255), size, interpolation=cv2.INTER_AREA))
        small = np.asarray(shares >= min(128, int(shares.max())), np.uint8)
    evidence = _Evidence(small)
    improved, scores = _improved(evidence, _starts(small, evidence))
    best = Shape(*improved[int(scores.argmax())].tolist())
    best = best.scaled(width / small.shape[1], height / small.shape[0])
    improved, _ = _improved(_Evidence(lit), np.array([best]))
    return Shape(*improved[0].tolist())


class _Evidence:
    """What a frame says for and against shapes, as sums that make a shape's score cheap."""

    def __init__(self, lit: NDArray[np.uint8]) -> None:
        self.height, self.width = lit.shape
        self._area = float(cv2.countNonZero(lit))
        self._worth = np.zeros((self.height + 1, self.width))
        np.cumsum(np.where(lit > 0, 1.0, -_DARK_COSTS), axis=0, out=self._worth[1:])
        self._gain = _EDGE_GAINS * (self.height + self.width) / 512
        self._left, self._right = _ends(lit), _ends(lit[:, ::-1])[:, ::-1]
        self._top, self._bottom = _ends(lit.T).T, _ends(lit.T[:, ::-1])[:, ::-1].T

    def score(self, shapes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how well shapes [N, 7] fit, [N], in lit pixels."""
        upper, lower, side = spans(shapes, self.height, self.width)
        start = upper.clip(0, self.height)
        stop = np.maximum(lower.clip(0, self.height), start)
        area = (self._worth_above(stop) - self._worth_above(start)).sum(1)
        edges = self._hits_across(upper, lower, side) + self._hits_down(shapes)
        roundness = np.maximum(shapes[:, 5], shapes[:, 6])
        odd = np.abs(np.log(np.where(roundness > 0, roundness, 1.0)))
        return np.asarray(area + self._gain * edges - _ODD_PIXELS_COST * self._area * odd)

    def _worth_above(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the worth of the pixels above y in each column, [N, W]."""
        row = np.minimum(y.astype(np.intp), self.height - 1)
        part, columns = y - row, np.arange(self.width)[None]
        return np.asarray(self._worth[row, columns] * (1 - part) + self._worth[row + 1, columns] * part)

    def _hits_across(
        self, upper: NDArray[np.float64], lower: NDArray[np.float64], side: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return how many pixels of upper and lower edges lie where light ends, [N]."""
        columns, last = np.arange(self.width)[None], self.height - 1
        inside = lower > upper
        first = np.floor(upper).clip(0, last).astype(np.intp)
        final = (np.ceil(lower) - 1).clip(0, last).astype(np.intp)
        tops = self._top[first, columns] & inside & (upper > side) & (upper >= 0)
        return np.asarray(tops.sum(1) + (self._bottom[final, columns] & inside).sum(1), np.float64)

    def _hits_down(self, shapes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how many pixels of left and right sides lie where light ends, [N]."""
        rows, last = np.arange(self.height)[None], self.width - 1
        axis, half, lean, top, bottom = (shapes[:, i : i + 1] for i in range(5))
        middle = rows + 0.5
        reach = half + lean * middle
        left = np.floor(axis - reach).astype(np.intp)
        right = (np.ceil(axis + reach) - 1).astype(np.intp)
        within = (middle > top) & (middle < bottom) & (reach > 0)
        lefts = self._left[rows, left.clip(0, last)] & within & (left >= 0)
        rights = self._right[rows, right.clip(0, last)] & within & (right <= last)
        return np.asarray(lefts.sum(1) + rights.sum(1), np.float64)


def _ends(lit: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return bool [H, W]: near a pixel whose two neighbours to the right are lit too, and one of two to its left not.

    Nothing ends at the frame's edge, where a scan may go on.
    """
    here = lit > 0
    ends = np.zeros(lit.shape, np.bool_)
    ends[:, 2:-2] = here[:, 2:-2] & here[:, 3:-1] & here[:, 4:] & ~(here[:, 1:-3] & here[:, :-4])
    wide = ends.copy()
    wide[:, 1:] |= ends[:, :-1]
    wide[:, :-1] |= ends[:, 1:]
    return wide


def _starts(lit: NDArray[np.uint8], evidence: _Evidence) -> NDArray[np.float64]:
    """Return the best few [n, 7] of the smallest shapes that hold nearly all of what is lit, one per lean."""
    y, x = (axis + 0.5 for axis in np.nonzero(lit))
    nearly_all = int(_OUTLIERS * len(x))

    def least(values: NDArray[np.floating[Any]]) -> float:
        return float(np.partition(values, nearly_all)[nearly_all])

    top, bottom = least(y), -least(-y)
    tried: list[Shape] = []
    for lean in _LEANS.tolist():
        left, right = least(x + lean * y), -least(lean * y - x)
        axis, half = (left + right) / 2, (right - left) / 2
        tried.append(Shape(axis, half, lean, top, bottom, 0.0, 0.0))
        if lean < _LEANS[1]:
            continue
        meet = -half / lean
        for roundness in _ROUNDS:
            reach = np.sqrt((y - meet) ** 2 + roundness * (x - axis) ** 2)
            near, far = meet + least(reach), meet - least(-reach)
            tried.append(Shape(axis, half, lean, near, far, roundness, roundness))
            tried.append(Shape(axis, half, lean, top, far, 0.0, roundness))
    shapes = np.array(tried)
    chosen: list[int] = []
    for place in np.argsort(-evidence.score(shapes), kind="stable").tolist():
        if all(abs(shapes[place, 2] - shapes[other, 2]) > _APART for other in chosen):
            chosen.append(place)
    return np.asarray(shapes[chosen[:_STARTS]])


_MOVES = np.array(
    [
        (1, 0, 0, 0, 0),
        (0, 1, 0, 0, 0),
        (0, 0, 1, 0, 0),
        (0, 0, 0, 1, 0),
        (0, 0, 0, 0, 1),
        (0, 1, -1, 0, 0),
        (0, 1, -2, 0, 0),
        (0.5, 0.5, 0, 0, 0),
        (-0.5, 0.5, 0, 0, 0),
        (0.5, 0.5, -1, 0, 0),
        (0.5, -0.5, 1, 0, 0),
    ]
)
"""Moves of the first five numbers, in steps: one at a time, a side turned about its ends, one side alone."""
_ROUNDER = (0.8, 0.9, 1.1, 1.25)
_ROUNDEST = 3.0


def _improved(evidence: _Evidence, shapes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return shapes [n, 7] after a search by steps, each on its own, and their scores [n]."""
    shapes, scores = shapes.copy(), evidence.score(shapes)
    number = np.arange(len(shapes))
    for step in _STEPS:
        moves = np.concatenate([_MOVES * length * step for length in (-2, -1, 1, 2)])
        moves[:, 2] /= evidence.height
        for _ in range(_MOST_MOVES):
            moved = np.repeat(shapes[:, None], len(moves) + len(_ROUNDER), axis=1)
            moved[:, : len(moves), :5] += moves
            moved[:, len(moves) :, 5:] *= np.array(_ROUNDER)[:, None]
            moved[:, :, 2] = np.maximum(moved[:, :, 2], 0)
            moved[:, :, 5:] = np.minimum(moved[:, :, 5:], _ROUNDEST)
            found = evidence.score(moved.reshape(-1, 7)).reshape(len(shapes), -1)
            best = found.argmax(1)
            better = found[number, best] > scores + 1e-9
            if not better.any():
                break
            shapes[better] = moved[number, best][better]
            scores[better] = found[number, best][better]
    return shapes, scores
