"""Normalise targets before the loss, as `train.target_norm` names it.

`none` keeps them. `layer` is I-JEPA's `F.layer_norm(h, (h.size(-1),))`: every token to mean 0 and variance 1 over its
channels, no affine, eps 1e-5. `standardised` subtracts each channel's mean and divides by its deviation over a sample
of training frames: latents with a few massive channels (arXiv 2402.17762) would otherwise be dominated by them.
`whitened` multiplies by the inverse square root of the channels' covariance (ZCA whitening, arXiv 1512.00809): if all
channels of a small teacher follow brightness and depth, standardised ones still do, and the directions in which classes
differ are a small part of the loss. Unlike principal axes, whose signs and order depend on rounding, it is unique.
`rotated` turns the channels so that all have the same variance, and divides by one number, the root of it: what PHI-S
(arXiv 2410.01680) does for several teachers. Directions keep their weights and none is amplified; targets of different
teachers come to one scale. PHI-S turns principal axes by a Hadamard matrix, which few widths have; here plane rotations
set one variance after another to the mean (Bendel and Mickey 1978), whatever the width.

Several targets are normalised each by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.places.runs import Runs
    from usjepa.cache.several.face import Readable
    from usjepa.train.objective.targets import Targets

Mode = Literal["none", "layer", "standardised", "whitened", "rotated"]
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


class JoinedNorm:
    """Normalises several targets side by side, floating point [B, T, sum of D] to float32, each by itself."""

    def __init__(self, norms: Sequence[TargetNorm], widths: Sequence[int]) -> None:
        """Keep the norm and the width D of each."""
        self._norms, self._widths = list(norms), list(widths)

    def __call__(self, latents_BTD: torch.Tensor) -> torch.Tensor:
        """Normalise the targets of all patches."""
        parts = latents_BTD.split(self._widths, dim=-1)
        return torch.cat([norm(part) for norm, part in zip(self._norms, parts, strict=True)], dim=-1)

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint keeps, the parts by their places."""
        return {
            f"targets.{place}.{name.removeprefix('targets.')}": tensor
            for place, norm in enumerate(self._norms)
            for name, tensor in norm.state().items()
        }

    @classmethod
    def restored(cls, mode: Mode, state: dict[str, torch.Tensor], widths: Sequence[int]) -> JoinedNorm:
        """Return the norm whose `state` is given."""
        norms = []
        for place in range(len(widths)):
            start = f"targets.{place}."
            mine = {f"targets.{name[len(start) :]}": t for name, t in state.items() if name.startswith(start)}
            norms.append(TargetNorm.restored(mode, mine))
        return cls(norms, widths)


def restored(mode: Mode, targets: Targets, state: dict[str, torch.Tensor]) -> TargetNorm | JoinedNorm:
    """Return the norm of a run that goes on, from its checkpoint."""
    if not targets.parts:
        return TargetNorm.restored(mode, state)
    return JoinedNorm.restored(mode, state, [part.dim for part in targets.parts])


def measured(
    mode: Mode,
    store: Readable,
    targets: Targets,
    positions: NDArray[np.int64] | Runs,
    device: torch.device,
) -> TargetNorm | JoinedNorm:
    """Return the norm of a new run; each of several targets has its own. Arguments as of `measured_one`."""
    if not targets.parts:
        return measured_one(mode, store, targets, positions, device)
    norms = [measured_one(mode, store, part, positions, device) for part in targets.parts]
    return JoinedNorm(norms, [part.dim for part in targets.parts])


def measured_one(
    mode: Mode,
    store: Readable,
    targets: Targets,
    positions: NDArray[np.int64] | Runs,
    device: torch.device,
) -> TargetNorm:
    """Return the norm of one target, with its statistics measured on at most 512 of the rows at `positions`.

    Args:
        mode: `standardised`, `whitened` and `rotated` read the store, the others do not.
        store: to read from.
        targets: read from the store, or computed from its pixels.
        positions: int64, the training rows in the store's table.
        device: to compute on.
    """
    if mode not in ("standardised", "whitened", "rotated"):
        return TargetNorm(mode)
    picked = positions[np.unique(np.linspace(0, len(positions) - 1, min(_SAMPLE, len(positions))).astype(np.int64))]
    layers = [name for name in targets.layers or ("pixels",) if name in store.layers]
    count = 0
    total_D = products_DD = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, len(picked), _AT_ONCE):
        read = store.read(store.row_numbers(picked[start : start + _AT_ONCE]), layers=layers)
        if targets.online is not None:
            latents_BTD = targets.online(torch.from_numpy(read.pixels).to(device))
        else:
            latents_BTD = targets.stored(read, str(device))
        x = latents_BTD.double().flatten(0, 1)
        count += len(x)
        total_D, products_DD = total_D + x.sum(0), products_DD + x.T @ x
    mean_D = total_D / count
    covariance_DD = products_DD / count - torch.outer(mean_D, mean_D)
    if mode == "standardised":
        deviation_D = (covariance_DD.diagonal().clamp(min=0.0) + _EPSILON).sqrt()
        return TargetNorm(mode, mean_D.float().cpu(), deviation_D.float().cpu())
    if mode == "rotated":
        turned_DD, variance = equal_variances(covariance_DD.cpu().numpy())
        return TargetNorm(mode, mean_D.float().cpu(), None, torch.from_numpy(turned_DD / np.sqrt(variance + _EPSILON)))
    variance_D, axes_DD = torch.linalg.eigh(covariance_DD)
    scale_D = (variance_D.clamp(min=0.0) + _FLOOR * variance_D.mean()).rsqrt()
    whitening_DD = (axes_DD * scale_D) @ axes_DD.T
    return TargetNorm(mode, mean_D.float().cpu(), None, whitening_DD.cpu())


def equal_variances(covariance_DD: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return a rotation R [D, D] for which the diagonal of R^T C R is constant, and that constant, the mean variance.

    Each plane rotation joins the channel of the least variance with that of the largest, and brings the one that is
    nearer to the mean onto it: D - 1 rotations at most. (Bendel and Mickey, "Population correlation matrices for
    sampling experiments", 1978.)
    """
    left = np.array(covariance_DD, np.float64)
    turned: NDArray[np.float64] = np.eye(len(left))
    mean = float(np.trace(left)) / len(left)
    open_channels = np.ones(len(left), np.bool_)
    for _ in range(len(left) - 1):
        spread_D = np.where(open_channels, np.diagonal(left), mean) - mean
        low, high = int(spread_D.argmin()), int(spread_D.argmax())
        if low == high or spread_D[high] - spread_D[low] <= 1e-12 * abs(mean):
            break
        a, b, c = spread_D[low], spread_D[high], left[low, high]
        # The channel `low` turned by t = tan(angle) has the mean variance: b t^2 - 2 c t + a = 0, where a <= 0 <= b.
        t = (c + np.copysign(np.sqrt(c * c - a * b), c)) / b if b > 0 else 0.0
        cosine = 1.0 / np.sqrt(1.0 + t * t)
        plane = np.array([[cosine, t * cosine], [-t * cosine, cosine]])
        pair = [low, high]
        left[:, pair] = left[:, pair] @ plane
        left[pair, :] = plane.T @ left[pair, :]
        turned[:, pair] = turned[:, pair] @ plane
        open_channels[low] = False
    return turned, mean
