"""Learn from pairs: the gradients of a whole batch's loss, whatever parts compute it.

Every image is compared with all images of the batch, so the loss can't be summed over parts. Instead all parts' points
are computed first and shared; the loss's gradient by each point then goes back through the part that made it
(GradCache, arXiv 2101.06983). So ranks and accumulation change nothing but the order in which floats are added.

Shape suffixes: B pairs of the whole batch, b of this rank, P width of a point; a 2 counts anchor and partner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from usjepa.train.model.augment import augment
from usjepa.train.model.crops import random_crops
from usjepa.train.objective.contrast_loss import Found, contrast
from usjepa.train.run.computing import autocast, unsynchronised
from usjepa.train.run.ranks import reporting_lost_ranks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from usjepa.train.data.pairs import PairBatch
    from usjepa.train.run.computing import Learner
    from usjepa.train.run.plan import TrainingPlan
    from usjepa.train.run.ranks import Ranks

_OTHER_DRAWS = 1 << 40
"""Added to the seed for the partners' crops and noise: a still that is its own partner must not be cut alike."""


def pair_gradients(learner: Learner, parts: Sequence[PairBatch], images: int) -> torch.Tensor:
    """Add the gradients of the mean loss over the batch's pairs; return that loss.

    Args:
        learner: whose model's gradients are added to.
        parts: of this rank; any may be empty.
        images: pairs of the whole batch.
    """
    model, plan, ranks = learner.model, learner.plan, learner.ranks
    inputs = [_seen(part, plan) for part in parts]
    alone = len(parts) == 1
    with torch.set_grad_enabled(alone), reporting_lost_ranks(ranks):
        made = [_points(model, pixels, plan) for pixels in inputs]
    own = torch.cat([_paired(one, plan) for one in made])
    points_B2P, first = ranks.gathered(own)
    codes_B, _ = ranks.gathered(torch.from_numpy(np.concatenate([part.codes_B for part in parts])))
    points_B2P.requires_grad_()
    loss = contrast(points_B2P, codes_B, plan.settings.contrast.temperature).loss_B.sum() / images
    (gradient_B2P,) = torch.autograd.grad(loss, points_B2P)
    start = first
    for number, (part, pixels) in enumerate(zip(parts, inputs, strict=True)):
        # Gradients travel between ranks once, with the last part; they are averaged there, and wanted summed.
        with unsynchronised(model, number + 1 < len(parts)), reporting_lost_ranks(ranks):
            points = made[number] if alone else _points(model, pixels, plan)
            wanted = ranks.size * gradient_B2P[start : start + len(part)]
            torch.autograd.backward(points, wanted.transpose(0, 1).reshape(points.shape) if len(part) else None)
        start += len(part)
    return loss.detach()


@dataclass(frozen=True)
class HeldOutPairs:
    """The outcome of one pass over held-out pairs."""

    loss: float
    """Mean over pairs."""
    images: int
    partner_cosine: float
    other_cosine: float


def held_out_pairs(
    model: torch.nn.Module, batches: Iterable[PairBatch], plan: TrainingPlan, ranks: Ranks
) -> HeldOutPairs:
    """Return the mean loss over held-out pairs, without noise; crops are the same every time."""
    total, images, partner, others = 0.0, 0, 0.0, 0.0
    for batch in batches:
        found = _of_batch(model, batch, plan, ranks)
        count = len(found.loss_B)
        total += float(found.loss_B.double().sum())
        partner += count * float(found.partner)
        others += count * float(found.others)
        images += count
    share = 1.0 / max(images, 1)
    return HeldOutPairs(total * share if images else 0.0, images, partner * share, others * share)


def rows_not_finite(learner: Learner, parts: Sequence[PairBatch]) -> list[int]:
    """Return the rows whose own point is not finite."""
    model = learner.model
    model = model.module if isinstance(model, DistributedDataParallel) else model
    rows: list[int] = []
    for part in parts:
        with torch.no_grad():
            points_b2P = _paired(_points(model, _seen(part, learner.plan), learner.plan), learner.plan)
        fine = torch.isfinite(points_b2P).all(dim=2).all(dim=1).cpu().numpy()
        rows += part.rows_B[~fine].tolist()
    return rows


def _of_batch(model: torch.nn.Module, batch: PairBatch, plan: TrainingPlan, ranks: Ranks) -> Found:
    with torch.no_grad():
        own = _paired(_points(model, _seen(batch, plan, noise=False), plan), plan)
        points_B2P, _ = ranks.gathered(own)
        codes_B, _ = ranks.gathered(torch.from_numpy(batch.codes_B))
        return contrast(points_B2P, codes_B, plan.settings.contrast.temperature)


def _seen(part: PairBatch, plan: TrainingPlan, noise: bool = True) -> torch.Tensor:
    """Return what the student sees, float [2 b, C, S, S] in [0, 1]: anchors, then partners, cut and made noisy."""
    settings, pixels = plan.settings, part.pixels_2BCSS.float() / 255.0
    if not len(part):
        return pixels
    halves = []
    for half, rows, seed in zip(
        torch.chunk(pixels, 2),
        (part.rows_B, part.partners_B),
        (settings.seed, settings.seed + _OTHER_DRAWS),
        strict=True,
    ):
        cut = random_crops(half, seed, part.step, rows, settings.contrast.crop_scale)
        halves.append(augment(cut, seed, part.step, rows, settings.augment) if noise else cut)
    return torch.cat(halves)


def _points(model: torch.nn.Module, pixels: torch.Tensor, plan: TrainingPlan) -> torch.Tensor:
    """Return points, float32 [2 b, P]; of an empty part the scalar that `Contrast` gives."""
    with autocast(plan):
        points: torch.Tensor = model(pixels)
    return points


def _paired(points: torch.Tensor, plan: TrainingPlan) -> torch.Tensor:
    """Return [b, 2, P] of [2 b, P], each anchor with its partner, without history; of an empty part no pair."""
    dim = plan.settings.contrast.dim
    if points.ndim == 0:
        return points.new_zeros((0, 2, dim)).detach()
    paired: torch.Tensor = points.detach().reshape(2, -1, dim).transpose(0, 1).contiguous()
    return paired
