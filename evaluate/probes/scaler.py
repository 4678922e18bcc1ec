"""Standardise features and patch tokens by the training split's mean and deviation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 64
"""Frames whose tokens are held in double precision while their moments are summed."""


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
    return _scaler_of(mean, train_NF.std(axis=0, dtype=np.float64))


def _scaler_of(mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> Scaler:
    """Return the scaler of features of that mean and standard deviation, [F]."""
    varies = deviation > 1e-6 * np.maximum(1.0, np.abs(mean))
    scale = np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0)
    return Scaler(mean.astype(np.float32), scale.astype(np.float32))


def fit_token_scaler(tokens: NDArray[np.float32]) -> Scaler:
    """Return the scaler of training tokens, float32 [n, ..., D], over frames and places.

    As `fit_scaler`, but in pieces: a thousand frames of a ViT-B are 0.6 GB, and twice that in double precision.
    """
    width = tokens.shape[-1]
    flat = tokens.reshape(len(tokens), -1, width)
    count = flat.shape[0] * flat.shape[1]
    pieces = [flat[start : start + _AT_ONCE] for start in range(0, len(flat), _AT_ONCE)]
    mean = np.sum([piece.sum(axis=(0, 1), dtype=np.float64) for piece in pieces], axis=0) / count
    squares = [np.square(piece.astype(np.float64) - mean).sum(axis=(0, 1)) for piece in pieces]
    return _scaler_of(mean, np.sqrt(np.sum(squares, axis=0) / count))


def scale_in_place(tokens: NDArray[np.float32], scaler: Scaler) -> NDArray[np.float32]:
    """Standardise tokens, [n, ..., D], where they lie, and return them."""
    tokens -= scaler.mean
    tokens *= scaler.scale
    return tokens
