"""Targets as the loss sees them: as they are, each token normalised, or standardised or whitened over the data.

`layer` is I-JEPA's `F.layer_norm(h, (h.size(-1),))`: every token to mean 0 and variance 1 over its channels, no affine,
eps 1e-5. `standardised` takes each channel's mean off and divides by its deviation over a sample of training frames:
in latents with a few massive channels (arXiv 2402.17762) these alone would otherwise be what is learnt. `whitened`
multiplies by the inverse square root of the channels' covariance (ZCA whitening, arXiv 1512.00809): where all channels
of a small teacher follow brightness and depth, standardised ones still do, and the directions in which classes differ
are a small part of the loss. Unlike principal axes, whose signs and order are a matter of rounding, it is unique.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from usjepa.cache.reading.store import Store

Mode = Literal["none", "layer", "standardised", "whitened"]
SAMPLE = 512
"""Frames that mean and deviation are measured on, evenly spaced over the training rows."""
_AT_ONCE = 64
_EPSILON = 1e-6
_FLOOR = 1e-3
"""Added to the variance in every direction, as a share of the mean one: directions of rounding noise stay small."""


class TargetNorm:
    """Call it with latents [B, T, D]; it gives float32 of the same shape."""

    def __init__(
        self,
        mode: Mode,
        mean_D: torch.Tensor | None = None,
        deviation_D: torch.Tensor | None = None,
        whitening_DD: torch.Tensor | None = None,
    ) -> None:
        self.mode = mode
        self._mean_D, self._deviation_D, self._whitening_DD = mean_D, deviation_D, whitening_DD

    def __call__(self, latents_BTD: torch.Tensor) -> torch.Tensor:
        """Normalise; before patches are picked."""
        x = latents_BTD.float()
        if self.mode == "layer":
            return functional.layer_norm(x, (x.shape[-1],))
        if self._mean_D is not None:
            x = x - self._mean_D.to(x.device)
        if self._deviation_D is not None:
            x = x / self._deviation_D.to(x.device)
        if self._whitening_DD is not None:
            # Whitening makes small directions hundreds of times as large, and with them what a sum in float32 rounds
            # off, which differs with the number of images in it: with that of ranks.
            x = (x.double() @ self._whitening_DD.to(x.device)).float()
        return x

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps: a resumed run must not measure again, on a GPU it would get other last bits."""
        named = {"mean": self._mean_D, "deviation": self._deviation_D, "whitening": self._whitening_DD}
        return {f"targets.{name}": tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def restored(cls, mode: Mode, state: dict[str, torch.Tensor]) -> TargetNorm:
        """From what `state` gave."""
        return cls(mode, *(state.get(f"targets.{name}") for name in ("mean", "deviation", "whitening")))


def measured(
    mode: Mode,
    store: Store,
    layer: str | None,
    online: Callable[[torch.Tensor], torch.Tensor] | None,
    positions: NDArray[np.int64],
    device: torch.device,
) -> TargetNorm:
    """Return the norm of a new run, its statistics taken from at most `SAMPLE` of the rows at `positions`."""
    if mode not in ("standardised", "whitened"):
        return TargetNorm(mode)
    picked = positions[np.unique(np.linspace(0, len(positions) - 1, min(SAMPLE, len(positions))).astype(np.int64))]
    count = 0
    total_D = products_DD = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, len(picked), _AT_ONCE):
        read = store.read(store.rows[picked[start : start + _AT_ONCE]], layers=_layers(store, layer))
        if online is not None:
            latents_BTD = online(torch.from_numpy(read.pixels).to(device))
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


def _layers(store: Store, layer: str | None) -> list[str]:
    if layer is None:
        return ["pixels"]
    return [name for name in (f"latents/{layer}", f"scales/{layer}") if name in store.layers]
