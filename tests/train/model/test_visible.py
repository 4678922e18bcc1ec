"""Visible patches as targets: what stands behind the blocks is what a plain pass over the sequence gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.runs import STEPS, losses, numbers, recipe
from usjepa.cache.errors import IdentityError, RecipeError
from usjepa.cache.recipes.train import PredictorSettings, TrainSettings
from usjepa.train.masks.multiblock import sample_masks
from usjepa.train.masks.tensors import MaskTensors
from usjepa.train.model.jepa import Jepa
from usjepa.train.model.predictor import Predictor
from usjepa.train.objective.loss import image_losses
from usjepa.train.run.loop import train

if TYPE_CHECKING:
    from pathlib import Path

GRID, DIM, TEACHER_DIM = (4, 4), 24, 20
BOTH_JOINT = pytest.mark.parametrize("joint", [False, True], ids=["a sequence per block", "joint"])


def predictor(joint: bool, visible: bool, recompute: bool = False) -> Predictor:
    settings = PredictorSettings(depth=2, dim=32, heads=4, joint=joint)
    return Predictor(settings, DIM, TEACHER_DIM, GRID, 0, recompute, visible).eval()


def context() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return tokens, places and validity of two images; the second has two places of padding."""
    valid_BN = torch.ones(2, 6, dtype=torch.bool)
    valid_BN[1, 4:] = False
    return torch.randn(2, 6, DIM, generator=torch.Generator().manual_seed(0)), torch.arange(6).expand(2, -1), valid_BN


TARGETS = torch.tensor([[[7, 8, 9], [10, 11, 12]]] * 2)


def plain(model: Predictor, joint: bool) -> torch.Tensor:
    """Return what every token of every sequence becomes, by whole blocks alone, [B, sequences, N + targets, D]."""
    tokens, places, valid = context()
    targets = TARGETS.reshape(2, 1, -1) if joint else TARGETS
    rows = []
    for image in range(2):
        seen = [
            torch.cat([(model.embed(tokens[image]) + model.positions[places[image]])[valid[image]],
                       model.mask_token + model.positions[block]])
            for block in targets[image]
        ]  # fmt: skip
        out = torch.stack(seen)
        for block in model.blocks:
            out = block(out)
        rows.append(model.out(model.norm(out)))
    return rows  # type: ignore[return-value]


@BOTH_JOINT
@pytest.mark.parametrize("recompute", [False, True])
@torch.no_grad()
def test_predictions_of_visible_patches_are_those_of_the_whole_sequence(joint: bool, recompute: bool) -> None:
    tokens, places, valid = context()
    model = predictor(joint, visible=True, recompute=recompute)
    found = model(tokens, places, valid, TARGETS, None)
    without = predictor(joint, visible=False)(tokens, places, valid, TARGETS, None)
    torch.testing.assert_close(found[:, :2, :3], without, rtol=0, atol=1e-6)
    assert found.shape == (2, 3 if joint else 4, 6, TEACHER_DIM)
    for image, sequences in enumerate(plain(model, joint)):
        length = int(valid[image].sum())
        torch.testing.assert_close(found[image, 2:, :length], sequences[:, :length], rtol=0, atol=1e-5)


@BOTH_JOINT
@torch.no_grad()
def test_a_model_answers_the_very_patches_that_the_masks_ask_for(joint: bool) -> None:
    settings = TrainSettings.model_validate(
        {
            "visible_weight": 0.5, "predictor": {"depth": 2, "dim": 32, "heads": 4, "joint": joint},
            "student": {"architecture": "vit_tiny_patch16_224", "patch_size": 8, "depth": 2, "channels": 1},
            "masks": {"min_patches": 1},
        }
    )  # fmt: skip
    model, pixels = Jepa(settings, 64, (8, 8), TEACHER_DIM).eval(), torch.rand(5, 1, 64, 64)
    masks = MaskTensors.of(sample_masks(0, 3, np.arange(5), (8, 8), settings.masks))
    found = model(pixels, masks)
    patches, valid = masks.asked(found.shape[1] - masks.targets_BMP.shape[1])
    assert patches.shape == valid.shape == found.shape[:3]
    for image in range(5):
        context = masks.context_BN[image][masks.context_valid_BN[image]].tolist()
        blocks = [patches[image, m][valid[image, m]].tolist() for m in range(patches.shape[1])]
        targets = masks.targets_BMP.shape[1]
        assert blocks[targets:] == [context] * (1 if joint else targets)
        alone = MaskTensors.of(sample_masks(0, 3, np.arange(5)[image : image + 1], (8, 8), settings.masks))
        single = model(pixels[image : image + 1], alone)
        for m, block in enumerate(blocks):
            torch.testing.assert_close(found[image, m, : len(block)], single[0, m, : len(block)], rtol=0, atol=1e-5)


@BOTH_JOINT
def test_the_loss_adds_the_weighed_mean_over_visible_patches(joint: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = 3 if joint else 4
    predictions, targets = torch.randn(2, 3, blocks, 6, 5, generator=generator).unbind(0)
    valid = torch.rand(3, blocks, 6, generator=generator) > 0.3
    fields: dict[str, Any] = {"loss": "l2", "predictor": {"joint": joint}}
    weighed = TrainSettings.model_validate({**fields, "visible_weight": 0.25})
    masked = blocks - (1 if joint else 2)
    parts = [
        image_losses(predictions[:, at], targets[:, at], valid[:, at], TrainSettings.model_validate(fields))[0]
        for at in (slice(masked), slice(masked, None))
    ]
    torch.testing.assert_close(image_losses(predictions, targets, valid, weighed)[0], parts[0] + 0.25 * parts[1])


@pytest.mark.parametrize("joint", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_learns_from_visible_patches_and_goes_on_to_the_same_losses(
    joint: bool, phantom_store: Path, tmp_path: Path
) -> None:
    plainly = f"train.predictor.joint={str(joint).lower()}"
    asked = recipe("train.visible_weight=0.5", plainly)
    train(str(phantom_store), str(tmp_path / "whole"), asked, "cpu")
    train(str(phantom_store), str(tmp_path / "parts"), asked, "cpu", stop_after_steps=STEPS // 2)
    train(str(phantom_store), str(tmp_path / "parts"), asked, "cpu")
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert numbers(tmp_path / "whole", "validation") == numbers(tmp_path / "parts", "validation")
    train(str(phantom_store), str(tmp_path / "without"), recipe(plainly), "cpu")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "without"))
    assert not all(one[key].equal(other[key]) for key in other)
    with pytest.raises(IdentityError, match="visible_weight"):
        train(str(phantom_store), str(tmp_path / "whole"), recipe("train.visible_weight=1"), "cpu")


def test_pairs_of_images_have_no_visible_patches() -> None:
    with pytest.raises(RecipeError, match=r"visible_weight.*contrast"):
        recipe("train.objective=contrast", "train.target_norm=none", "train.visible_weight=0.5")
