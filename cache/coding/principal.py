"""Find in a sample of latents what a coding needs: offset, leading principal axes, spreads.

Shape suffixes: R rows, T patch tokens, D channels of the teacher, W channels that are stored, K axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.coding.coding import Coding
from usjepa.cache.randomness import fraction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

LARGEST = 1e30
"""Of latents that are coded: sums of their products must stay within float32."""
_LEAST_SPREAD = 0.1
"""Of the median channel's. A channel that stood still in the sample and moves later would swamp those that it is
rotated with; and rounding gives every channel an error in proportion to its spread, so this one gets little."""


def fit_coding(sample_RTD: Floats, axes: int | None, packed: bool) -> Coding:
    """Return the coding of latents like those of a sample, on K leading principal axes or on all channels."""
    offset_D = _mean(sample_RTD).astype(np.float32)
    return Coding.of(offset_D, _leading_axes(sample_RTD, offset_D, axes) if axes else None, packed)


def rotated_scale(values_RTW: Floats) -> tuple[float, ...]:
    """Return [W] divisors for channels that are then rotated: their spread in a sample, under a random sign each.

    The signs are part of the rotation: without them tokens whose channels all differ from the mean alike, as those of
    blank patches may, would lie on one value each after it.
    """
    values = values_RTW.reshape(-1, values_RTW.shape[-1])
    spread = np.sqrt(np.square(values, dtype=np.float64).mean(axis=0))
    moving = spread[spread > 0]
    least = max(_LEAST_SPREAD * float(np.median(moving)), float(np.finfo(np.float32).tiny)) if len(moving) else 1.0
    signs = [1.0 if fraction("rotation", channel) < 0.5 else -1.0 for channel in range(len(spread))]
    return tuple(float(np.float32(x)) for x in np.maximum(spread, least) * signs)


def kept_variance(latents_RTD: Floats, coding: Coding) -> tuple[float, float]:
    """Return the sums of squares of latents without their offset: on the axes, and in all."""
    whole = np.square(latents_RTD - coding.mean, dtype=np.float64).sum()
    return float(np.square(coding.project(latents_RTD), dtype=np.float64).sum()), float(whole)


def _mean(sample_RTD: Floats) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = sample_RTD.mean(axis=(0, 1), dtype=np.float64)
    return mean


def _leading_axes(sample_RTD: Floats, offset_D: Floats, count: int) -> NDArray[np.float16]:
    """Return the K axes along which the sample varies most, float16 [K, D], the first one first.

    The largest component of each is positive, so that the same sample gives the same axes whatever library finds them.
    """
    dim = sample_RTD.shape[-1]
    scatter_DD = np.zeros((dim, dim))
    for row_TD in sample_RTD:  # row by row: the sample in float64 would take twice its memory
        centred = row_TD.astype(np.float64) - offset_D
        scatter_DD += centred.T @ centred
    vectors_DD = np.linalg.eigh(scatter_DD)[1]
    axes_KD = vectors_DD[:, ::-1].T[:count]
    largest = np.take_along_axis(axes_KD, np.abs(axes_KD).argmax(axis=1)[:, None], axis=1)
    return (axes_KD * np.where(largest < 0, -1.0, 1.0)).astype(np.float16)
