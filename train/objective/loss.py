"""Compute the loss that `train.loss` names, between predictions and targets.

Elements are averaged over the width of a patch, patches over a block, blocks over an image, images over the batch.
What the targets are is chosen by `train.objective` (`targets.py`), not here.

Shape suffixes: B images, M target blocks, P target length, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from usjepa.cache.recipes.train import TrainSettings
    from usjepa.train.objective.targets import Targets


def loss(
    predictions_BMPD: torch.Tensor,
    targets_BMPD: torch.Tensor,
    valid_BMP: torch.Tensor,
    settings: TrainSettings,
    images: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """Return the mean over images of the mean over their blocks of the mean over valid patches: a float32 scalar.

    Blocks without a valid patch do not count, nor do images without such a block. Without any image, the loss and its
    gradients are 0. Computed in float32, whatever precision autocast gave the predictions.

    Args:
        predictions_BMPD: floating point.
        targets_BMPD: floating point.
        valid_BMP: bool, False at padded targets.
        settings: the `train:` section; `loss` and `beta` count here.
        images: divides the sum of image losses; None: the number of images that count. If every rank (or accumulated
            part) is given the mean of their counts, the average of their losses is the loss of the whole batch, however
            unevenly the images are distributed.
    """
    image_B, counted_B = image_losses(predictions_BMPD, targets_BMPD, valid_BMP, settings)
    total = image_B.sum()
    if images is None:
        return total / counted_B.sum().clamp(min=1)
    return total / images


def image_losses(
    predictions_BMPD: torch.Tensor, targets_BMPD: torch.Tensor, valid_BMP: torch.Tensor, settings: TrainSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each image's loss, float32 [B], 0 without a valid target, and whether it has one, bool [B].

    With `visible_weight`, blocks of visible patches stand behind the target blocks: their mean is weighed and added.
    """
    if not settings.visible_weight:
        return _means(predictions_BMPD, targets_BMPD, valid_BMP, settings)
    masked = valid_BMP.shape[1] - visible_blocks(settings, valid_BMP.shape[1])
    both = (slice(masked), slice(masked, None))
    (masked_B, counted_B), (visible_B, _) = (
        _means(predictions_BMPD[:, part], targets_BMPD[:, part], valid_BMP[:, part], settings) for part in both
    )
    return masked_B + settings.visible_weight * visible_B, counted_B


def visible_blocks(settings: TrainSettings, blocks: int) -> int:
    """Return how many of an image's blocks hold visible patches: one if blocks are joint, else one per target block."""
    if not settings.visible_weight:
        return 0
    return 1 if settings.predictor.joint else blocks // 2


def _means(
    predictions_BMPD: torch.Tensor, targets_BMPD: torch.Tensor, valid_BMP: torch.Tensor, settings: TrainSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    targets_BMPD = targets_BMPD.float()
    # Padding is made equal to its target before anything is computed from it: it then gives neither loss nor gradient,
    # even where a prediction there is not finite.
    predictions_BMPD = torch.where(valid_BMP[..., None], predictions_BMPD.float(), targets_BMPD)
    patch_BMP = _distance(predictions_BMPD, targets_BMPD, settings).mean(dim=-1)
    patches_BM = valid_BMP.sum(dim=-1)
    block_BM = patch_BMP.sum(dim=-1) / patches_BM.clamp(min=1)
    blocks_B = (patches_BM > 0).sum(dim=-1)
    return block_BM.sum(dim=-1) / blocks_B.clamp(min=1), blocks_B > 0


def several_losses(
    predictions_BMPD: torch.Tensor,
    targets_BMPD: torch.Tensor,
    valid_BMP: torch.Tensor,
    settings: TrainSettings,
    targets: Targets,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each image's loss, and its loss for each of K targets, float32 [B] and [K, B].

    Of several targets, which lie side by side along D, the loss is the weighted mean of what each has by itself; of
    one it is what `image_losses` gives.
    """
    if not targets.parts:
        image_B, _ = image_losses(predictions_BMPD, targets_BMPD, valid_BMP, settings)
        return image_B, image_B[None]
    widths = [part.dim for part in targets.parts]
    pairs = zip(predictions_BMPD.split(widths, dim=-1), targets_BMPD.split(widths, dim=-1), strict=True)
    each_KB = torch.stack([image_losses(mine, wanted, valid_BMP, settings)[0] for mine, wanted in pairs])
    weights_K1 = torch.tensor(targets.weights, device=each_KB.device)[:, None]
    return (weights_K1 * each_KB).sum(dim=0), each_KB


def _distance(predictions: torch.Tensor, targets: torch.Tensor, settings: TrainSettings) -> torch.Tensor:
    """Return the distance of each element, [..., D]; with `loss: cosine`, of each patch, [..., 1].

    With d = |prediction - target|, smooth L1 (Girshick, "Fast R-CNN", arXiv 1504.08083, equation 3, with a threshold
    beta as in torch) is d^2 / (2 beta) for d < beta and d - beta / 2 beyond; L1 is d; L2 is d^2. Cosine is 1 - cos: it
    depends on directions, not on lengths.
    """
    if settings.loss == "cosine":
        return 1.0 - functional.cosine_similarity(predictions, targets, dim=-1, eps=1e-6).unsqueeze(-1)
    if settings.loss == "smooth_l1":
        return functional.smooth_l1_loss(predictions, targets, beta=settings.beta, reduction="none")
    if settings.loss == "l1":
        return functional.l1_loss(predictions, targets, reduction="none")
    return functional.mse_loss(predictions, targets, reduction="none")
