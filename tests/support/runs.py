"""Train a tiny model on the phantom store of the session, read its log, and make batches as it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.recipes.train import MaskSettings, TrainSettings
from usjepa.train.data.batches import BatchMaker, BatchRequest
from usjepa.train.objective.targets import Targets, stored_latents
from usjepa.train.record.log import read_log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.train.data.batches import TrainBatch

TINY_STORE = (
    "cache.image_size=32",
    "cache.rows_per_shard=16",
    "cache.phantom.patients=6",
    "cache.phantom.frames_per_patient=10",
    "cache.phantom.size=64",
    "cache.views.count=2",
    "cache.teacher.patch_size=8",
    "cache.precision=fp32",
)
"""Overrides of the demo recipe: 120 rows of 32 x 32 pixels, a 4 x 4 patch grid, fp32 latents of a random ViT-Ti."""
TINY_RUN = (
    "train.student.architecture=test_vit",
    "train.student.patch_size=8",
    "train.predictor.depth=2",
    "train.predictor.dim=32",
    "train.predictor.heads=2",
    "train.predictor.joint=false",
    "train.loss=smooth_l1",
    "train.target_norm=none",
    "train.masks.regions=false",
    "train.masks.min_patches=1",
    "train.batch_size=8",
    "train.epochs=3",
    "train.warmup_epochs=1",
    "train.lr=2e-3",
)
"""Overrides of the demo recipe: 3 epochs of 5 steps over 40 frames, 10 held out, a ViT of 0.3 M parameters."""
EVERY_STEP = "train.checkpoint_minutes=1e-9"
STEPS, PER_EPOCH = 15, 5


def recipe(*overrides: str) -> Recipe:
    return load_recipe("demo", (*TINY_STORE, *TINY_RUN, *overrides))


def numbers(run: Path, kind: str = "step") -> list[dict[str, Any]]:
    """The lines of a run's log without times."""
    timed = {"images_per_s", "data_wait_s", "seconds"}
    return [
        {k: v for k, v in line.items() if k not in timed}
        for line in read_log(run / "log.jsonl")
        if line["kind"] == kind
    ]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in numbers(run)]


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
