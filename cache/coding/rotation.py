"""Rotate channels by Hadamard matrices, so that outliers are spread evenly.

Of W channels the first n are rotated, then the last n, n being the largest power of two that is not above W: together
they mix all of them, whatever W is. Between the two the last n change sign by the Rudin-Shapiro sequence, whose
spectrum is flat: what the first rotation spread evenly would else be gathered again by the second. Every step is a sum,
a difference or one product of float32, in a fixed order: NumPy and torch, a CPU and a GPU, give the same bits.

Shape suffixes: N places (any leading axes), W channels, n of one rotation.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


def rotation_of(width: int) -> int:
    """Return n, the largest power of two that is not above the number of channels."""
    return 1 << (width.bit_length() - 1)


@cache
def _signs(size: int) -> Floats:
    """Return the first n of the Rudin-Shapiro sequence: -1 where i has an odd number of neighbouring ones in binary."""
    return np.array([-1 if (i & i >> 1).bit_count() % 2 else 1 for i in range(size)], np.float32)


def rotate(values_NW: Floats, size: int) -> Floats:
    """Return values rotated, in memory of their own."""
    rotated, last = values_NW.copy(), values_NW.shape[-1] - size
    rotated[..., :size] = _hadamard(rotated[..., :size], size)
    if last:
        rotated[..., last:] = _hadamard(rotated[..., last:] * _signs(size), size)
    return rotated


def rotate_back(values_NW: Floats, size: int) -> Floats:
    """Undo `rotate`: a Hadamard matrix of this scale is its own inverse."""
    rotated, last = values_NW.copy(), values_NW.shape[-1] - size
    if last:
        rotated[..., last:] = _hadamard(rotated[..., last:], size) * _signs(size)
    rotated[..., :size] = _hadamard(rotated[..., :size], size)
    return rotated


def _hadamard(values_Nn: Floats, size: int) -> Floats:
    """Return the product with Sylvester's Hadamard matrix, divided by the root of n."""
    now = values_Nn * np.float32(size**-0.5)
    other = np.empty_like(now)
    for _ in range(size.bit_length() - 1):  # sums and differences of neighbours, n / 2 apart: all strides are short
        even, odd = now[..., 0::2], now[..., 1::2]
        np.add(even, odd, out=other[..., : size // 2])
        np.subtract(even, odd, out=other[..., size // 2 :])
        now, other = other, now
    return now


def rotate_tensor(values_NW: torch.Tensor, size: int) -> torch.Tensor:
    """Return what `rotate` does, bit for bit, on the tensor's device."""
    rotated, last = values_NW.clone(), values_NW.shape[-1] - size
    rotated[..., :size] = _hadamard_tensor(rotated[..., :size], size)
    if last:
        rotated[..., last:] = _hadamard_tensor(rotated[..., last:] * _signs_beside(rotated, size), size)
    return rotated


def rotate_tensor_back(values_NW: torch.Tensor, size: int) -> torch.Tensor:
    """Return what `rotate_back` does, bit for bit, on the tensor's device."""
    rotated, last = values_NW.clone(), values_NW.shape[-1] - size
    if last:
        rotated[..., last:] = _hadamard_tensor(rotated[..., last:], size) * _signs_beside(rotated, size)
    rotated[..., :size] = _hadamard_tensor(rotated[..., :size], size)
    return rotated


def _hadamard_tensor(values_Nn: torch.Tensor, size: int) -> torch.Tensor:
    import torch

    now = values_Nn * float(np.float32(size**-0.5))
    for _ in range(size.bit_length() - 1):
        even, odd = now[..., 0::2], now[..., 1::2]
        now = torch.cat([even + odd, even - odd], dim=-1)
    return now


def _signs_beside(values: torch.Tensor, size: int) -> torch.Tensor:
    import torch

    return torch.tensor(_signs(size), device=values.device)
