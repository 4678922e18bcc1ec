"""Claims about the loss of pairs: that of a plain loop, blind to images of the same clip, fair to every pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from usjepa.train.objective.contrast_loss import contrast


def points(pairs: int, width: int = 6, seed: int = 0) -> torch.Tensor:
    drawn = torch.from_numpy(np.random.default_rng(seed).standard_normal((pairs, 2, width)).astype(np.float32))
    return torch.nn.functional.normalize(drawn, dim=-1)


@pytest.mark.parametrize("codes", [[0, 1, 2, 3, 4], [0, 1, 0, 2, 1], [7, 7, 7, 7, 7]])
def test_the_loss_of_each_pair_is_that_of_a_loop_over_images(codes: list[int]) -> None:
    drawn, temperature = points(5), 0.2
    found = contrast(drawn, torch.tensor(codes), temperature)
    flat = drawn.reshape(10, -1).double().numpy()
    for pair in range(5):
        losses = []
        for me, partner in ((2 * pair, 2 * pair + 1), (2 * pair + 1, 2 * pair)):
            others = [i for i in range(10) if codes[i // 2] != codes[pair]]
            scores = [math.exp(float(flat[me] @ flat[i]) / temperature) for i in (partner, *others)]
            losses.append(-math.log(scores[0] / sum(scores)))
        assert float(found.loss_B[pair]) == pytest.approx(np.mean(losses), abs=1e-5)


def test_images_of_the_same_clip_neither_raise_the_loss_nor_have_a_gradient_from_it() -> None:
    drawn = points(3).requires_grad_()
    contrast(drawn, torch.tensor([0, 0, 1]), 0.2).loss_B[0].backward()
    assert drawn.grad is not None
    assert (drawn.grad[1] == 0).all()
    assert (drawn.grad[2] != 0).any()


def test_a_pair_alone_has_no_loss_and_cosines_are_told_apart() -> None:
    one = contrast(points(1), torch.tensor([0]), 0.2)
    assert float(one.loss_B) == pytest.approx(0, abs=1e-6)
    same = torch.nn.functional.normalize(torch.eye(4)[:, None].expand(4, 2, 4), dim=-1)
    found = contrast(same.contiguous(), torch.arange(4), 0.2)
    assert float(found.partner) == pytest.approx(1)
    assert float(found.others) == pytest.approx(0)
