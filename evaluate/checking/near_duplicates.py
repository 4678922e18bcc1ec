"""Hash what frames show into 256 bits each, and find near-duplicates by Hamming distance.

The hash is that of `cache/perceptual.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.frames.prepare import grey_of
from usjepa.cache.perceptual import BITS, picture_signs

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FAR = BITS + 1
"""Distance of a frame that has nothing to be compared with."""


def frame_bits(pixels_BCSS: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the hash of each frame, float32 [B, 256] of -1 and 1; all 0 for a blank frame, which is near to none."""
    return picture_signs(grey_of(pixels_BCSS))


def nearest(
    bits_AK: NDArray[np.float32], bits_BK: NDArray[np.float32], barred_AB: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each frame of A the Hamming distance [A] to the nearest of B, and which that is [A].

    Blank frames, barred ones, and frames with nothing to be compared with are `_FAR`. Costs A x B x 256 multiplications
    and memory for A x B numbers.
    """
    if not len(bits_BK):
        return np.full(len(bits_AK), _FAR, np.int64), np.zeros(len(bits_AK), np.int64)
    # Of K bits of -1 and 1, a dot product of K - 2d means that d differ.
    apart_AB = (BITS - bits_AK @ bits_BK.T) / 2
    apart_AB[:, ~bits_BK.any(axis=1)] = _FAR
    apart_AB[~bits_AK.any(axis=1)] = _FAR
    if barred_AB is not None:
        apart_AB[barred_AB] = _FAR
    which_A = apart_AB.argmin(axis=1)
    return np.rint(apart_AB[np.arange(len(apart_AB)), which_A]).astype(np.int64), which_A
