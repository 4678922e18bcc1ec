"""Convert latents to their stored precision and back: float32, float16, int8 with two scales.

int8: latents are divided by a per-channel scale (from a calibration sample, kept in the layer), because ViT
latents have a few channels far larger than the rest; then each token by its own float32 scale, so that its
largest channel becomes 127. Decoding multiplies back: q * scale[token] * channel_scale[channel]. Two products and no
sum: no device may fuse them, so a CPU and a GPU give the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import TeacherError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import LatentPrecision
    from usjepa.cache.store.layers import Layer

QUANTISER_VERSION: dict[LatentPrecision, int] = {"fp32": 1, "fp16": 1, "int8": 2}
"""Part of a layer's hard identity; int8 version 2: |mean| + 3 standard deviations in place of the root mean square."""
STORED_DTYPE: dict[LatentPrecision, str] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
_SPREAD = 3.0
LEAST_SCALE = np.finfo(np.float32).tiny
"""Scales are normal float32 numbers: GPUs may flush smaller ones to zero, and x / scale could overflow."""


class LatentError(TeacherError):
    """A latent that must not be stored, or can't be in this precision; `row` is its row number."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(f"row {row}: {message}")
        self.row, self.message = row, message

    def __reduce__(self) -> tuple[type[LatentError], tuple[int, str]]:
        return type(self), (self.row, self.message)  # it crosses from a worker to the client


def bytes_per_row(precision: LatentPrecision, tokens: int, dim: int) -> int:
    """Return the bytes of one row's latents, the scales of int8 included."""
    scales = 4 * tokens if precision == "int8" else 0
    return tokens * dim * np.dtype(STORED_DTYPE[precision]).itemsize + scales


def check_finite(latents_BTD: NDArray[np.float32], numbers: NDArray[np.int64]) -> None:
    """Refuse latents that are not finite.

    Args:
        latents_BTD: float32 [B, T, D].
        numbers: [B] row numbers.

    Raises:
        LatentError: names the first such row, token, channel and the value.
    """
    finite = np.isfinite(latents_BTD)
    if finite.all():
        return
    place, token, channel = (int(i) for i in np.argwhere(~finite)[0])
    raise LatentError(
        int(numbers[place]),
        f"the teacher gave {latents_BTD[place, token, channel]} in token {token}, channel {channel}, which is not "
        "finite. Try --set cache.teacher.compute=fp32.",
    )


def _to_float32(latents_BTD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return fp32 latents as they are stored."""
    return np.ascontiguousarray(latents_BTD, dtype=np.float32)


def _to_float16(latents_BTD: NDArray[np.float32], first_row: int) -> NDArray[np.float16]:
    """Round fp32 latents of consecutive rows to fp16.

    Raises:
        LatentError: a value is not finite or lies beyond fp16's range (65,504); the row and the value are named.
    """
    limit = np.finfo(np.float16).max
    fits = np.abs(latents_BTD).max(axis=(1, 2), initial=0) <= limit  # false for NaN too
    if not fits.all():
        check_finite(latents_BTD, np.arange(first_row, first_row + len(latents_BTD)))
        row = int(np.flatnonzero(~fits)[0])
        value = latents_BTD[row].flat[int(np.abs(latents_BTD[row]).argmax())]
        raise LatentError(
            first_row + row,
            f"a latent of {value:g} does not fit fp16 (largest {limit:g}). "
            "Store it with --set cache.precision=fp32 or int8.",
        )
    return latents_BTD.astype(np.float16)


def channel_scale(sample_RTD: NDArray[np.float32]) -> tuple[float, ...]:
    """Return [D] divisors, |mean| + 3 standard deviations of each channel over the sample; 1 where it is all zero.

    About the largest value that a channel usually takes, so that all channels use the same part of the 255 levels. The
    massive channels of ViTs (Sun et al. 2024, arXiv 2402.17762) are nearly constant: by their root mean square a token
    of values around its mean would leave them a third of the levels. The largest value itself would let one outlier
    coarsen a channel everywhere.
    """
    sample = sample_RTD.reshape(-1, sample_RTD.shape[-1]).astype(np.float64)
    usual = (np.abs(sample.mean(axis=0)) + _SPREAD * sample.std(axis=0)).clip(max=float(np.finfo(np.float32).max))
    return tuple(float(np.float32(x)) if x > 0 else 1.0 for x in np.where(usual > 0, usual.clip(min=LEAST_SCALE), 0))


def _to_int8(
    latents_BTD: NDArray[np.float32], channels: tuple[float, ...], first_row: int = 0
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise consecutive rows to int8 [B, T, D] and float32 scales [B, T]; an all-zero token has scale 1.

    Raises:
        LatentError: a value is not finite, or too large to be divided by its channel's scale.
    """
    with np.errstate(over="ignore"):
        even = latents_BTD / np.asarray(channels, dtype=np.float32)
    peak = np.abs(even).max(axis=2)
    if not np.isfinite(peak).all():
        numbers = np.arange(first_row, first_row + len(latents_BTD))
        check_finite(latents_BTD, numbers)
        row = int(np.flatnonzero(~np.isfinite(peak).all(axis=1))[0])
        raise LatentError(
            first_row + row, "a latent is more than 1e38 times its channel's scale. Store it with cache.precision=fp32."
        )
    scales = (peak / np.float32(127)).astype(np.float32)
    scales[scales < LEAST_SCALE] = 1  # such a token is as good as zero
    quantised = np.rint(even / scales[:, :, None]).clip(-127, 127).astype(np.int8)
    return quantised, scales


def to_targets(
    latents: NDArray[np.generic],
    scales_BT: NDArray[np.float32] | None,
    channels: tuple[float, ...] | NDArray[np.float32],
    device: str,
) -> torch.Tensor:
    """Return stored latents as a float32 tensor [B, T, D] on a device, in memory of its own.

    `channels` are the layer's [D], or those of each row [B, D] where rows are of several layers.

    To a device they travel in stored precision. On a CPU it is NumPy that converts: batches are made in a thread beside
    the one that trains, and a second thread with a pool of OpenMP (torch's loops) leaves more threads than processors,
    whereupon the first one's stop spinning and have to be woken for every loop: 1.19x the time of a step.
    """
    import torch

    factors = np.asarray(channels, dtype=np.float32)
    factors = factors[:, None, :] if factors.ndim == 2 else factors
    if device == "cpu":
        values: NDArray[np.float32] = latents.astype(np.float32)
        if scales_BT is not None:
            values *= scales_BT[:, :, None]
            values *= factors
        return torch.from_numpy(values)
    moved = torch.from_numpy(latents).to(device, non_blocking=True).to(torch.float32)
    if scales_BT is None:
        return moved
    scales = torch.from_numpy(scales_BT).to(device, non_blocking=True)
    return moved * scales[:, :, None] * torch.from_numpy(factors).to(device)


def quantise(
    latents_BTD: NDArray[np.float32], layer: Layer, first_row: int
) -> tuple[NDArray[np.generic], NDArray[np.float32] | None]:
    """Return float32 latents of consecutive rows as a layer stores them, and the scales [B, T] that go with int8.

    Raises:
        LatentError: a value is not finite or does not fit the layer's precision; the row and the value are named.
    """
    if layer.dtype == "int8":
        return _to_int8(latents_BTD, layer.channel_scale, first_row)
    if layer.dtype == "float16":
        return _to_float16(latents_BTD, first_row), None
    return _to_float32(latents_BTD), None
