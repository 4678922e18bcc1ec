"""Standardise features by the mean and deviation of those that are fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Scaler:
    """Per-feature standardisation by the training split's mean and standard deviation."""

    mean: NDArray[np.float32]
    """[F]"""
    scale: NDArray[np.float32]
    """[F] one over the standard deviation."""

    def __call__(self, features_NF: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the standardised features, float32 [N, F]."""
        return np.ascontiguousarray((features_NF - self.mean) * self.scale, dtype=np.float32)


def fit_scaler(train_NF: NDArray[np.float32]) -> Scaler:
    """Return the scaler of a training split; a feature that never varies there is set to 0, not blown up."""
    mean = train_NF.mean(axis=0, dtype=np.float64)
    return scaler_of(mean, train_NF.std(axis=0, dtype=np.float64))


def scaler_of(mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> Scaler:
    """Return the scaler of features of that mean and standard deviation, [F]."""
    varies = deviation > 1e-6 * np.maximum(1.0, np.abs(mean))
    scale = np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0)
    return Scaler(mean.astype(np.float32), scale.astype(np.float32))
