"""Groups of images of like mask length: every image once, less padding, and the numbers of the whole batch."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.support.runs import latents_of, maker, requests
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.train import MaskSettings, PredictorSettings, StudentSettings, TrainSettings
from usjepa.train.data.batches import BatchRequest
from usjepa.train.masks import groups
from usjepa.train.masks.multiblock import sample_masks
from usjepa.train.model.jepa import Jepa
from usjepa.train.objective.loss import loss

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from usjepa.train.data.batches import TrainBatch
    from usjepa.train.masks.groups import Group

SETTINGS = TrainSettings(
    student=StudentSettings(architecture="vit_tiny_patch16_224", depth=2, patch_size=8),
    predictor=PredictorSettings(depth=2, dim=48, heads=4),
)


@pytest.fixture(scope="module")
def batch(phantom_store: Path) -> TrainBatch:
    with closing(open_store(phantom_store)) as store:
        return maker(store).make(BatchRequest(0, np.arange(16)))


def padded_tokens(parts: Sequence[Group]) -> int:
    return sum(len(part.images_G) * part.context for part in parts)


def test_groups_hold_each_image_once_padded_to_its_own_longest_and_compute_less_padding() -> None:
    masks = sample_masks(0, 0, np.arange(32), (14, 14), MaskSettings())
    parts = groups.groups_of(masks)
    assert sorted(np.concatenate([part.images_G for part in parts])) == list(range(32))
    contexts_B, targets_BM = masks.context_valid_BN.sum(1), masks.targets_valid_BMP.sum(2)
    for part in parts:
        assert part.context == contexts_B[part.images_G].max()
        assert part.targets == targets_BM[part.images_G].max()
        assert part.context_padded == (contexts_B[part.images_G].min() < part.context)
        assert part.targets_padded == (targets_BM[part.images_G].min() < part.targets)
    waste = [n / contexts_B.sum() - 1 for n in (32 * contexts_B.max(), padded_tokens(parts))]
    assert waste[1] < 0.5 * waste[0]
    assert groups.groups_of(sample_masks(0, 0, np.arange(0), (14, 14), MaskSettings())) == ()


def test_a_batch_computed_in_groups_has_the_loss_and_gradients_of_the_whole(batch: TrainBatch) -> None:
    assert len(batch.masks.groups) == 4
    N, P = batch.masks.context_BN.shape[1], batch.masks.targets_BMP.shape[2]
    whole = replace(batch.masks, groups=(groups.Group(np.arange(16), N, P, True, True),))
    found = []
    for masks in (batch.masks, whole):
        model = Jepa(SETTINGS, batch.pixels_BCSS.shape[-1], (4, 4), latents_of(batch).shape[-1])
        predictions = model(batch.pixels_BCSS.float() / 255.0, masks)
        assert predictions.shape[:3] == masks.targets_BMP.shape
        value = loss(predictions, torch.ones_like(predictions), masks.targets_valid_BMP, SETTINGS)
        value.backward()
        found.append((predictions[masks.targets_valid_BMP], value, model))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-6, atol=0)
    for mine, other in zip(found[0][2].parameters(), found[1][2].parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_requests_of_fewer_images_than_a_group_needs_are_one_group(phantom_store: Path) -> None:
    with closing(open_store(phantom_store)) as store:
        assert [len(maker(store).make(request).masks.groups) for request in requests(2)] == [1, 1]


def test_images_of_a_batch_too_small_to_split_keep_their_order(phantom_store: Path) -> None:
    with closing(open_store(phantom_store)) as store:
        made = maker(store)
        batch = made.make(BatchRequest(0, np.arange(7)))
        singles = [made.make(BatchRequest(0, np.arange(at, at + 1))) for at in range(7)]
    (only,) = batch.masks.groups
    assert list(only.images_G) != list(range(7))  # sorted by length: the order has to be restored
    model = Jepa(SETTINGS, batch.pixels_BCSS.shape[-1], (4, 4), latents_of(batch).shape[-1])
    with torch.no_grad():
        found = model(batch.pixels_BCSS.float() / 255.0, batch.masks)
        for at, single in enumerate(singles):
            alone = model(single.pixels_BCSS.float() / 255.0, single.masks)
            valid = single.masks.targets_valid_BMP[0]
            torch.testing.assert_close(found[at, :, : valid.shape[1]][valid], alone[0][valid], rtol=0, atol=1e-5)
