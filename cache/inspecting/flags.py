"""Tell near-duplicates of different files, and rows that look like no other.

Shape suffixes: n rows looked at, D features, K bits of a hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.perceptual import BITS, NEAR_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEIGHBOURS = 5
"""Rows of other patients that an outlier is measured against."""
FAR_OUT = 3.0
"""Interquartile ranges above the third quartile from which on a row counts as an outlier (Tukey's far out)."""
LEAST_ROWS = 12
"""Rows under which nothing is called an outlier."""
_BLOCK = 512


@dataclass(frozen=True)
class Twin:
    """The row of another file that looks most like a row, where it is a near-duplicate."""

    place: int
    """Among the rows looked at."""
    bits: int
    """Bits of 256 in which their hashes differ."""
    other_patient: bool


def twins(bits_nK: NDArray[np.float32], source_n: NDArray[Any], patient_n: NDArray[Any]) -> dict[int, Twin]:
    """Return place -> twin of the rows that have one: of another patient's where there is one, else of another file."""
    found: dict[int, Twin] = {}
    shown = np.asarray(bits_nK.any(axis=1))
    for first in range(0, len(bits_nK), _BLOCK):
        part = slice(first, first + _BLOCK)
        # Of K bits of -1 and 1, a dot product of K - 2d means that d differ.
        apart = (BITS - bits_nK[part] @ bits_nK.T) / 2
        near = (apart <= NEAR_BITS) & shown & shown[part, None] & (source_n[part, None] != source_n)
        others = near & (patient_n[part, None] != patient_n)
        for place in np.flatnonzero(near.any(axis=1)).tolist():
            other = bool(others[place].any())
            which = int(np.where((others if other else near)[place], apart[place], np.inf).argmin())
            found[first + place] = Twin(which, round(float(apart[place, which])), other)
    return found


def outlier_scores(pooled_nD: NDArray[np.float32], patient_n: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far each row lies from the others, [n]: about 1 for most.

    Mean latents are standardised channel by channel over the rows looked at. A row's distance is the mean Euclidean one
    to the 5 nearest rows of other patients; it is divided by the median of all rows' distances. NaN where no row of
    another patient is there, or a latent is not finite.
    """
    scores = np.full(len(pooled_nD), np.nan)
    whole = np.flatnonzero(np.isfinite(pooled_nD).all(axis=1))
    if not len(whole):
        return scores
    mean, deviation = pooled_nD[whole].mean(axis=0), pooled_nD[whole].std(axis=0)
    points = (pooled_nD[whole] - mean) / np.where(deviation > 1e-9, deviation, np.inf)
    squares, patient = np.square(points).sum(axis=1), patient_n[whole]
    for first in range(0, len(points), _BLOCK):
        part = slice(first, first + _BLOCK)
        apart = squares[part, None] + squares - 2 * points[part] @ points.T
        apart[patient[part, None] == patient] = np.inf
        near = np.sqrt(np.partition(apart, min(NEIGHBOURS, len(points)) - 1, axis=1)[:, :NEIGHBOURS].clip(min=0))
        near[~np.isfinite(near)] = np.nan
        counted = np.isfinite(near).sum(axis=1)
        scores[whole[part]] = np.where(counted > 0, np.nansum(near, axis=1) / np.maximum(counted, 1), np.nan)
    known = scores[np.isfinite(scores)]
    middle = float(np.median(known)) if len(known) else 0.0
    return scores / middle if middle > 0 else np.where(np.isfinite(scores), 1.0, np.nan)


def far_out(scores_n: NDArray[np.float64]) -> float:
    """Return the score above which a row is an outlier; infinite where rows are too few to tell."""
    known = scores_n[np.isfinite(scores_n)]
    if len(known) < LEAST_ROWS:
        return float("inf")
    low, high = np.percentile(known, [25, 75])
    return float(high + FAR_OUT * (high - low))
