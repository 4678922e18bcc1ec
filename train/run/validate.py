"""The loss on held-out groups, with the same masks every time: only the weights change between two of them."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from usjepa.cache.errors import TrainingError
from usjepa.train.data.batches import BatchMaker, BatchRequest
from usjepa.train.objective import loss as objective
from usjepa.train.run.step import forward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usjepa.train.model.jepa import Jepa
    from usjepa.train.run.plan import Plan
    from usjepa.train.run.ranks import Ranks

VALIDATION_STEP = -1
"""Names the draw of validation masks; no step of training has this number."""


@dataclass(frozen=True)
class Validation:
    """The outcome of one pass."""

    loss: float
    """Mean over images."""
    images: int
    unusable: int
    target_mean: float
    """Over all elements of the target patches, as the loss sees them."""
    target_std: float


def validate(model: Jepa, maker: BatchMaker, plan: Plan, ranks: Ranks, safe_point: Callable[[], None]) -> Validation:
    """The mean loss over the held-out images, without augmentation; `safe_point` may end it between batches.

    Each rank takes its share of every batch.

    Raises:
        TrainingError: the loss is not finite, or no held-out image is usable.
        Interrupted: from `safe_point`; nothing has changed and the pass is simply done again.
    """
    total, images, unusable = 0.0, 0, 0
    count, sums, squares = 0, 0.0, 0.0
    model.eval()
    try:
        with closing(maker.stream(_requests(plan, ranks))) as stream, torch.no_grad():
            for batch, _ in stream:
                safe_point()
                unusable += len(batch.unusable_rows)
                if not len(batch):
                    continue
                predictions, targets_BMPD = forward(model, batch.pixels_BCSS.float() / 255.0, batch, plan)
                valid_BMP = batch.masks.targets_valid_BMP
                image_B, _ = objective.image_losses(predictions, targets_BMPD, valid_BMP, plan.settings)
                # In double: how the images fall into batches must not show.
                total += float(image_B.double().sum())
                images += len(batch)
                chosen = targets_BMPD[valid_BMP].double()
                count += chosen.numel()
                sums += float(chosen.sum())
                squares += float(chosen.square().sum())
    finally:
        model.train()
    images, unusable, count = ranks.add([images, unusable, count])
    total, sums, squares = ranks.add_floats([total, sums, squares])
    if not images:
        raise TrainingError(
            f"none of the {unusable} held-out images has a region large enough for its masks: lower "
            "train.masks.min_patches, or train without train.masks.regions"
        )
    if not math.isfinite(total):
        raise TrainingError(f"the validation loss is {total}: the weights have diverged, lower train.lr")
    mean = sums / count
    return Validation(total / images, images, unusable, mean, math.sqrt(max(0.0, squares / count - mean * mean)))


def _requests(plan: Plan, ranks: Ranks) -> Iterator[BatchRequest]:
    size = plan.settings.batch_size
    for start in range(0, len(plan.validation_rows), size):
        mine = ranks.shares(plan.validation_rows[start : start + size])[0]
        yield BatchRequest(VALIDATION_STEP, mine)
