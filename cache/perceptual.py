"""Hash what a picture shows into 256 bits that noise hardly changes (pHash).

The hash is the sign of low DCT coefficients against their median, of 16 x 16 coefficients rather than the usual 8 x 8:
pictures of one screen share so much that 64 bits don't tell them apart (hearts of two patients lie 6 bits apart). How
far two pictures are apart is the number of bits that differ. The nearest frame of another patient lay 48 bits away (60
patients, CAMUS), and a copy that was recompressed (JPEG 50), halved in size or made noisy at most 12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EDGE, _COEFFICIENTS = 64, 16
BITS = _COEFFICIENTS * _COEFFICIENTS
HASH_NBYTES = BITS // 8
NEAR_BITS = 32
"""Frames at most this many bits apart are near-duplicates: between the figures above."""
_FLAT = 2.0
"""Standard deviation of grey values under which a picture is blank: blank ones are alike and show nothing."""


def picture_bits(grey: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return the hash of a grey picture [H, W], bool [256]; None for a blank one."""
    small = cv2.resize(grey.astype(np.float32, copy=False), (_EDGE, _EDGE), interpolation=cv2.INTER_AREA)
    if float(small.std()) < _FLAT:
        return None
    # The first row and column hold the mean and what only brightness gradients change.
    low = np.asarray(cv2.dct(small))[1 : _COEFFICIENTS + 1, 1 : _COEFFICIENTS + 1].ravel()
    return np.asarray(low > np.median(low))


def picture_signs(grey_BHW: NDArray[Any]) -> NDArray[np.float32]:
    """Return the hashes of grey pictures, float32 [B, 256] of -1 and 1; all 0 for a blank one, which is near to none.

    A dot product of two is 256 less twice the bits in which they differ.
    """
    signs = np.zeros((len(grey_BHW), BITS), dtype=np.float32)
    for i, grey in enumerate(grey_BHW):
        found = picture_bits(grey)
        if found is not None:
            signs[i] = np.where(found, 1.0, -1.0)
    return signs


def frame_hash(frame: NDArray[np.uint8]) -> bytes:
    """Return the hash of a frame [H, W] or [H, W, 3] RGB, 32 bytes; all 0 for a blank one."""
    grey = frame if frame.ndim == 2 else np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
    bits = picture_bits(grey)
    return bytes(HASH_NBYTES) if bits is None else np.packbits(bits).tobytes()
