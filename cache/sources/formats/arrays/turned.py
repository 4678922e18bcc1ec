"""Tell by its samples an array that counts frames by another axis than the first.

Around a scan a screen shows the same in all frames. So of the lines along the axis that counts frames many never
change, and where these lie is the outline of a scan: it moves a little from row to row, and leaves as much black in
every frame. Read along another axis the same holds for that one, and not for the first. Stills of several patients
differ too much along their axis to be rows of one picture, and clips put together have outlines that jump.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from usjepa.cache.sources.formats.depth import span_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_PAIRS = 12
"""Pairs of neighbours along the first axis that are looked at."""
_LARGEST = 1 << 21
"""Samples of a frame above which an array is not looked at: dozens of frames are held at once."""
_TOLERANCE = 8 / 255
"""Share of the range by which compression changes what is still."""
_STILL, _LESS = 0.1, 0.6
"""Share of lines along the axis of frames that never change, at least; of those along the others, at most, of it."""
_ROUGH = 2.0
"""How much more neighbours along the first axis may differ than those along the third: of stills it is more."""
_MOVES, _JUMP, _JUMPS = 0.5, 0.1, 1 / 3
"""Share of neighbours between which the outline moves, at least; by how much it jumps; share that jumps, at most."""
_ALIKE = 0.1
"""Share of a frame by which the black in frames may differ."""


class _Look(NamedTuple):
    """What is seen of an array along its axes 0, 1 and 2."""

    still: list[NDArray[np.bool_]]
    """Which lines along each axis never change."""
    rough: list[float]
    """Mean difference of neighbours."""
    samples: NDArray[np.float32]
    """[pairs * 2, axis 1, axis 2]."""
    tolerance: float


def axis_of_frames(count: int, frame: Callable[[int], NDArray[np.generic]]) -> int:
    """Return which axis of an array [count, ...] seems to count its frames: 1 or 2, or 0 where nothing says another.

    `frame` returns a part of two axes by its number.
    """
    if frame(0).size > _LARGEST:
        return 0
    firsts = np.unique(np.linspace(0, count - 2, min(_PAIRS, count - 1)).round().astype(int))
    stored = np.stack([frame(int(number) + more) for number in firsts for more in (0, 1)])
    if not np.isfinite(stored).any():
        return 0
    look = _look(stored)
    return next((axis for axis in (2, 1) if _counts_frames(look, axis)), 0)


def _look(stored: NDArray[np.generic]) -> _Look:
    span = span_of([stored])
    samples = np.nan_to_num(stored.astype(np.float32), nan=span.low, neginf=span.low, posinf=span.high)
    tolerance = (span.high - span.low) * _TOLERANCE
    still = [samples.max(axis) - samples.min(axis) <= tolerance for axis in range(3)]
    rough = [float(np.abs(samples[1::2] - samples[::2]).mean())]
    rough += [float(np.abs(np.diff(samples, axis=axis)).mean()) for axis in (1, 2)]
    return _Look(still, rough, samples, tolerance)


def _counts_frames(look: _Look, axis: int) -> bool:
    """Return whether an axis shows what that of frames does, and the first one does not."""
    third = 3 - axis
    shares = [float(still.mean()) for still in look.still]
    if shares[axis] < _STILL or max(shares[0], shares[third]) > _LESS * shares[axis]:
        return False
    if look.rough[0] > _ROUGH * look.rough[third]:
        return False
    outline = look.still[axis]
    moved = (outline[1::2] != outline[::2]).mean(axis=1)
    jumps = moved > _JUMP
    if (moved > 0).mean() < _MOVES or jumps.mean() > _JUMPS or np.median(moved) > _JUMP:
        return False
    around = float(np.median(look.samples.mean(axis)[outline]))
    black = (np.abs(look.samples - around) <= look.tolerance).mean(axis=(0, third))
    return bool(black.max() - black.min() <= _ALIKE)
