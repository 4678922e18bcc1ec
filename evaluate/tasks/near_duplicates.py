"""Hash what frames show into 256 bits each, and find near-duplicates by Hamming distance.

The hash is the sign of low DCT coefficients against their median (pHash), of 16 x 16 coefficients rather than the usual
8 x 8: among frames of one view, which all show one sector, 64 bits take other patients for copies (hearts of two
patients lie 6 bits apart). With 256 bits the nearest frame of another patient lay 48 bits away (60 patients, CAMUS),
and a copy that was recompressed (JPEG 50), halved in size or made noisy at most 12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from usjepa.cache.frames.prepare import grey_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EDGE, _COEFFICIENTS = 64, 16
BITS = _COEFFICIENTS * _COEFFICIENTS
NEAR_BITS = 32
"""Frames at most this many of 256 bits apart are near-duplicates."""
_FAR = BITS + 1
"""Distance of a frame that has nothing to be compared with."""
_FLAT = 2.0
"""Standard deviation of grey values under which a frame is blank: blank frames are alike and show nothing."""


def frame_bits(pixels_BCSS: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the hash of each frame, float32 [B, 256] of -1 and 1; all 0 for a blank frame, which is near to none."""
    bits = np.zeros((len(pixels_BCSS), BITS), dtype=np.float32)
    for i, grey in enumerate(grey_of(pixels_BCSS)):
        small = cv2.resize(grey, (_EDGE, _EDGE), interpolation=cv2.INTER_AREA)
        if float(small.std()) < _FLAT:
            continue
        # The first row and column hold the mean and what only brightness gradients change.
        low = np.asarray(cv2.dct(small))[1 : _COEFFICIENTS + 1, 1 : _COEFFICIENTS + 1].ravel()
        bits[i] = np.where(low > np.median(low), 1.0, -1.0)
    return bits


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
