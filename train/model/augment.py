"""Blur, speckle and change the contrast of the student's input.

Geometry is part of the cached views and never changed here. Whether and how strongly an image is changed, and every
sample of its noise, is a pure function of (seed, step, row): the same in any batch, on any number of ranks, after any
resume, and on any device up to rounding. US-JEPA names the effects without strengths; `AugmentSettings` sets them.

Shape suffixes: B images, n those that an effect falls on, C channels, S edge of stored pixels, k taps of the kernel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from usjepa.cache.errors import UsageError
from usjepa.train.counter import absorb, normals_torch, stream, uniforms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.recipes.train import AugmentSettings

_BLUR, _SPECKLE, _CONTRAST = range(3)
_NOISE = 3


def augment(
    pixels_BCSS: torch.Tensor, seed: int, step: int, rows_B: NDArray[np.int64], settings: AugmentSettings
) -> torch.Tensor:
    """Return the images blurred, speckled and with changed contrast, in that order: a new tensor in [0, 1].

    Blur comes before speckle so that the noise keeps its grain. Images that no effect falls on stay bitwise the same.
    Decisions are made on the host, so that no kernel waits for the device.

    Args:
        pixels_BCSS: floating point, in [0, 1].
        seed: of the run.
        step: global number of the step.
        rows_B: int64 [B], row numbers of the images.
        settings: the `train.augment` section.

    Raises:
        UsageError: the pixels are integers, or images and row numbers differ in number.
    """
    if not pixels_BCSS.is_floating_point():
        raise UsageError(f"augment takes floating pixels in [0, 1], not {pixels_BCSS.dtype}: divide by 255 first.")
    if len(rows_B) != len(pixels_BCSS):
        raise UsageError(
            f"augment got {len(pixels_BCSS)} images and {len(rows_B)} row numbers: pass one row number per image."
        )
    keys_B = stream("augment", seed, step, np.asarray(rows_B, dtype=np.int64))
    result = pixels_BCSS.clone()
    for effect, probability, strengths in (
        (_BLUR, settings.blur_probability, settings.blur_sigma),
        (_SPECKLE, settings.speckle_probability, settings.speckle_strength),
        (_CONTRAST, settings.contrast_probability, settings.contrast_factor),
    ):
        chosen_n = np.flatnonzero(uniforms(keys_B, 2 * effect) < probability)
        if chosen_n.size:
            at_n = torch.from_numpy(chosen_n).to(result.device)
            images_nCSS = result.index_select(0, at_n)
            result.index_copy_(0, at_n, _changed(images_nCSS, effect, strengths, keys_B[chosen_n]))
    return result


def _changed(
    images_nCSS: torch.Tensor, effect: int, strengths: tuple[float, float], keys_n: NDArray[np.uint64]
) -> torch.Tensor:
    """Return images under one effect, its strength drawn uniformly for each."""
    low, high = strengths
    strength = low + (high - low) * uniforms(keys_n, 2 * effect + 1)
    strength_n = torch.from_numpy(strength).to(images_nCSS.device, images_nCSS.dtype)
    if effect == _BLUR:
        return _blur(images_nCSS, strength_n, math.ceil(3 * high))
    if effect == _SPECKLE:
        return _speckle(images_nCSS, strength_n, absorb(keys_n, _NOISE))
    return _contrast(images_nCSS, strength_n)


def _blur(images_nCSS: torch.Tensor, sigma_n: torch.Tensor, radius: int) -> torch.Tensor:
    """Return images under a Gaussian blur, each with its own standard deviation (pixels), edges mirrored.

    The kernel is cut at `radius` pixels, the same for all images, and at the image's size. Shifted copies are summed in
    place of a grouped convolution: elementwise arithmetic gives an image the same bits in every batch, while a
    convolution chooses its algorithm by the batch's shape.
    """
    radius = min(radius, min(images_nCSS.shape[-2:]) - 1)
    if radius < 1:
        return images_nCSS
    offset_k = torch.arange(-radius, radius + 1, device=images_nCSS.device, dtype=images_nCSS.dtype)
    weight_nk = torch.exp(-0.5 * (offset_k / sigma_n[:, None]) ** 2)
    weight_nk = weight_nk / weight_nk.sum(dim=1, keepdim=True)
    for axis in (-2, -1):
        pad = (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius)
        size = images_nCSS.shape[axis]
        padded = functional.pad(images_nCSS, pad, mode="reflect")
        images_nCSS = torch.zeros_like(images_nCSS)
        for k in range(2 * radius + 1):
            images_nCSS += padded.narrow(axis, k, size) * weight_nk[:, k, None, None, None]
    return images_nCSS.clamp_(0.0, 1.0)  # the weights' sum may round to just above 1


def _speckle(images_nCSS: torch.Tensor, strength_n: torch.Tensor, keys_n: NDArray[np.uint64]) -> torch.Tensor:
    """Return I * (1 + strength * eta), eta ~ N(0, 1) for each pixel, shared by its channels: echo has no colour."""
    height, width = images_nCSS.shape[-2:]
    eta = normals_torch(keys_n, height * width, images_nCSS.device).to(images_nCSS.dtype)
    gain = 1.0 + strength_n[:, None, None, None] * eta.reshape(-1, 1, height, width)
    return (images_nCSS * gain).clamp_(0.0, 1.0)


def _contrast(images_nCSS: torch.Tensor, factor_n: torch.Tensor) -> torch.Tensor:
    """Return mean + factor * (I - mean), with the mean intensity of each image."""
    mean_n111 = images_nCSS.mean(dim=(1, 2, 3), keepdim=True)
    return (mean_n111 + factor_n[:, None, None, None] * (images_nCSS - mean_n111)).clamp_(0.0, 1.0)
