"""Compute how badly each image finds its partner among the images of a batch.

NT-Xent (SimCLR, arXiv 2002.05709, equation 1): the cross-entropy of choosing the partner by cosine over temperature.
Other images of the same clip (or group) are left out of the choice: they show the same heart, and pushing them away
would teach what speckle tells frames apart.

Shape suffixes: B pairs, P width of a point; a 2 counts anchor and partner.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

CONTRAST_VERSION = 2
"""Part of a run's identity: raised when the same pairs would give another loss. Version 1 took 0 where none is."""
_OUT = -1e9


@dataclass(frozen=True)
class Found:
    """What a batch of pairs gives."""

    loss_B: torch.Tensor
    """float32 [B]: of each pair, the mean of both directions."""
    partner: torch.Tensor
    """Mean cosine of partners, a scalar."""
    others: torch.Tensor
    """Mean cosine of images that are to be told apart, a scalar; 0 where there are none."""


def contrast(points_B2P: torch.Tensor, codes_B: torch.Tensor, temperature: float) -> Found:
    """Return the losses of pairs.

    Args:
        points_B2P: float32, of length 1.
        codes_B: int64; images of pairs of equal numbers are neither chosen nor told apart.
        temperature: divides cosines.
    """
    B, _, P = points_B2P.shape
    flat = points_B2P.reshape(2 * B, P)
    cosine = flat @ flat.T
    at = torch.arange(2 * B, device=flat.device)
    partner = at ^ 1
    code = codes_B.to(flat.device).repeat_interleave(2)
    apart = code[:, None] != code
    wanted = apart.clone()
    wanted[at, partner] = True
    logits = torch.where(wanted, cosine / temperature, torch.full_like(cosine, _OUT))
    chosen = cosine[at, partner]
    loss = torch.logsumexp(logits, dim=1) - chosen / temperature
    others = torch.where(apart, cosine, torch.zeros_like(cosine)).sum() / apart.sum().clamp(min=1)
    return Found(loss.reshape(B, 2).mean(dim=1), chosen.detach().mean(), others.detach())
