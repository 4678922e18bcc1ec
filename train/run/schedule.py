"""Learning rate and weight decay of every step, as plain functions of the step number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usjepa.cache.recipes.train import TrainSettings


def _cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from start (progress 0) to end (progress 1); progress beyond either end stays there."""
    progress = min(max(progress, 0.0), 1.0)
    share = 0.5 * (1.0 + math.cos(math.pi * progress))
    return start * share + end * (1.0 - share)


class Schedule:
    """Linear warmup and cosine, as I-JEPA's (`src/utils/schedulers.py`), but exact at both ends.

    Step 0 takes `lr_start` and the last step takes `lr_final`; the reference advances before it sets the first, so that
    its step 0 is already past `lr_start`. Values are pure in the step: a resume needs no scheduler state.
    """

    def __init__(self, settings: TrainSettings, steps_per_epoch: int) -> None:
        self._settings = settings
        self.warmup_steps = settings.warmup_epochs * steps_per_epoch
        self.last_step = settings.epochs * steps_per_epoch - 1

    def lr(self, step: int) -> float:
        """Learning rate of a step (from 0): the peak at step `warmup_steps`, `lr_final` at the last step and after.

        A run whose only step behind the warmup is the peak itself never gets to `lr_final`.
        """
        settings = self._settings
        if step < self.warmup_steps:
            return settings.lr_start + (settings.lr - settings.lr_start) * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.last_step - self.warmup_steps)
        return _cosine(settings.lr, settings.lr_final, progress)

    def weight_decay(self, step: int) -> float:
        """Weight decay of a step: cosine over the whole run, without warmup."""
        return _cosine(self._settings.weight_decay, self._settings.weight_decay_final, step / max(1, self.last_step))
