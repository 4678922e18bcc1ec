"""The loss: per-element distance between predictions and the teacher's latents, averaged by patch, block and image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from usjepa.cache.recipes.train import TrainSettings


def loss(
    predictions_BMPD: torch.Tensor,
    targets_BMPD: torch.Tensor,
    valid_BMP: torch.Tensor,
    usable_B: torch.Tensor,
    settings: TrainSettings,
    images: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """Mean over usable images of the mean over their blocks of the mean over valid patches: a float32 scalar.

    Blocks without a valid patch don't count, and neither do images that are not usable or have no block left. `images`
    replaces the number of images divided by: give all ranks (or accumulated parts) the mean of their counts and the
    average of their losses is the loss of the whole batch, however unevenly the images fell. With no image at all the
    loss is 0 and so are its gradients. Computed in float32 whatever autocast made of the predictions.
    """
    image_B, counted_B = image_losses(predictions_BMPD, targets_BMPD, valid_BMP & usable_B[:, None, None], settings)
    total = image_B.sum()
    if images is None:
        return total / counted_B.sum().clamp(min=1)
    return total / images


def image_losses(
    predictions_BMPD: torch.Tensor, targets_BMPD: torch.Tensor, valid_BMP: torch.Tensor, settings: TrainSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image's loss, float32 [B], and whether it has any valid target, bool [B]; 0 where it has none."""
    targets_BMPD = targets_BMPD.float()
    # Padding is made equal to its target before anything is computed of it: it then gives neither loss nor gradient,
    # not even where a prediction there is not finite.
    predictions_BMPD = torch.where(valid_BMP[..., None], predictions_BMPD.float(), targets_BMPD)
    patch_BMP = _distance(predictions_BMPD, targets_BMPD, settings).mean(dim=-1)
    patches_BM = valid_BMP.sum(dim=-1)
    block_BM = patch_BMP.sum(dim=-1) / patches_BM.clamp(min=1)
    blocks_B = (patches_BM > 0).sum(dim=-1)
    return block_BM.sum(dim=-1) / blocks_B.clamp(min=1), blocks_B > 0


def _distance(predictions: torch.Tensor, targets: torch.Tensor, settings: TrainSettings) -> torch.Tensor:
    """Elementwise: smooth L1 (Girshick 2015) is d^2 / (2 beta) for d < beta and d - beta / 2 beyond; L1 d; L2 d^2.

    Cosine is one number a patch, 1 - cos (last axis of length 1): it sees directions and no lengths.
    """
    if settings.loss == "cosine":
        return 1.0 - functional.cosine_similarity(predictions, targets, dim=-1, eps=1e-6).unsqueeze(-1)
    if settings.loss == "smooth_l1":
        return functional.smooth_l1_loss(predictions, targets, beta=settings.beta, reduction="none")
    if settings.loss == "l1":
        return functional.l1_loss(predictions, targets, reduction="none")
    return functional.mse_loss(predictions, targets, reduction="none")
