"""Train by a rival of NT-Xent: `python -m benchmarks.learning.rivals NAME` and the arguments of `usjepa-train`.

Only the loss over a batch's pairs is another one, and points are not brought to length 1 for those that need none; the
rest of the run is the product's. A run does not know it: its folder is told by its name.

Shape suffixes: B pairs, P width of a point, M directions, t points of the integral; a 2 counts anchor and partner.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from usjepa.train.model.contrast import Contrast
from usjepa.train.objective.contrast_loss import Found, contrast

if TYPE_CHECKING:
    from collections.abc import Callable

    Loss = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]

_DIRECTIONS, _POINTS, _FARTHEST = 256, 17, 3.0
_SHARE = 0.05
"""LeJEPA's weight of its regulariser; all four numbers are those of its short listing (arXiv 2511.08544)."""


class Unscaled(Contrast):
    """Student and projector, whose points keep their length."""

    def forward(self, pixels_nCSS: torch.Tensor) -> torch.Tensor:
        """Return points, float32 [n, P]."""
        if not len(pixels_nCSS):
            return super().forward(pixels_nCSS)
        tokens = self.student.encode(pixels_nCSS)[:, self.student.prefix :]
        points: torch.Tensor = self.projector(tokens.mean(dim=1)).float()
        return points


def spread(points_BP: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return VICReg's variance and covariance terms of one side (arXiv 2105.04906, equations 1 to 4)."""
    deviation_P = torch.sqrt(points_BP.var(dim=0) + 1e-4)
    centred_BP = points_BP - points_BP.mean(dim=0)
    covariance_PP = centred_BP.T @ centred_BP / (len(points_BP) - 1)
    others = covariance_PP.pow(2).sum() - covariance_PP.diagonal().pow(2).sum()
    return functional.relu(1.0 - deviation_P).mean(), others / points_BP.shape[1]


def vicreg(points_B2P: torch.Tensor, codes_B: torch.Tensor, temperature: float) -> torch.Tensor:
    """VICReg with its own weights: 25 for invariance and variance, 1 for covariance (arXiv 2105.04906, section 4.2)."""
    invariance = functional.mse_loss(points_B2P[:, 0], points_B2P[:, 1])
    sides = [spread(points_B2P[:, side]) for side in (0, 1)]
    variance, covariance = ((sides[0][n] + sides[1][n]) for n in (0, 1))
    return 25.0 * invariance + 25.0 * variance / 2 + covariance


def lejepa(points_B2P: torch.Tensor, codes_B: torch.Tensor, temperature: float) -> torch.Tensor:
    """Pull both to their middle, and all points of a side to a standard normal (LeJEPA, arXiv 2511.08544)."""
    middle_B1P = points_B2P.mean(dim=1, keepdim=True)
    invariance = (points_B2P - middle_B1P).pow(2).mean()
    normal = torch.stack([_unlike_normal(points_B2P[:, side]) for side in (0, 1)]).mean()
    return (1 - _SHARE) * invariance + _SHARE * normal


def _unlike_normal(points_BP: torch.Tensor) -> torch.Tensor:
    """Return the mean Epps-Pulley statistic over random directions, drawn anew at every call."""
    directions_PM = functional.normalize(torch.randn(points_BP.shape[1], _DIRECTIONS), dim=0)
    t = torch.linspace(0.0, _FARTHEST, _POINTS)
    wanted_t = torch.exp(-(t**2) / 2)
    angle_BMt = (points_BP @ directions_PM)[:, :, None] * t
    apart_Mt = (angle_BMt.cos().mean(dim=0) - wanted_t) ** 2 + angle_BMt.sin().mean(dim=0) ** 2
    return 2 * len(points_BP) * torch.trapezoid(apart_Mt * wanted_t, t, dim=1).mean()


def joined(points_B2P: torch.Tensor, codes_B: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent, and VICReg's variance and covariance of the unscaled points beside it, in VICReg's proportion."""
    told_apart = contrast(functional.normalize(points_B2P, dim=-1), codes_B, temperature).loss_B.mean()
    sides = [spread(points_B2P[:, side]) for side in (0, 1)]
    return told_apart + sum((variance / 2 + covariance / 25 for variance, covariance in sides), torch.zeros(()))


LOSSES: dict[str, Loss] = {"VICReg": vicreg, "LeJEPA": lejepa, "NT-Xent + spread": joined}


def rival(loss: Loss) -> Callable[[torch.Tensor, torch.Tensor, float], Found]:
    """Return what stands in for the product's loss: each pair bears the loss of its whole batch."""

    def found(points_B2P: torch.Tensor, codes_B: torch.Tensor, temperature: float) -> Found:
        told = contrast(functional.normalize(points_B2P.detach(), dim=-1), codes_B, temperature)
        whole = loss(points_B2P, codes_B, temperature)
        return Found(whole.expand(len(points_B2P)), told.partner, told.others)

    return found


def main() -> None:
    """Run `usjepa-train` with the loss that the first argument names."""
    from usjepa.train.cli import main as train
    from usjepa.train.run import contrast as run
    from usjepa.train.run import state

    torch.manual_seed(0)
    setattr(run, "contrast", rival(LOSSES[sys.argv[1]]))  # noqa: B010 - a name that the module imports
    setattr(state, "Contrast", Unscaled)  # noqa: B010
    train(sys.argv[2:])


if __name__ == "__main__":
    main()
