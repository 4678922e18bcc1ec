"""Convert latents to their stored form and back: float32, float16, int8, int4, on axes.

int8: latents are divided by a per-channel scale (from a calibration sample, kept in the layer), because ViT
latents have a few channels far larger than the rest; then each token by its own float32 scale, so that its
largest channel becomes 127. Decoding multiplies back: q * scale[token] * channel_scale[channel]. Two products and no
sum: no device may fuse them, so a CPU and a GPU give the same bits.

int4: the sample's mean is taken away, channels are divided by their spread and rotated, so that what stands out in one
of them is shared by all; then a token by its scale, so that its largest value becomes 7 to 9.5. What is above 7 is cut:
few values are, and all others get finer steps. On axes: latents are projected first (`cache/coding`), and the rest is
done with the projections.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.coding.nibbles import LARGEST as LARGEST_NIBBLE
from usjepa.cache.coding.nibbles import pack, unpack, unpack_tensor
from usjepa.cache.coding.principal import LARGEST
from usjepa.cache.coding.rotation import rotate, rotate_back, rotate_tensor_back
from usjepa.cache.errors import TeacherError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from usjepa.cache.coding.coding import Coding
    from usjepa.cache.coding.form import Form
    from usjepa.cache.store.layers import Layer

_SPREAD = 3.0
_TOO_FAR = "a latent is more than 1e38 times its channel's scale. Store it with cache.precision=fp32."
LEAST_SCALE = np.finfo(np.float32).tiny
"""Scales are normal float32 numbers: GPUs may flush smaller ones to zero, and x / scale could overflow."""


class LatentError(TeacherError):
    """A latent that must not be stored, or can't be in this precision; `row` is its row number."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(f"row {row}: {message}")
        self.row, self.message = row, message

    def __reduce__(self) -> tuple[type[LatentError], tuple[int, str]]:
        return type(self), (self.row, self.message)  # it crosses from a worker to the client


def bytes_per_row(form: Form, tokens: int, dim: int) -> int:
    """Return the bytes of one row's latents, the scales of its tokens included."""
    return form.row_nbytes(tokens, dim) + (4 * tokens if form.scaled else 0)


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
        raise LatentError(first_row + row, _TOO_FAR)
    scales = (peak / np.float32(127)).astype(np.float32)
    scales[scales < LEAST_SCALE] = 1  # such a token is as good as zero
    quantised = np.rint(even / scales[:, :, None]).clip(-127, 127).astype(np.int8)
    return quantised, scales


def nibble_divisor(width: int) -> float:
    """Return what a token's largest value is divided by to give its scale, for W values that are rotated.

    The more values, the further the largest lies out: cutting it makes all others' steps finer. The least squared error
    of normal values is at 7 for 16 of them, 8.4 for 192, 9.3 for 768.
    """
    return max(float(LARGEST_NIBBLE), round(4 * (5 + 0.45 * math.log2(width))) / 4)


def _to_int4(
    values_TW: NDArray[np.float32], layer: Layer, coding: Coding, row: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """Quantise a row's projections to packed int4 [T, V] and float32 scales [T]; an all-zero token has scale 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        divided = np.divide(values_TW, np.asarray(layer.channel_scale, np.float32), dtype=np.float32)
        even = rotate(divided, coding.rotation)
        peak = np.abs(even).max(axis=1)
    if not np.isfinite(peak).all():
        raise LatentError(row, _TOO_FAR)
    scales = (peak / np.float32(nibble_divisor(coding.coded_width))).astype(np.float32)
    scales[scales < LEAST_SCALE] = 1
    return pack(np.rint(even / scales[:, None]).clip(-LARGEST_NIBBLE, LARGEST_NIBBLE)), scales


def check_coded(latents_BTD: NDArray[np.float32], numbers: NDArray[np.int64]) -> None:
    """Refuse latents that can't be projected or rotated; `numbers` [B] are their rows.

    Raises:
        LatentError: a value is not finite, or so large that sums of its products would not be.
    """
    fits = np.abs(latents_BTD).max(axis=(1, 2), initial=0) <= LARGEST  # false for NaN too
    if fits.all():
        return
    check_finite(latents_BTD, numbers)
    place = int(np.flatnonzero(~fits)[0])
    raise LatentError(
        int(numbers[place]),
        f"a latent of {np.abs(latents_BTD[place]).max():g} is above {LARGEST:g} and can't be projected or rotated. "
        "Store it with cache.precision=fp32 and without cache.axes.",
    )


def _coded(
    latents_BTD: NDArray[np.float32], layer: Layer, coding: Coding, first_row: int
) -> tuple[NDArray[np.generic], NDArray[np.float32] | None]:
    """Return what `quantise` does for a layer that has a coding; row by row, which the processor's cache holds."""
    check_coded(latents_BTD, np.arange(first_row, first_row + len(latents_BTD)))
    values = np.empty((len(latents_BTD), *layer.shape), layer.dtype)
    scales = np.empty(values.shape[:2], np.float32) if layer.channel_scale else None
    for place, latents_TD in enumerate(latents_BTD):
        here, projected = slice(place, place + 1), coding.project(latents_TD)
        if coding.packed:
            values[here], scale = _to_int4(projected, layer, coding, first_row + place)
        else:
            values[here], scale = _plain(projected[None], layer, first_row + place)
        if scales is not None:
            scales[here] = scale
    return values, scales


def _plain(
    latents_BTD: NDArray[np.float32], layer: Layer, first_row: int
) -> tuple[NDArray[np.generic], NDArray[np.float32] | None]:
    if layer.dtype == "int8":
        return _to_int8(latents_BTD, layer.channel_scale, first_row)
    if layer.dtype == "float16":
        return _to_float16(latents_BTD, first_row), None
    return _to_float32(latents_BTD), None


def quantise(
    latents_BTD: NDArray[np.float32], layer: Layer, first_row: int
) -> tuple[NDArray[np.generic], NDArray[np.float32] | None]:
    """Return float32 latents of consecutive rows as a layer stores them, and the scales [B, T] of int8 and int4.

    Raises:
        LatentError: a value is not finite or does not fit the layer's precision; the row and the value are named.
    """
    if layer.coding is not None:
        return _coded(latents_BTD, layer, layer.coding, first_row)
    return _plain(latents_BTD, layer, first_row)


def dequantise(
    stored: NDArray[np.generic],
    scales_BT: NDArray[np.float32] | None,
    channels: tuple[float, ...] | NDArray[np.float32],
    coding: Coding | None = None,
) -> NDArray[np.float32]:
    """Return stored latents as float32 [B, T, D], in memory of their own.

    `channels` are the layer's [W], or those of each row [B, W] where rows are of several layers.
    """
    factors = np.asarray(channels, dtype=np.float32)
    factors = factors[:, None, :] if factors.ndim == 2 else factors
    if coding is not None:
        latents = np.empty((*stored.shape[:2], coding.width), np.float32)
        for place in range(len(stored)):  # row by row, which the processor's cache holds
            scale = None if scales_BT is None else scales_BT[place]
            latents[place] = coding.restore(_projections(stored[place], scale, factors, coding))
        return latents
    values: NDArray[np.float32] = stored.astype(np.float32)
    if scales_BT is not None:
        values *= scales_BT[:, :, None]
        values *= factors
    return values


def _projections(
    stored: NDArray[np.generic], scales_T: NDArray[np.float32] | None, factors: NDArray[np.float32], coding: Coding
) -> NDArray[np.float32]:
    """Return a row's values on the axes, or of the channels, float32 [T, W]."""
    if scales_T is None:
        return stored.astype(np.float32)
    if not coding.packed:
        return stored.astype(np.float32) * scales_T[:, None] * factors
    even = unpack(stored.astype(np.uint8, copy=False), coding.coded_width) * scales_T[:, None]
    return rotate_back(even, coding.rotation) * factors


def to_targets(
    latents: NDArray[np.generic],
    scales_BT: NDArray[np.float32] | None,
    channels: tuple[float, ...] | NDArray[np.float32],
    device: str,
    coding: Coding | None = None,
) -> torch.Tensor:
    """Return stored latents as a float32 tensor [B, T, D] on a device, in memory of its own; see `dequantise`.

    To a device they travel in stored form. On a CPU it is NumPy that converts: batches are made in a thread beside
    the one that trains, and a second thread with a pool of OpenMP (torch's loops) leaves more threads than processors,
    whereupon the first one's stop spinning and have to be woken for every loop: 1.19x the time of a step.
    """
    import torch

    if device == "cpu":
        return torch.from_numpy(dequantise(latents, scales_BT, channels, coding))
    factors = np.asarray(channels, dtype=np.float32)
    factors = factors[:, None, :] if factors.ndim == 2 else factors
    moved = torch.from_numpy(latents).to(device, non_blocking=True)
    packed = coding is not None and coding.packed
    values = unpack_tensor(moved, coding.coded_width) if coding is not None and packed else moved.to(torch.float32)
    if scales_BT is not None:
        values = values * torch.from_numpy(scales_BT).to(device, non_blocking=True)[:, :, None]
        if coding is not None and packed:
            values = rotate_tensor_back(values, coding.rotation)
        values = values * torch.from_numpy(factors).to(device)
    return values if coding is None else coding.restore_tensor(values)
