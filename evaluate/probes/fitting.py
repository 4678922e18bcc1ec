"""Train probes that autograd differentiates by the linear probe's protocol.

AdamW, cosine annealing, early stopping on the validation loss, an order of frames per seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from usjepa.cache.interrupt import safe_point
from usjepa.evaluate.probes.linear import epoch_order, learning_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.cache.recipes.evaluate import EvaluateSettings


@dataclass(frozen=True)
class Fitting:
    """The protocol for one seed."""

    settings: EvaluateSettings
    """Learning rate, weight decay, batch, epochs and patience."""
    seed: int
    """Of the order of frames."""

    def run(
        self,
        parameters: Sequence[torch.nn.Parameter],
        count: int,
        loss_of: Callable[[torch.Tensor], torch.Tensor],
        held_loss: Callable[[], float] | None,
    ) -> tuple[int, int]:
        """Train parameters in place and leave them as they were after the best epoch.

        Args:
            parameters: what is trained; AdamW treats all alike, weight decay included.
            count: training frames.
            loss_of: mean loss of training frames, given their positions, int64 [b].
            held_loss: mean loss of the validation frames; None: there are none, and every epoch is run.

        Returns:
            The epoch (from 1) whose parameters were kept, and how many were run.
        """
        settings = self.settings
        optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
        lowest, best, kept = float("inf"), 0, _copies(parameters)
        epochs = 0
        for epoch in range(settings.epochs):
            safe_point()
            optimizer.param_groups[0]["lr"] = learning_rate(settings, epoch)
            for some in torch.split(torch.from_numpy(epoch_order(self.seed, epoch, count)), settings.batch_size):
                optimizer.zero_grad(set_to_none=True)
                loss_of(some).backward()
                optimizer.step()
            epochs = epoch + 1
            with torch.no_grad():
                loss = -float(epochs) if held_loss is None else held_loss()
            if loss < lowest:
                lowest, best, kept = loss, epochs, _copies(parameters)
            if epochs - best >= settings.patience:
                break
        with torch.no_grad():
            for one, value in zip(parameters, kept, strict=True):
                one.copy_(value)
        return best, epochs


def _copies(parameters: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
    return [one.detach().clone() for one in parameters]
