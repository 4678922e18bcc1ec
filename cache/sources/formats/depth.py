"""Convert samples of any type to 8 bits by one rule for all formats.

The scale of a frame depends on the samples of its whole file, and on nothing else:

* Unsigned integers are shifted down by as many bits as the file's largest value has above 8, so 12-bit samples in
  16-bit words keep their contrast, zero stays zero, and files of one depth stay comparable.
* Signed integers are first raised by the file's smallest value, where that is negative.
* Floats that reach from 0 to 1 are multiplied by 255, floats that reach from 0 to 255 are rounded; up to a hundredth
  beyond is taken for a rounding error. All others, also those that would show fewer than 8 levels so, are spread
  linearly from the file's smallest value to its largest.
* What is no number or infinitely small (outside the sector, in decibels) is shown as the smallest value, what is
  infinitely large as the largest.
* Booleans become 0 and 255.

A window or level that the file carries is not applied: it is a viewer's choice, and a build rescales anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.interrupt import safe_point

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


_BEYOND = 0.01
"""Share of the largest value by which floats may leave their range: interpolation and rounding do that."""
_FEWEST = 8
"""Levels below which a range can't be the one that was meant."""


@dataclass(frozen=True)
class Span:
    """The smallest and largest finite sample of a whole file."""

    low: float
    high: float


def needs_span(dtype: np.dtype[Any]) -> bool:
    """Return whether samples of this type can only be scaled once the whole file has been seen."""
    return dtype != np.uint8 and dtype != np.bool_


def span_of(frames: Iterable[NDArray[Any]]) -> Span:
    """Return the span of all finite samples; ValueError when they are no real numbers, or none is finite."""
    low, high, count = np.inf, -np.inf, 0
    for frame in frames:
        safe_point()
        count += 1
        if frame.dtype.kind not in "buif":
            raise ValueError(f"samples of type {frame.dtype} are not intensities")
        smallest, largest = float(frame.min()), float(frame.max())
        if not np.isfinite(smallest + largest):
            finite = frame[np.isfinite(frame)]
            if not finite.size:
                continue
            smallest, largest = float(finite.min()), float(finite.max())
        low, high = min(low, smallest), max(high, largest)
    if low > high:
        raise ValueError("it holds no finite value" if count else "it holds no frames")
    return Span(low, high)


def to_uint8(frame: NDArray[Any], span: Span | None) -> NDArray[np.uint8]:
    """Return the frame in 8 bits; `span` may be None only for types that `needs_span` excepts."""
    if frame.dtype == np.uint8:
        return frame
    if frame.dtype == np.bool_:
        return frame.astype(np.uint8) * np.uint8(255)
    if span is None:
        raise ValueError(f"samples of type {frame.dtype} can't be scaled without the file's span")
    if frame.dtype.kind in "ui":
        base = int(min(span.low, 0.0))
        excess = max((int(span.high) - base).bit_length() - 8, 0)
        return ((frame.astype(np.int64) - base) >> excess).astype(np.uint8)
    return _float_to_uint8(frame.astype(np.float64), span)


def _float_to_uint8(frame: NDArray[np.float64], span: Span) -> NDArray[np.uint8]:
    frame = np.nan_to_num(frame, nan=span.low, neginf=span.low, posinf=span.high)
    most = 1 + _BEYOND
    if span.low >= -_BEYOND * span.high and _FEWEST / 255 <= span.high <= most:
        frame = frame * 255
    elif not (span.low >= -_BEYOND * span.high and _FEWEST <= span.high <= 255 * most):
        frame = (frame - span.low) * (255 / ((span.high - span.low) or 1))
    # Halves round up; NumPy's own rounding goes to even.
    return np.floor(frame + 0.5).clip(0, 255).astype(np.uint8)
