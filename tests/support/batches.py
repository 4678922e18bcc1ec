"""Make batches of a store as training does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.cache.recipes.train import MaskSettings, TrainSettings
from usjepa.train.data.batches import BatchMaker, BatchRequest
from usjepa.train.objective.targets import Targets, stored_latents

if TYPE_CHECKING:
    from collections.abc import Callable

    from usjepa.cache.reading.store import Store
    from usjepa.train.data.batches import TrainBatch

MASKS = MaskSettings(min_patches=1)


def maker(
    store: Store, masks: MaskSettings = MASKS, online: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> BatchMaker:
    targets = Targets("online", {}, (4, 4), 8, online) if online else stored_latents(store, "demo")
    return BatchMaker(store, targets, TrainSettings(masks=masks), torch.device("cpu"))


def requests(count: int = 6, size: int = 5) -> list[BatchRequest]:
    return [BatchRequest(step, np.arange(step, step + size)) for step in range(count)]


def latents_of(batch: TrainBatch) -> torch.Tensor:
    """Return a batch's latents, which must be there."""
    assert batch.latents_BTD is not None
    return batch.latents_BTD
