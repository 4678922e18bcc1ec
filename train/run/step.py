"""One optimizer step: augment, predict, compare, and stop before a number that is not finite reaches the weights."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from usjepa.cache.errors import TrainingError
from usjepa.train.model.augment import augment
from usjepa.train.model.jepa import set_rates
from usjepa.train.objective import loss as objective
from usjepa.train.run.ranks import lost_rank_told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.train.data.batches import TrainBatch
    from usjepa.train.run.plan import Plan
    from usjepa.train.run.ranks import Ranks

_NAMED = 16
"""Rows that an error message lists, at most."""


@dataclass(frozen=True)
class StepResult:
    """What a step tells the log."""

    loss: float
    grad_norm: float
    """Before clipping."""
    lr: float
    weight_decay: float


def autocast(plan: Plan) -> AbstractContextManager[Any]:
    """bf16 on a GPU where the recipe says so; a CPU computes in fp32."""
    if plan.device.type == "cuda" and plan.settings.compute == "bf16":
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def forward(
    model: torch.nn.Module, pixels_BCSS: torch.Tensor, batch: TrainBatch, plan: Plan
) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and targets, [B, M, P, D] each, of pixels in [0, 1]."""
    if batch.latents_BTD is None:
        raise TrainingError(f"step {batch.step}: the batch came without latents (a fault of usjepa, please report it)")
    with autocast(plan):
        predictions_BMPD = model(pixels_BCSS, batch.masks)
    latents_BTD = batch.latents_BTD
    B, M, P = batch.masks.targets_BMP.shape
    places = batch.masks.targets_BMP.reshape(B, M * P, 1).expand(-1, -1, latents_BTD.shape[-1])
    return predictions_BMPD, latents_BTD.gather(1, places).reshape(B, M, P, -1)


def train_step(
    parallel: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[TrainBatch],
    images: int,
    plan: Plan,
    ranks: Ranks,
    limit: float = math.inf,
) -> StepResult:
    """Take one step on this rank's parts of a batch, whose gradients are accumulated.

    Args:
        parallel: the model, or what averages its gradients over ranks.
        optimizer: of the model.
        parts: at least one; any may be empty.
        images: usable ones in the whole batch, over all parts and ranks; not 0.
        plan: of the run.
        ranks: of the run.
        limit: a loss that is not below it has exploded.

    Raises:
        TrainingError: loss or gradients are not finite, or exploded; the weights are still those of the step before.
    """
    settings, step = plan.settings, parts[0].step
    lr, weight_decay = plan.schedule.lr(step), plan.schedule.weight_decay(step)
    set_rates(optimizer, lr, weight_decay)
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for number, part in enumerate(parts):
        # Gradients travel between ranks once, with the last part.
        with _unsynchronised(parallel, number + 1 < len(parts)), lost_rank_told(ranks):
            # The average over ranks of sums divided by the mean count is the mean over all images.
            loss = _part_loss(parallel, part, images / ranks.size, plan)
            torch.autograd.backward(loss)
        losses.append(loss.detach())
    gradients = [parameter.grad for parameter in parallel.parameters() if parameter.grad is not None]
    norm = get_total_norm(gradients)
    mine, told_norm = torch.stack([torch.stack(losses).sum(), norm]).tolist()  # the only wait for the device
    told_loss = ranks.add_floats([mine])[0] / ranks.size if ranks.size > 1 else mine
    if not (told_loss < limit and math.isfinite(told_norm)):
        raise TrainingError(_not_finite(parallel, parts, told_loss, told_norm, plan))
    if settings.clip is not None:
        clip_grads_with_norm_(parallel.parameters(), settings.clip, norm)
    optimizer.step()
    return StepResult(told_loss, told_norm, lr, weight_decay)


def _part_loss(parallel: torch.nn.Module, part: TrainBatch, share: float, plan: Plan) -> torch.Tensor:
    """The part's sum of image losses over `share`; 0 without an image, with gradients of 0 for every parameter."""
    settings = plan.settings
    pixels_BCSS = augment(part.pixels_BCSS.float() / 255.0, settings.seed, part.step, part.rows_B, settings.augment)
    if not len(part):
        idle: torch.Tensor = parallel(pixels_BCSS, part.masks)
        return idle
    predictions_BMPD, targets_BMPD = forward(parallel, pixels_BCSS, part, plan)
    return objective.loss(predictions_BMPD, targets_BMPD, part.masks.targets_valid_BMP, settings, share)


def _unsynchronised(parallel: torch.nn.Module, wanted: bool) -> AbstractContextManager[Any]:
    if wanted and isinstance(parallel, DistributedDataParallel):
        return parallel.no_sync()
    return nullcontext()


def _guilty(parallel: torch.nn.Module, parts: Sequence[TrainBatch], plan: Plan) -> list[int]:
    """Rows whose own loss is not finite: asked again, because a healthy step need not know the loss of each."""
    model = parallel.module if isinstance(parallel, DistributedDataParallel) else parallel
    rows: list[int] = []
    for part in parts:
        if not len(part):
            continue
        with torch.no_grad():
            settings = plan.settings
            pixels = augment(part.pixels_BCSS.float() / 255.0, settings.seed, part.step, part.rows_B, settings.augment)
            predictions, targets = forward(model, pixels, part, plan)
            image_B, _ = objective.image_losses(predictions, targets, part.masks.targets_valid_BMP, settings)
        rows += part.rows_B[~torch.isfinite(image_B).cpu().numpy()].tolist()
    return rows


def _not_finite(parallel: torch.nn.Module, parts: Sequence[TrainBatch], loss: float, norm: float, plan: Plan) -> str:
    """Name the rows whose own loss is not finite, or the whole batch when each alone is."""
    guilty = _guilty(parallel, parts, plan)
    rows = guilty or [int(row) for part in parts for row in part.rows_B]
    named = ", ".join(str(row) for row in rows[:_NAMED]) + (
        f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    )
    step = parts[0].step
    epoch, _ = plan.order.position_of(step)
    whose = "rows whose loss is not finite" if guilty else "rows of the batch"
    exploded = "" if guilty or not math.isfinite(loss) else " (exploded: see train.explosion)"
    return (
        f"step {step} (epoch {epoch}): loss {loss:g}{exploded}, gradient norm {norm:g}; {whose}: {named}. Nothing was "
        "learnt from this step, the last checkpoint is whole. If the rows look right (usjepa-cache verify, inspect), "
        "lower train.lr or set train.clip, and train anew."
    )
