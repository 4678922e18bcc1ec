"""Find the directions in which patch latents vary most, and show latents as colours.

Channels are standardised first: a few massive channels of a transformer would be the whole picture otherwise. Shape
suffixes: n tokens, D channels, K axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FAINT = 1e-9


@dataclass(frozen=True)
class Axes:
    """The principal axes of standardised latents."""

    mean_D: NDArray[np.float32]
    deviation_D: NDArray[np.float32]
    """Standard deviation of each channel; infinite where it does not vary."""
    axes_DK: NDArray[np.float32]
    """Unit vectors, that of the largest variance first."""
    shares_K: NDArray[np.float64]
    """Share of the standardised latents' variance that each axis shows."""

    def standardise(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return latents [..., D] with mean 0 and deviation 1 in each channel that varies, 0 in the others."""
        return (latents - self.mean_D) / self.deviation_D

    def project(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the coordinates [..., K] of latents [..., D]."""
        coordinates: NDArray[np.float32] = self.standardise(latents) @ self.axes_DK
        return coordinates


class Moments:
    """Mean and covariance of tokens that are added piece by piece."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self._origin_D: NDArray[np.float64] | None = None
        self._sum_D, self._products_DD = np.zeros(dim), np.zeros((dim, dim))

    def add(self, tokens_nD: NDArray[np.float32]) -> None:
        """Count tokens in; those that are not finite are left out."""
        tokens_nD = tokens_nD[np.isfinite(tokens_nD).all(axis=1)]
        if not len(tokens_nD):
            return
        if self._origin_D is None:
            # Counted from the first tokens' mean: massive channels would leave the others no digits.
            self._origin_D = tokens_nD.mean(axis=0, dtype=np.float64)
        centred = tokens_nD - self._origin_D
        self.count += len(centred)
        self._sum_D += centred.sum(axis=0)
        self._products_DD += centred.T @ centred

    def axes(self, count: int) -> Axes:
        """Return the `count` axes of most variance, fewer where there are fewer channels."""
        dim = len(self._sum_D)
        origin = np.zeros(dim) if self._origin_D is None else self._origin_D
        mean = self._sum_D / max(self.count, 1)
        covariance = self._products_DD / max(self.count, 1) - np.outer(mean, mean)
        deviation = np.sqrt(covariance.diagonal().clip(min=0))
        # Float32 sums of a channel that does not vary still differ in their last digits.
        varies = deviation > np.maximum(_FAINT, 1e-6 * np.abs(origin + mean))
        deviation = np.where(varies, deviation, np.inf)
        values, vectors = np.linalg.eigh(covariance / np.outer(deviation, deviation))
        kept = slice(None, -min(count, dim) - 1, -1)
        shares = values.clip(min=0)[kept] / max(int(varies.sum()), 1)
        vectors = vectors[:, kept]
        # An axis has no direction of its own; colours shall not depend on the one that a library chose.
        vectors = vectors * np.where(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(shares))] < 0, -1, 1)
        return Axes(
            (origin + mean).astype(np.float32), deviation.astype(np.float32), vectors.astype(np.float32), shares
        )


def colours_of(coordinates: NDArray[np.float32], counted: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Return coordinates [..., K] as red, green and blue: the first three, 2nd to 98th percentile as 0 to 255.

    Equal colours mean similar latents among those that are coloured together. Without a third or second axis, the
    colour lacks blue and green. What is not finite is grey.

    Args:
        coordinates: of patches.
        counted: [...] those whose percentiles count; None: all.
    """
    flat = coordinates.reshape(-1, coordinates.shape[-1])[:, :3]
    finite = np.isfinite(flat).all(axis=1)
    measured = finite if counted is None or not (finite & counted.ravel()).any() else finite & counted.ravel()
    colours = np.zeros((len(flat), 3), np.uint8)
    colours[~finite] = 127
    if finite.any():
        low, high = np.percentile(flat[measured], [2, 98], axis=0)
        stretched = ((flat[finite] - low) / np.maximum(high - low, _FAINT)).clip(0, 1) * 255
        colours[finite, : flat.shape[1]] = stretched.astype(np.uint8)
    return colours.reshape(*coordinates.shape[:-1], 3)
