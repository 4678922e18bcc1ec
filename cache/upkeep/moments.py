"""Moments of latents that can be merged: of parts read anywhere, in any order, to the moments of the whole.

Merging follows Chan, Golub and LeVeque (1979): counts, means and sums of squared deviations, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CONSTANT = 1e-6
"""A channel whose standard deviation is under this share of the median channel's says nothing."""


@dataclass(frozen=True)
class Moments:
    """Of the patch tokens of some rows, and of the rows' mean tokens."""

    tokens: int
    mean_D: NDArray[np.float64]
    deviation_D: NDArray[np.float64]
    """Sum of squared deviations from the mean, over tokens."""
    rows: int
    pooled_mean_D: NDArray[np.float64]
    pooled_scatter_DD: NDArray[np.float64]
    """Sum of outer products of the deviations of rows' mean tokens."""
    not_finite: int
    """Values that are NaN or infinite; their tokens are left out of everything else."""

    @property
    def variance(self) -> NDArray[np.float64]:
        """[D] variance of each channel over tokens."""
        return self.deviation_D / max(self.tokens, 1)

    @property
    def constant_channels(self) -> list[int]:
        """Channels that do not vary."""
        spread = np.sqrt(self.variance)
        return [int(i) for i in np.flatnonzero(spread <= _CONSTANT * float(np.median(spread)))]

    @property
    def effective_rank(self) -> float:
        """Effective rank of the rows' mean tokens: exp of the entropy of the singular values' shares.

        Roy and Vetterli (2007); RankMe (Garrido et al. 2023) uses the same figure on features that are not centred.
        """
        eigenvalues = np.linalg.eigvalsh(self.pooled_scatter_DD).clip(min=0)
        shares = np.sqrt(eigenvalues)
        if shares.sum() == 0:
            return 0.0
        shares = shares[shares > 0] / shares.sum()
        return float(np.exp(-(shares * np.log(shares)).sum()))


def moments_of(latents_RTD: NDArray[np.float32]) -> Moments:
    """Return the moments of some rows' latents."""
    dim = latents_RTD.shape[2]
    finite = np.isfinite(latents_RTD)
    bad = int(latents_RTD.size - finite.sum())
    whole = finite.all(axis=(1, 2))
    tokens = latents_RTD[finite.all(axis=2)].astype(np.float64)
    pooled = latents_RTD[whole].mean(axis=1, dtype=np.float64)
    mean = tokens.mean(axis=0) if len(tokens) else np.zeros(dim)
    pooled_mean = pooled.mean(axis=0) if len(pooled) else np.zeros(dim)
    centred = pooled - pooled_mean
    deviation = np.square(tokens - mean).sum(axis=0)
    return Moments(len(tokens), mean, deviation, len(pooled), pooled_mean, centred.T @ centred, bad)


def merged(a: Moments, b: Moments) -> Moments:
    """Return the moments of both parts together."""
    tokens, rows = a.tokens + b.tokens, a.rows + b.rows
    step, pooled_step = b.mean_D - a.mean_D, b.pooled_mean_D - a.pooled_mean_D
    share, pooled_share = b.tokens / max(tokens, 1), b.rows / max(rows, 1)
    return Moments(
        tokens,
        a.mean_D + step * share,
        a.deviation_D + b.deviation_D + np.square(step) * a.tokens * share,
        rows,
        a.pooled_mean_D + pooled_step * pooled_share,
        a.pooled_scatter_DD + b.pooled_scatter_DD + np.outer(pooled_step, pooled_step) * a.rows * pooled_share,
        a.not_finite + b.not_finite,
    )
