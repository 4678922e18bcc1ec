"""Fingerprint the rows and masks of a batch, so that two logs can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from usjepa.train.masks.multiblock import Masks


def fingerprint(rows_B: NDArray[np.int64], masks: Masks) -> int:
    """Return the sum over images of the xxh3-64 of row number and masks, as a signed 64-bit integer.

    A sum, so that the parts of a batch add up to the whole's. The padding, which depends on the other images of the
    part, is left out.
    """
    contexts_B = masks.context_valid_BN.sum(axis=-1)
    targets_BM = masks.targets_valid_BMP.sum(axis=-1)
    total = 0
    for image, row in enumerate(rows_B):
        digest = xxhash.xxh3_64(row.tobytes())
        digest.update(masks.context_BN[image, : contexts_B[image]].tobytes())
        digest.update(targets_BM[image].tobytes())
        digest.update(masks.targets_BMP[image][masks.targets_valid_BMP[image]].tobytes())
        total += digest.intdigest()
    return wrapped(total)


def wrapped(total: int) -> int:
    """Return an integer modulo 2^64, as a signed 64-bit integer."""
    return (total + 2**63) % 2**64 - 2**63


def fingerprint_text(total: int) -> str:
    """Return the 16 hex digits of a (summed) fingerprint, for the log."""
    return f"{total % 2**64:016x}"
