"""Compute the loss on held-out groups, with the same masks every epoch."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from usjepa.cache.errors import TrainingError
from usjepa.train.data.batches import BatchRequest
from usjepa.train.data.pairs import PairMaker
from usjepa.train.objective import loss as objective
from usjepa.train.run.contrast import held_out_pairs
from usjepa.train.run.step import forward

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.train.data.pairs import PairBatch
    from usjepa.train.record.lines import ObjectiveMeasures
    from usjepa.train.run.state import TrainingRun

_STEP = -1
"""Names the draw of validation masks; no training step has this number."""


@dataclass(frozen=True)
class Validation:
    """The outcome of one pass over the held-out images."""

    loss: float
    """Mean over images."""
    images: int
    unusable: int
    measures: ObjectiveMeasures
    """What else tells how the objective stands."""


def validate(run: TrainingRun) -> Validation:
    """Return the mean loss over the held-out images, without augmentation; each rank takes its share of every batch.

    Raises:
        TrainingError: the loss is not finite, or no held-out image is usable.
        Interrupted: a stop was requested between two batches; nothing has changed, and the next call validates first.
    """
    if isinstance(run.batches, PairMaker):
        return _validate_pairs(run, run.batches)
    model, plan, ranks = run.model, run.plan, run.ranks
    total, images, unusable = 0.0, 0, 0
    count, sums, squares = 0, 0.0, 0.0
    each = [0.0] * len(plan.targets.parts)
    model.eval()
    try:
        with closing(run.batches.stream(_requests(run))) as stream, torch.no_grad():
            for batch, _ in stream:
                run.safe_point()
                unusable += len(batch.unusable_rows)
                if not len(batch):
                    continue
                found = forward(model, batch.pixels_BCSS.float() / 255.0, batch, plan)
                image_B, each_KB = objective.several_losses(*found, plan.settings, plan.targets)
                # In double, so that the distribution of images over batches does not show.
                total += float(image_B.double().sum())
                each = [sum_k + float(each_B.double().sum()) for sum_k, each_B in zip(each, each_KB, strict=False)]
                images += len(batch)
                chosen = found.targets_BMPD[found.valid_BMP].double()
                count += chosen.numel()
                sums += float(chosen.sum())
                squares += float(chosen.square().sum())
    finally:
        model.train()
    images, unusable, count = ranks.add([images, unusable, count])
    total, sums, squares, *each = ranks.add_floats([total, sums, squares, *each])
    if not images:
        raise TrainingError(
            f"None of the {unusable} held-out images has a region large enough for its masks: lower "
            "train.masks.min_patches, or train without train.masks.regions."
        )
    if not math.isfinite(total):
        raise TrainingError(f"The validation loss is {total}: the weights have diverged. Lower train.lr.")
    mean = sums / count
    deviation = math.sqrt(max(0.0, squares / count - mean * mean))
    measures: ObjectiveMeasures = {"target_mean": mean, "target_std": deviation}
    if each:
        measures["losses"] = {part.name: sum_k / images for part, sum_k in zip(plan.targets.parts, each, strict=True)}
    return Validation(total / images, images, unusable, measures)


def _validate_pairs(run: TrainingRun, batches: PairMaker) -> Validation:
    """Return the mean loss over held-out pairs; all ranks compute the same. What has nothing apart is unusable."""
    run.model.eval()
    try:
        with closing(batches.stream(_requests(run))) as stream:
            found = held_out_pairs(run.model, _checked(run, stream), run.plan, run.ranks)
    finally:
        run.model.train()
    if not math.isfinite(found.loss):
        raise TrainingError(f"The validation loss is {found.loss}: the weights have diverged. Lower train.lr.")
    cosines: ObjectiveMeasures = {"partner_cosine": found.partner_cosine, "other_cosine": found.other_cosine}
    return Validation(found.loss, found.images, len(run.plan.validation_rows) - found.images, cosines)


def _checked(run: TrainingRun, stream: Iterable[tuple[PairBatch, float]]) -> Iterator[PairBatch]:
    for batch, _ in stream:
        run.safe_point()
        yield batch


def _requests(run: TrainingRun) -> Iterator[BatchRequest]:
    size, rows = run.plan.settings.batch_size, run.plan.validation_rows
    batches: Iterable[NDArray[np.int64]] = (rows[start : start + size] for start in range(0, len(rows), size))
    if isinstance(run.batches, PairMaker):
        batches = run.batches.held_out(rows, size)
    for positions in batches:
        yield BatchRequest(_STEP, run.ranks.shares(positions)[0])
