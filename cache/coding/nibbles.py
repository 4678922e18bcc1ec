"""Pack two 4-bit values in a byte.

A value q of -7..7 is kept as q + 8. Of two neighbours the first lies in the lower four bits; behind an odd number of
values stands a zero, kept as 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

LARGEST = 7
"""Of |q|."""
_ZERO = 8


def packed_width(width: int) -> int:
    """Return the bytes that so many values take."""
    return -(-width // 2)


def pack(values_NW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return whole numbers of -7..7 as bytes, uint8 [..., ceil(W / 2)]."""
    width = values_NW.shape[-1]
    codes = np.full((*values_NW.shape[:-1], 2 * packed_width(width)), _ZERO, np.uint8)
    codes[..., :width] = (values_NW + np.float32(_ZERO)).astype(np.uint8)
    packed: NDArray[np.uint8] = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed


def unpack(packed_NV: NDArray[np.uint8], width: int) -> NDArray[np.float32]:
    """Return the values of bytes, float32 [..., W]."""
    values = np.empty((*packed_NV.shape[:-1], 2 * packed_NV.shape[-1]), np.float32)
    values[..., 0::2] = packed_NV & 15
    values[..., 1::2] = packed_NV >> 4
    values -= np.float32(_ZERO)
    return values[..., :width]


def pack_tensor(values_NW: torch.Tensor) -> torch.Tensor:
    """Return what `pack` does, on the tensor's device."""
    import torch

    codes = torch.nn.functional.pad(values_NW + _ZERO, (0, values_NW.shape[-1] % 2), value=_ZERO).to(torch.uint8)
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack_tensor(packed_NV: torch.Tensor, width: int) -> torch.Tensor:
    """Return what `unpack` does, on the tensor's device."""
    import torch

    pairs = torch.stack([packed_NV & 15, packed_NV >> 4], dim=-1)
    return pairs.flatten(-2)[..., :width].to(torch.float32) - _ZERO
