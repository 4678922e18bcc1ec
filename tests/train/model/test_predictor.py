"""The predictor: a sequence a target block, places told by positions, padding without influence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from usjepa.cache.recipes.train import PredictorSettings
from usjepa.train.model.predictor import Predictor, _at_targets

GRID, DIM, TEACHER_DIM = (4, 4), 24, 20


def predictor(seed: int = 0, **fields: Any) -> Predictor:
    settings = PredictorSettings(**{"depth": 2, "dim": 32, "heads": 4, **fields})
    return Predictor(settings, DIM, TEACHER_DIM, GRID, seed).eval()


def context(count: int = 2, length: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randn(count, length, DIM, generator=torch.Generator().manual_seed(0))
    return tokens, torch.arange(length).expand(count, -1)


def predict(model: Predictor, *args: Any) -> torch.Tensor:
    with torch.no_grad():
        predicted: torch.Tensor = model(*args)
    return predicted


def test_every_target_of_every_block_gets_a_prediction_of_the_teachers_width() -> None:
    targets = torch.tensor([[[7, 8, 9], [10, 11, 12]]] * 2)
    assert predict(predictor(), *context(), None, targets, None).shape == (2, 2, 3, TEACHER_DIM)


def test_blocks_do_not_see_each_other() -> None:
    model, (tokens, places) = predictor(), context()
    targets = torch.tensor([[[7, 8, 9], [10, 11, 12]]] * 2)
    moved = torch.tensor([[[7, 8, 9], [13, 14, 15]]] * 2)
    first, second = (predict(model, tokens, places, None, t, None) for t in (targets, moved))
    assert torch.equal(first[:, 0], second[:, 0])
    assert not torch.allclose(first[:, 1], second[:, 1])


def test_a_prediction_depends_on_its_place_not_on_its_rank_in_the_block() -> None:
    model, (tokens, places) = predictor(), context()
    forward = predict(model, tokens, places, None, torch.tensor([[[7, 8, 9]]] * 2), None)
    backward = predict(model, tokens, places, None, torch.tensor([[[9, 8, 7]]] * 2), None)
    torch.testing.assert_close(forward, backward.flip(2), rtol=0, atol=1e-6)


def test_padding_changes_no_number() -> None:
    model, (tokens, places) = predictor(), context()
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[1, 4:] = False
    targets = torch.tensor([[[7, 8, 9], [10, 0, 0]]] * 2)
    targets_valid = torch.tensor([[[True, True, True], [True, False, False]]] * 2)
    padded = predict(model, tokens, places, valid, targets, targets_valid)
    dirty = torch.where(valid[..., None], tokens, torch.tensor(1e3))
    elsewhere = torch.where(targets_valid, targets, torch.tensor(5))
    again = predict(model, dirty, places, valid, elsewhere, targets_valid)
    assert torch.equal(padded[targets_valid], again[targets_valid])
    alone = predict(model, tokens[1:, :4], places[1:, :4], None, targets[1:, 1:, :1], None)
    torch.testing.assert_close(padded[1:, 1:, :1], alone, rtol=0, atol=1e-5)


def test_weights_depend_on_the_seed_alone_and_deep_blocks_start_small() -> None:
    first, again, other = predictor(), predictor(), predictor(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.embed.weight, other.embed.weight)
    blocks: Any = predictor(depth=8).blocks
    spread = [float(block.mlp.fc2.weight.detach().std()) for block in blocks]
    assert spread[0] == pytest.approx(0.02 / 2**0.5, rel=0.1)
    assert spread[7] == pytest.approx(0.02 / 16**0.5, rel=0.1)


def test_jointly_predicted_blocks_see_each_other_and_padding_still_changes_no_number() -> None:
    model, (tokens, places) = predictor(joint=True), context()
    targets = torch.tensor([[[7, 8, 9], [10, 11, 12]]] * 2)
    moved = torch.tensor([[[7, 8, 9], [13, 14, 15]]] * 2)
    first, second = (predict(model, tokens, places, None, t, None) for t in (targets, moved))
    assert first.shape == (2, 2, 3, TEACHER_DIM)
    assert not torch.allclose(first[:, 0], second[:, 0])
    valid = torch.tensor([[[True, True, True], [True, False, False]]] * 2)
    padded, again = (
        predict(model, tokens, places, None, torch.where(valid, targets, torch.tensor(fill)), valid) for fill in (0, 5)
    )
    assert torch.equal(padded[valid], again[valid])


def test_one_block_is_predicted_alike_jointly_or_not() -> None:
    tokens, places = context()
    targets = torch.tensor([[[7, 8, 9]]] * 2)
    alone, together = (predict(predictor(joint=j), tokens, places, None, targets, None) for j in (False, True))
    assert torch.equal(alone, together)


@pytest.mark.parametrize("padded", [False, True])
def test_the_last_block_computed_at_targets_alone_gives_what_all_of_it_gives(padded: bool) -> None:
    torch.manual_seed(0)
    model, tokens = predictor(), torch.randn(2, 9, 32)
    mask = torch.rand(2, 1, 1, 9) < 0.7 if padded else None
    whole = model.blocks[-1](tokens, attn_mask=mask)[:, 6:]
    torch.testing.assert_close(_at_targets(model.blocks[-1], tokens, mask, 6), whole, rtol=0, atol=1e-6)


def test_recomputing_changes_neither_predictions_nor_gradients() -> None:
    (tokens, places), targets = context(), torch.tensor([[[7, 8, 9], [10, 11, 12]]] * 2)
    found = []
    for recompute in (False, True):
        model = predictor()
        model.recompute = recompute
        out = model(tokens, places, None, targets, None)
        out.square().mean().backward()
        found.append((out, model.embed.weight.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] is not None
    assert found[1][1] is not None
    assert torch.equal(found[0][1], found[1][1])
