"""Normalise targets before the loss, as `train.target_norm` names it.

`none` keeps them. `layer` is I-JEPA's `F.layer_norm(h, (h.size(-1),))`: every token to mean 0 and variance 1 over its
channels, no affine, eps 1e-5. `standardised` subtracts each channel's mean and divides by its deviation over a sample
of training frames: latents with a few massive channels (arXiv 2402.17762) would otherwise be dominated by them.
`whitened` multiplies by the inverse square root of the channels' covariance (ZCA whitening, arXiv 1512.00809): if all
channels of a small teacher follow brightness and depth, standardised ones still do, and the directions in which classes
differ are a small part of the loss. Unlike principal axes, whose signs and order depend on rounding, it is unique.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.reading.store import Store
    from usjepa.train.objective.targets import Targets

Mode = Literal["none", "layer", "standardised", "whitened"]
_SAMPLE = 512
"""Most frames that statistics are measured on, evenly spaced over the training rows."""
_AT_ONCE = 64
_EPSILON = 1e-6
_FLOOR = 1e-3
"""Added to the variance of every direction, as a share of the mean variance, so that rounding noise stays small."""


class TargetNorm:
    """Normalises targets, floating point [B, T, D] to float32 [B, T, D]."""

    def __init__(
        self,
        mode: Mode,
        mean_D: torch.Tensor | None = None,
        deviation_D: torch.Tensor | None = None,
        whitening_DD: torch.Tensor | None = None,
    ) -> None:
        """Keep the statistics of a mode: mean_D and deviation_D float32 [D], whitening_DD float64 [D, D]."""
        self.mode = mode
        self._mean_D, self._deviation_D, self._whitening_DD = mean_D, deviation_D, whitening_DD

    def __call__(self, latents_BTD: torch.Tensor) -> torch.Tensor:
        """Normalise the targets of all patches."""
        x = latents_BTD.float()
        if self.mode == "layer":
            return functional.layer_norm(x, (x.shape[-1],))
        if self._mean_D is not None:
            x = x - self._mean_D.to(x.device)
        if self._deviation_D is not None:
            x = x / self._deviation_D.to(x.device)
        if self._whitening_DD is not None:
            # In double: whitening amplifies small directions by hundreds, and with them the rounding of float32 sums,
            # which would differ with the number of images in them, and so with the number of ranks.
            x = (x.double() @ self._whitening_DD.to(x.device)).float()
        return x

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint keeps: measuring again in a resumed run would give other last bits on a GPU."""
        named = {"mean": self._mean_D, "deviation": self._deviation_D, "whitening": self._whitening_DD}
        return {f"targets.{name}": tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def restored(cls, mode: Mode, state: dict[str, torch.Tensor]) -> TargetNorm:
        """Return the norm whose `state` is given."""
        return cls(mode, *(state.get(f"targets.{name}") for name in ("mean", "deviation", "whitening")))


def measured(
    mode: Mode,
    store: Store,
    targets: Targets,
    positions: NDArray[np.int64],
    device: torch.device,
) -> TargetNorm:
    """Return the norm of a new run, with its statistics measured on at most 512 of the rows at `positions`.

    Args:
        mode: `standardised` and `whitened` read the store, the others do not.
        store: to read from.
        targets: read from the store, or computed from its pixels.
        positions: int64, the training rows in the store's table.
        device: to compute on.
    """
    if mode not in ("standardised", "whitened"):
        return TargetNorm(mode)
    picked = positions[np.unique(np.linspace(0, len(positions) - 1, min(_SAMPLE, len(positions))).astype(np.int64))]
    layers = [name for name in targets.layers or ("pixels",) if name in store.layers]
    count = 0
    total_D = products_DD = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, len(picked), _AT_ONCE):
        read = store.read(store.rows[picked[start : start + _AT_ONCE]], layers=layers)
        if targets.online is not None:
            latents_BTD = targets.online(torch.from_numpy(read.pixels).to(device))
        else:
            latents_BTD = read.targets(str(device))
        x = latents_BTD.double().flatten(0, 1)
        count += len(x)
        total_D, products_DD = total_D + x.sum(0), products_DD + x.T @ x
    mean_D = total_D / count
    covariance_DD = products_DD / count - torch.outer(mean_D, mean_D)
    if mode == "standardised":
        deviation_D = (covariance_DD.diagonal().clamp(min=0.0) + _EPSILON).sqrt()
        return TargetNorm(mode, mean_D.float().cpu(), deviation_D.float().cpu())
    variance_D, axes_DD = torch.linalg.eigh(covariance_DD)
    scale_D = (variance_D.clamp(min=0.0) + _FLOOR * variance_D.mean()).rsqrt()
    whitening_DD = (axes_DD * scale_D) @ axes_DD.T
    return TargetNorm(mode, mean_D.float().cpu(), None, whitening_DD.cpu())
