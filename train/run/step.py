"""Take one optimizer step, unless a number that is not finite would reach the weights.

Shape suffixes: B images, C channels, S edge of stored pixels, M target blocks, P target length, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from usjepa.cache.errors import TrainingError
from usjepa.train.data.pairs import PairBatch
from usjepa.train.model.augment import augment
from usjepa.train.model.jepa import set_rates
from usjepa.train.objective import loss as objective
from usjepa.train.run.computing import Learner, autocast, unsynchronised
from usjepa.train.run.contrast import pair_gradients, rows_not_finite
from usjepa.train.run.opening import named_rows
from usjepa.train.run.ranks import reporting_lost_ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import TypeIs

    from usjepa.train.data.batches import TrainBatch
    from usjepa.train.run.plan import TrainingPlan

    Parts = Sequence[TrainBatch] | Sequence[PairBatch]

_NAMED = 16
"""Most rows that an error message lists."""


class Predicted(NamedTuple):
    """Predictions of a batch and what they should be, visible patches behind the target blocks if they are asked."""

    predictions_BMPD: torch.Tensor
    """Floating point."""
    targets_BMPD: torch.Tensor
    """Floating point."""
    valid_BMP: torch.Tensor
    """bool, False at padding."""


@dataclass(frozen=True)
class StepResult:
    """The outcome of a step, for the log."""

    loss: float
    """Mean over the images of the batch."""
    grad_norm: float
    """Before clipping."""
    lr: float
    weight_decay: float
    each: tuple[float, ...] = ()
    """Of several targets, the loss of each by itself."""


def forward(model: torch.nn.Module, pixels_BCSS: torch.Tensor, batch: TrainBatch, plan: TrainingPlan) -> Predicted:
    """Return predictions and targets, float [B, M, P, D] each, and which count.

    Args:
        model: predicts from pixels and masks.
        pixels_BCSS: float, in [0, 1], the batch's own or augmented.
        batch: with latents.
        plan: of the run.
    """
    if batch.latents_BTD is None:
        raise TrainingError(f"step {batch.step}: the batch has no latents. This is a bug of usjepa, please report it.")
    with autocast(plan):
        predictions_BMPD = model(pixels_BCSS, batch.masks)
    latents_BTD = batch.latents_BTD
    patches_BMP, valid_BMP = batch.masks.asked(predictions_BMPD.shape[1] - batch.masks.targets_BMP.shape[1])
    B, M, P = patches_BMP.shape
    places = patches_BMP.reshape(B, M * P, 1).expand(-1, -1, latents_BTD.shape[-1])
    return Predicted(predictions_BMPD, latents_BTD.gather(1, places).reshape(B, M, P, -1), valid_BMP)


def train_step(learner: Learner, parts: Parts, images: int, limit: float = math.inf) -> StepResult:
    """Take one step on this rank's parts of a batch, whose gradients are accumulated.

    Args:
        learner: whose weights change.
        parts: at least one; any may be empty.
        images: usable ones in the whole batch, over all parts and ranks; not 0.
        limit: a loss that is not below it has exploded.

    Raises:
        TrainingError: loss or gradients are not finite, or the loss exploded; the weights have not changed.
    """
    model, optimizer, plan, ranks = learner.model, learner.optimizer, learner.plan, learner.ranks
    settings, step = plan.settings, parts[0].step
    lr, weight_decay = plan.schedule.lr(step), plan.schedule.weight_decay(step)
    set_rates(optimizer, lr, weight_decay)
    optimizer.zero_grad(set_to_none=True)
    if _of_pairs(parts):
        losses = pair_gradients(learner, parts, images)[None]
    else:
        losses = _masked_gradients(learner, parts, images)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = get_total_norm(gradients)
    *found, grad_norm = torch.cat([losses, norm[None]]).tolist()  # the only wait for the device
    batch_loss, *each = [x / ranks.size for x in ranks.add_floats(found)] if ranks.size > 1 else found
    if not (batch_loss < limit and math.isfinite(grad_norm)):
        raise TrainingError(_not_finite(learner, parts, batch_loss, grad_norm, limit))
    if settings.clip is not None:
        clip_grads_with_norm_(model.parameters(), settings.clip, norm)
    optimizer.step()
    return StepResult(batch_loss, grad_norm, lr, weight_decay, tuple(each))


def _of_pairs(parts: Parts) -> TypeIs[Sequence[PairBatch]]:
    return isinstance(parts[0], PairBatch)


def _masked_gradients(learner: Learner, parts: Sequence[TrainBatch], images: int) -> torch.Tensor:
    """Add the gradients of this rank's parts; return its share of the loss, times the number of ranks, in a vector.

    Behind it stand the losses of several targets, each by itself.
    """
    model, ranks = learner.model, learner.ranks
    losses = []
    for number, part in enumerate(parts):
        # Gradients travel between ranks once, with the last part.
        with unsynchronised(model, number + 1 < len(parts)), reporting_lost_ranks(ranks):
            # The average over ranks of sums divided by the mean count is the mean over all images.
            found = _part_losses(model, part, images / ranks.size, learner.plan)
            torch.autograd.backward(found[0])
        losses.append(torch.stack(found).detach())
    return torch.stack(losses).sum(dim=0)


def _part_losses(model: torch.nn.Module, part: TrainBatch, share: float, plan: TrainingPlan) -> list[torch.Tensor]:
    """Return the part's sum of image losses over `share`, and that for each of several targets.

    Without an image they are 0, with gradients of 0.
    """
    pixels_BCSS = _augmented(part, plan)
    if not len(part):
        idle: torch.Tensor = model(pixels_BCSS, part.masks)
        return [idle] * (1 + len(plan.targets.parts))
    found = forward(model, pixels_BCSS, part, plan)
    if not plan.targets.parts:
        return [objective.loss(*found, plan.settings, share)]
    image_B, each_KB = objective.several_losses(*found, plan.settings, plan.targets)
    return [image_B.sum() / share, *(each_B.sum() / share for each_B in each_KB)]


def _augmented(part: TrainBatch, plan: TrainingPlan) -> torch.Tensor:
    """Return the student's input, float [B, C, S, S] in [0, 1]."""
    settings = plan.settings
    return augment(part.pixels_BCSS.float() / 255.0, settings.seed, part.step, part.rows_B, settings.augment)


def _rows_not_finite(learner: Learner, parts: Sequence[TrainBatch]) -> list[int]:
    """Return the rows whose own loss is not finite; computed again, because a healthy step skips the loss per image."""
    model, plan = learner.model, learner.plan
    model = model.module if isinstance(model, DistributedDataParallel) else model
    rows: list[int] = []
    for part in parts:
        if not len(part):
            continue
        with torch.no_grad():
            found = forward(model, _augmented(part, plan), part, plan)
            image_B, _ = objective.several_losses(*found, plan.settings, plan.targets)
        rows += part.rows_B[~torch.isfinite(image_B).cpu().numpy()].tolist()
    return rows


def _not_finite(learner: Learner, parts: Parts, loss: float, norm: float, limit: float) -> str:
    """Return a message that names the rows whose own loss is not finite, or the whole batch if each alone is."""
    guilty = rows_not_finite(learner, parts) if _of_pairs(parts) else _rows_not_finite(learner, parts)
    rows = guilty or [int(row) for part in parts for row in part.rows_B]
    named = ", ".join(named_rows(learner.plan.store, rows[:_NAMED])) + (
        f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    )
    step = parts[0].step
    epoch, _ = learner.plan.order.position_of(step)
    which = "rows whose loss is not finite" if guilty else "rows of the batch"
    exploded = " (exploded: see train.explosion)" if not guilty and limit <= loss < math.inf else ""
    return (
        f"step {step} (epoch {epoch}): loss {loss:g}{exploded}, gradient norm {norm:g}; {which}: {named}. The weights "
        "have not changed, and the last checkpoint is whole. If the rows look right (usjepa-cache verify, inspect), "
        "lower train.lr or set train.clip, and train again in a new RUN folder."
    )
