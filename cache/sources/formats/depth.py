"""Convert samples of any type to 8 bits by one rule for all formats.

The scale of a frame depends on the samples of its whole file, and on nothing else:

* Unsigned integers are shifted down by as many bits as the file's largest value has above 8, so 12-bit samples in
  16-bit words keep their contrast, zero stays zero, and files of one depth stay comparable.
* Signed integers are first raised by the file's smallest value, where that is negative.
* Floats that lie in [0, 1] are multiplied by 255, floats in [0, 255] are rounded, and all others are spread linearly
  from the file's smallest value to its largest.
* Booleans become 0 and 255.

A window or level that the file carries is not applied: it is a viewer's choice, and a build rescales anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Span:
    """The smallest and largest sample of a whole file."""

    low: float
    high: float


def needs_span(dtype: np.dtype[Any]) -> bool:
    """Return whether samples of this type can only be scaled once the whole file has been seen."""
    return dtype != np.uint8 and dtype != np.bool_


def span_of(frames: Iterable[NDArray[Any]]) -> Span:
    """Return the span of all samples; ValueError when one is not a finite real number, or there is no frame."""
    low, high = np.inf, -np.inf
    for number, frame in enumerate(frames):
        if frame.dtype.kind not in "buif":
            raise ValueError(f"samples of type {frame.dtype} are not intensities")
        smallest, largest = float(frame.min()), float(frame.max())
        if not np.isfinite(smallest + largest):
            raise ValueError(f"frame {number} holds values that are not finite")
        low, high = min(low, smallest), max(high, largest)
    if low > high:
        raise ValueError("it holds no frames")
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
    if span.low < 0 or span.high > 255:
        frame = (frame - span.low) * (255 / (span.high - span.low))
    elif span.high <= 1:
        frame = frame * 255
    # Halves round up; NumPy's own rounding goes to even.
    return np.floor(frame + 0.5).clip(0, 255).astype(np.uint8)
