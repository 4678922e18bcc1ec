"""Compute learning rate and weight decay as plain functions of the step number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usjepa.cache.recipes.train import TrainSettings


def _cosine(start: float, end: float, progress: float) -> float:
    """Return half a cosine from start (progress 0) to end (progress 1), clamped at both ends."""
    progress = min(max(progress, 0.0), 1.0)
    share = 0.5 * (1.0 + math.cos(math.pi * progress))
    return start * share + end * (1.0 - share)


class Schedule:
    """Linear warmup and cosine, as in I-JEPA's code (`src/utils/schedulers.py`), but exact at both ends.

    Step 0 takes `lr_start` and the last step takes `lr_final`; the reference advances before it sets the first rate, so
    its step 0 is already past `lr_start`. Rates depend on the step alone: a resume needs no scheduler state.
    """

    def __init__(self, settings: TrainSettings, steps_per_epoch: int) -> None:
        self._settings = settings
        self.warmup_steps = settings.warmup_epochs * steps_per_epoch
        self.last_step = settings.epochs * steps_per_epoch - 1

    def lr(self, step: int) -> float:
        """Return the learning rate of a step (from 0): the peak at `warmup_steps`, `lr_final` from the last step on.

        A run whose only step behind the warmup is the peak itself never reaches `lr_final`.
        """
        settings = self._settings
        if step < self.warmup_steps:
            return settings.lr_start + (settings.lr - settings.lr_start) * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.last_step - self.warmup_steps)
        return _cosine(settings.lr, settings.lr_final, progress)

    def weight_decay(self, step: int) -> float:
        """Return the weight decay of a step: cosine over the whole run, without warmup."""
        return _cosine(self._settings.weight_decay, self._settings.weight_decay_final, step / max(1, self.last_step))
