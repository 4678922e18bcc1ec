"""Claims about crops: parts of their image at its size, named by (seed, step, row), the same in any batch."""

from __future__ import annotations

import numpy as np
import torch

from usjepa.train.model.crops import random_crops


def ramp(count: int, edge: int = 32) -> torch.Tensor:
    """Return images of two channels that hold each pixel's row and column, from 0 to 1."""
    axis = (torch.arange(edge) + 0.5) / edge
    both = torch.stack([axis[:, None].expand(edge, edge), axis[None].expand(edge, edge)])
    return both.expand(count, 2, edge, edge).contiguous()


def test_a_crop_is_a_square_part_whose_area_lies_in_the_range() -> None:
    cut = random_crops(ramp(200), 0, 3, np.arange(200), (0.25, 0.64))
    inner = cut[:, :, 4:-4, 4:-4]  # the border repeats its last half pixel
    down = (inner[:, 0, -1, 0] - inner[:, 0, 0, 0]) / 23 * 32
    across = (inner[:, 1, 0, -1] - inner[:, 1, 0, 0]) / 23 * 32
    torch.testing.assert_close(down, across, atol=1e-4, rtol=0)
    area = down**2
    assert 0.25 - 1e-3 <= area.min() < 0.3
    assert 0.6 < area.max() <= 0.64 + 1e-3
    assert inner.min() >= 0
    assert inner.max() <= 1
    middles = cut[:, :, 15:17, 15:17].mean(dim=(2, 3))
    assert middles.std(dim=0).min() > 0.08  # parts lie all over the image


def test_a_crop_depends_on_seed_step_and_row_alone() -> None:
    rows = np.arange(6)
    whole = random_crops(ramp(6), 1, 2, rows, (0.3, 1.0))
    assert torch.equal(random_crops(ramp(2), 1, 2, rows[[4, 1]], (0.3, 1.0)), whole[[4, 1]])
    for seed, step in ((2, 2), (1, 3)):
        assert not torch.equal(random_crops(ramp(6), seed, step, rows, (0.3, 1.0)), whole)


def test_the_whole_image_is_left_as_it_is() -> None:
    images = ramp(2)
    cut = random_crops(images, 0, 0, np.arange(2), (1.0, 1.0))
    assert torch.equal(cut, images)
    assert cut is not images
