"""Stored precision of latents: float32, float16 (overflow refused) and int8 with two scales.

int8: latents are divided by a per-channel scale (from a calibration sample, kept in the layer), because ViT
latents have a few channels far larger than the rest; then each token by its own float32 scale, so that its
largest channel becomes 127. Decoding multiplies back: q * scale[token] * channel_scale[channel].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import TeacherError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from usjepa.cache.settings import LatentPrecision

QUANTISER_VERSION = 1
STORED_DTYPE: dict[LatentPrecision, str] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}


def to_float32(latents_BTD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return fp32 latents as they are stored."""
    return np.ascontiguousarray(latents_BTD, dtype=np.float32)


def to_float16(latents_BTD: NDArray[np.float32], first_row: int) -> NDArray[np.float16]:
    """Round fp32 latents to fp16.

    Raises:
        TeacherError: a value lies beyond fp16's range (65,504); the row and the value are named.
    """
    peaks = np.abs(latents_BTD).max(axis=(1, 2))
    limit = np.finfo(np.float16).max
    if (peaks > limit).any():
        worst = int(peaks.argmax())
        raise TeacherError(
            f"row {first_row + worst}: a latent of {peaks[worst]:g} does not fit fp16 (largest {limit:g}). "
            "Store it with --set cache.precision=fp32 or int8."
        )
    return latents_BTD.astype(np.float16)


def channel_scale(sample_RTD: NDArray[np.float32]) -> tuple[float, ...]:
    """Return [D] divisors: each channel's root mean square over the sample, 1 where it is all zero."""
    rms = np.sqrt(np.square(sample_RTD, dtype=np.float64).mean(axis=(0, 1))).astype(np.float32)
    return tuple(float(x) for x in np.where(rms > 0, rms, np.float32(1)))


def to_int8(
    latents_BTD: NDArray[np.float32], channels: tuple[float, ...]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise to int8 [B, T, D] and float32 scales [B, T]; an all-zero token has scale 1."""
    even = latents_BTD / np.asarray(channels, dtype=np.float32)
    peak = np.abs(even).max(axis=2)
    scales = np.where(peak > 0, peak / np.float32(127), np.float32(1)).astype(np.float32)
    # A denormal peak divided by 127 can round to 0: such a token is as good as zero.
    scales[scales == 0] = 1
    quantised = np.rint(even / scales[:, :, None]).clip(-127, 127).astype(np.int8)
    return quantised, scales


def to_targets(
    latents: NDArray[np.generic], scales_BT: NDArray[np.float32] | None, channels: tuple[float, ...], device: str
) -> torch.Tensor:
    """Return stored latents as a float32 tensor [B, T, D] on a device; they travel in stored precision."""
    import torch

    stored = torch.from_numpy(latents).to(device, non_blocking=True)
    values = stored.to(torch.float32)
    if scales_BT is None:
        return values
    scales = torch.from_numpy(scales_BT).to(device, non_blocking=True)
    return values * scales[:, :, None] * torch.tensor(channels, dtype=torch.float32, device=device)
