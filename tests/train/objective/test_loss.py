"""The loss against a loop over images, blocks and patches; padding and uneven ranks change no number."""

from __future__ import annotations

from typing import Literal, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from usjepa.cache.recipes.train import TrainSettings
from usjepa.train.objective.loss import image_losses, loss
from usjepa.train.objective.target_norm import TargetNorm

Kind = Literal["smooth_l1", "l1", "l2"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Elementwise; cosine has a test of its own."""


def batch(
    seed: int = 0, B: int = 5, M: int = 4, P: int = 7, D: int = 6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    predictions, targets = torch.randn(2, B, M, P, D, generator=g).unbind(0)
    lengths = torch.randint(1, P + 1, (B, M), generator=g)
    valid = torch.arange(P) < lengths[..., None]
    return 2 * predictions, 2 * targets, valid


def gradient(leaf: torch.Tensor) -> torch.Tensor:
    assert leaf.grad is not None
    return leaf.grad


def by_hand(predictions: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor, kind: Kind, beta: float) -> float:
    """The definition, one number at a time."""
    images = []
    for b in range(len(predictions)):
        blocks = []
        for m in range(predictions.shape[1]):
            patches = []
            for p in range(predictions.shape[2]):
                if not valid[b, m, p]:
                    continue
                d = (predictions[b, m, p] - targets[b, m, p]).abs().double()
                element = {"l1": d, "l2": d**2, "smooth_l1": torch.where(d < beta, d**2 / (2 * beta), d - beta / 2)}
                patches.append(element[kind].mean())
            if patches:
                blocks.append(torch.stack(patches).mean())
        if blocks:
            images.append(torch.stack(blocks).mean())
    return float(torch.stack(images).mean()) if images else 0.0


@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.sampled_from([0.1, 1.0, 3.0]))
@settings(max_examples=25)
def test_loss_is_the_mean_over_images_of_block_means(seed: int, kind: Kind, beta: float) -> None:
    predictions, targets, valid = batch(seed)
    valid[0, 1] = False  # a block without patches does not count
    valid[1] = False  # nor an image without blocks
    got = loss(predictions, targets, valid, TrainSettings(loss=kind, beta=beta))
    assert float(got) == pytest.approx(by_hand(predictions, targets, valid, kind, beta), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_neither_loss_nor_gradient(kind: Kind) -> None:
    predictions, targets, valid = batch()
    recipe = TrainSettings(loss=kind)
    leaf = predictions.clone().requires_grad_()
    short = loss(leaf, targets, valid, recipe)
    short.backward()

    junk = torch.full((5, 4, 9, 6), float("nan"))
    wide = torch.cat([predictions, junk], 2).requires_grad_()
    wide_targets = torch.cat([targets, torch.full_like(junk, 1e6)], 2)
    wide_valid = torch.cat([valid, torch.zeros(5, 4, 9, dtype=torch.bool)], 2)
    long = loss(wide, wide_targets, wide_valid, recipe)
    long.backward()
    torch.testing.assert_close(long, short, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient(wide)[:, :, :7], gradient(leaf), rtol=1e-6, atol=1e-9)
    assert not gradient(wide)[:, :, 7:].any()
    assert not gradient(leaf)[~valid].any()


def test_what_is_predicted_for_an_image_without_targets_has_no_influence() -> None:
    predictions, targets, valid = batch()
    valid[3] = False
    first = loss(predictions, targets, valid, TrainSettings())
    predictions[3] = float("nan")
    predictions.requires_grad_()
    again = loss(predictions, targets, valid, TrainSettings())
    again.backward()
    assert again == first
    assert not gradient(predictions)[3].any()
    predictions = predictions.detach()
    kept = [0, 1, 2, 4]
    alone = loss(predictions[kept], targets[kept], valid[kept], TrainSettings())
    torch.testing.assert_close(alone, first)


def test_uneven_ranks_average_to_the_loss_of_the_whole_batch() -> None:
    predictions, targets, valid = batch(B=8)
    valid[:3] = False  # the first rank of two has one image with targets, the second four
    recipe = TrainSettings()
    whole = loss(predictions, targets, valid, recipe)
    ranks = [loss(predictions[s], targets[s], valid[s], recipe, 5 / 2) for s in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(sum(ranks) / 2, whole)


def test_a_batch_without_targets_gives_zero_and_zero_gradients() -> None:
    predictions, targets, valid = batch()
    predictions.requires_grad_()
    value = loss(predictions, targets, torch.zeros_like(valid), TrainSettings())
    value.backward()
    assert float(value.detach()) == 0.0
    assert not gradient(predictions).any()


def test_half_precision_predictions_are_compared_in_float32() -> None:
    predictions, targets, valid = batch()
    value = loss(predictions.bfloat16(), targets.half(), valid, TrainSettings())
    expected = loss(predictions.bfloat16().float(), targets.half().float(), valid, TrainSettings())
    assert value.dtype == torch.float32
    assert value == expected


def test_images_without_targets_are_told_apart() -> None:
    predictions, targets, valid = batch()
    valid[1] = False
    losses, counted = image_losses(predictions, targets, valid, TrainSettings())
    assert counted.tolist() == [True, False, True, True, True]
    assert losses[1] == 0.0


def test_layer_normalised_targets_are_those_of_i_jepa() -> None:
    latents = 3 + 5 * torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    assert TargetNorm("none")(latents) is latents
    got = TargetNorm("layer")(latents)
    centred = latents - latents.mean(-1, keepdim=True)
    expected = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(got, expected)
    assert TargetNorm("layer")(latents.half()).dtype == torch.float32


def test_cosine_sees_directions_and_no_lengths() -> None:
    predictions, targets, valid = batch()
    recipe = TrainSettings(loss="cosine")
    cosines = torch.linalg.vecdot(predictions, targets) / (predictions.norm(dim=-1) * targets.norm(dim=-1))
    patches = torch.where(valid, 1 - cosines, 0.0).sum(-1) / valid.sum(-1)
    torch.testing.assert_close(loss(predictions, targets, valid, recipe), patches.mean())
    scaled = loss(7 * predictions, 3 * targets, valid, recipe)
    torch.testing.assert_close(scaled, loss(predictions, targets, valid, recipe))
