"""One optimizer step: augment, predict, compare, and stop before a number that is not finite reaches the weights."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from usjepa.cache.errors import TrainingError
from usjepa.train import objective
from usjepa.train.augment import augment
from usjepa.train.model import set_rates

if TYPE_CHECKING:
    from usjepa.train.batches import TrainBatch
    from usjepa.train.model import Model
    from usjepa.train.plan import Plan

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
    model: Model, pixels_BCSS: torch.Tensor, batch: TrainBatch, plan: Plan
) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and targets, [B, M, P, D] each, of pixels in [0, 1]."""
    if batch.latents_BTD is None:
        raise TrainingError(f"step {batch.step}: the batch came without latents (a fault of usjepa, please report it)")
    with autocast(plan):
        predictions_BMPD = model(pixels_BCSS, batch)
    latents_BTD = objective.normalise_targets(batch.latents_BTD, plan.settings.target_norm)
    B, M, P = batch.targets_BMP.shape
    places = batch.targets_BMP.reshape(B, M * P, 1).expand(-1, -1, latents_BTD.shape[-1])
    return predictions_BMPD, latents_BTD.gather(1, places).reshape(B, M, P, -1)


def train_step(model: Model, optimizer: torch.optim.Optimizer, batch: TrainBatch, plan: Plan) -> StepResult:
    """Take one step.

    Raises:
        TrainingError: the loss or the gradients are not finite; the weights are still those of the step before.
    """
    settings, step = plan.settings, batch.step
    lr, weight_decay = plan.schedule.lr(step), plan.schedule.weight_decay(step)
    set_rates(optimizer, lr, weight_decay)
    pixels_BCSS = augment(batch.pixels_BCSS.float() / 255.0, settings.seed, step, batch.rows_B, settings.augment)
    predictions_BMPD, targets_BMPD = forward(model, pixels_BCSS, batch, plan)
    usable_B = torch.ones(len(batch), dtype=torch.bool, device=plan.device)
    loss = objective.loss(predictions_BMPD, targets_BMPD, batch.targets_valid_BMP, usable_B, settings)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = get_total_norm(gradients)
    told_loss, told_norm = torch.stack([loss.detach(), norm]).tolist()  # the step's only wait for the device
    if not (math.isfinite(told_loss) and math.isfinite(told_norm)):
        image_B, _ = objective.image_losses(predictions_BMPD, targets_BMPD, batch.targets_valid_BMP, settings)
        raise TrainingError(_not_finite(batch, image_B.detach(), told_loss, told_norm, plan))
    if settings.clip is not None:
        clip_grads_with_norm_(model.parameters(), settings.clip, norm)
    optimizer.step()
    return StepResult(told_loss, told_norm, lr, weight_decay)


def _not_finite(batch: TrainBatch, image_B: torch.Tensor, loss: float, norm: float, plan: Plan) -> str:
    """Name the rows whose own loss is not finite, or the whole batch when each alone is."""
    guilty = batch.rows_B[~torch.isfinite(image_B).cpu().numpy()]
    rows = guilty if len(guilty) else batch.rows_B
    named = ", ".join(str(row) for row in rows[:_NAMED]) + (
        f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    )
    epoch, _ = plan.order.position_of(batch.step)
    whose = "rows whose loss is not finite" if len(guilty) else "rows of the batch"
    return (
        f"step {batch.step} (epoch {epoch}): loss {loss:g}, gradient norm {norm:g}; {whose}: {named}. Nothing was "
        "learnt from this step, the last checkpoint is whole. If the rows look right (usjepa-cache verify, inspect), "
        "lower train.lr or set train.clip, and train anew."
    )
