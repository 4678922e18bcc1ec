"""Blur, speckle and contrast: right against plain definitions, pure in (seed, step, row)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.train import AugmentSettings
from usjepa.train.counter import stream
from usjepa.train.model.augment import _blur, _contrast, _speckle, augment

OFF: dict[str, Any] = {"blur_probability": 0.0, "speckle_probability": 0.0, "contrast_probability": 0.0}
ALL = AugmentSettings(blur_probability=0.6, speckle_probability=0.6, contrast_probability=0.6)


def images(count: int = 24, channels: int = 1, size: int = 32) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_an_images_noise_does_not_depend_on_its_batch() -> None:
    pixels, rows = images(), np.arange(100, 124)
    whole = augment(pixels, 1, 2, rows, ALL)
    for part in ([5], [20, 3, 11], list(range(23, -1, -1))):
        torch.testing.assert_close(augment(pixels[part], 1, 2, rows[part], ALL), whole[part], rtol=0, atol=0)


def test_a_batch_is_augmented_alike_twice_and_differently_at_another_step_seed_or_row() -> None:
    pixels, rows = images(), np.arange(24)
    first = augment(pixels, 0, 0, rows, ALL)
    assert torch.equal(first, augment(pixels, 0, 0, rows, ALL))
    for changed in (
        augment(pixels, 0, 1, rows, ALL),
        augment(pixels, 1, 0, rows, ALL),
        augment(pixels, 0, 0, rows + 24, ALL),
    ):
        assert not torch.equal(first, changed)


def test_input_is_not_written_to_and_untouched_images_stay_bitwise() -> None:
    pixels = images(200, size=8)
    before = pixels.clone()
    result = augment(pixels, 0, 0, np.arange(200), AugmentSettings())
    assert torch.equal(pixels, before)
    same = (result == pixels).flatten(1).all(1).double().mean()
    assert float(same) == pytest.approx(0.8**3, abs=0.12)
    assert torch.equal(augment(pixels, 0, 0, np.arange(200), AugmentSettings(**OFF)), pixels)


@pytest.mark.parametrize("effect", ["blur", "speckle", "contrast"])
def test_an_effect_falls_on_its_share_of_images(effect: str) -> None:
    pixels = images(3000, size=4)
    recipe = AugmentSettings(**{**OFF, f"{effect}_probability": 0.3})
    changed = (augment(pixels, 0, 0, np.arange(3000), recipe) != pixels).flatten(1).any(1)
    assert float(changed.double().mean()) == pytest.approx(0.3, abs=0.045)


def test_blur_is_a_gaussian_with_each_images_own_width() -> None:
    pixels = images(3, channels=2)
    sigma = torch.tensor([0.4, 0.9, 1.5])
    result = _blur(pixels, sigma, radius=6)
    for n in range(3):
        for c in range(2):
            expected = ndimage.gaussian_filter(pixels[n, c].numpy(), float(sigma[n]), mode="mirror", radius=6)
            np.testing.assert_allclose(result[n, c].numpy(), expected, atol=2e-6)


def test_blur_keeps_constant_images_and_works_on_images_smaller_than_its_kernel() -> None:
    flat = torch.full((2, 1, 3, 3), 1.0)
    torch.testing.assert_close(_blur(flat, torch.tensor([0.5, 2.0]), 9), flat)
    assert _blur(torch.rand(2, 1, 1, 1), torch.tensor([0.5, 2.0]), 9).shape == (2, 1, 1, 1)


def test_speckle_is_multiplicative_with_its_standard_deviation_and_shared_by_channels() -> None:
    pixels = torch.full((2, 3, 128, 128), 0.4)
    pixels[:, :, :64] = 0.0
    result = _speckle(pixels, torch.tensor([0.05, 0.2]), stream("t", 0, 0, np.arange(2)))
    assert not result[:, :, :64].any()
    bright = result[:, :, 64:]
    torch.testing.assert_close(bright.std(dim=(2, 3)), torch.tensor([[0.02], [0.08]]).expand(2, 3), rtol=0.03, atol=0)
    torch.testing.assert_close(bright.mean(dim=(2, 3)), torch.full((2, 3), 0.4), rtol=0.02, atol=0)
    assert torch.equal(bright[:, 0], bright[:, 2])
    column = bright[1, 0].flatten()
    assert abs(float(torch.corrcoef(torch.stack([column[:-1], column[1:]]))[0, 1])) < 0.06


def test_contrast_scales_the_distance_from_the_mean() -> None:
    pixels = 0.4 + 0.2 * images(2)
    result = _contrast(pixels, torch.tensor([0.7, 1.3]))
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(result[0], (mean + 0.7 * (pixels - mean))[0])
    torch.testing.assert_close(result[1], (mean + 1.3 * (pixels - mean))[1])


def test_strengths_span_their_range() -> None:
    pixels = (0.45 + 0.1 * images(600, size=4)).double()
    recipe = AugmentSettings(**{**OFF, "contrast_probability": 1.0})
    result = augment(pixels, 0, 0, np.arange(600), recipe)
    factor = result.flatten(1).std(1) / pixels.flatten(1).std(1)
    assert 0.7 <= float(factor.min()) < 0.71
    assert 1.29 < float(factor.max()) <= 1.3
    assert float(factor.mean()) == pytest.approx(1.0, abs=0.03)


def test_pixels_stay_in_range() -> None:
    extreme = AugmentSettings(
        blur_probability=1,
        speckle_probability=1,
        contrast_probability=1,
        speckle_strength=(2, 3),
        contrast_factor=(2, 9),
    )
    result = augment(images(channels=3), 0, 0, np.arange(24), extreme)
    assert float(result.min()) >= 0.0
    assert float(result.max()) <= 1.0
    assert bool(torch.isfinite(result).all())


def test_wrong_calls_are_named() -> None:
    with pytest.raises(UsageError, match="divide by 255"):
        augment((255 * images()).to(torch.uint8), 0, 0, np.arange(24), ALL)
    with pytest.raises(UsageError, match="24 images and 3 row numbers"):
        augment(images(), 0, 0, np.arange(3), ALL)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same_images_up_to_rounding() -> None:
    pixels, rows = images(channels=3, size=64), np.arange(24)
    here = augment(pixels, 3, 4, rows, ALL)
    there = augment(pixels.cuda(), 3, 4, rows, ALL).cpu()
    torch.testing.assert_close(there, here, rtol=0, atol=2e-6)
    assert math.isfinite(float(there.sum()))
