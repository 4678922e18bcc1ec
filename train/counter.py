"""Draw random numbers for whole batches as pure functions of seed, step and row.

Purpose and index of a draw count too. Any draw of any row can be computed alone, anywhere, in any order. The generator
is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; finaliser constants
by D. Stafford): the words that name a stream are absorbed into a 64-bit key, and draw i of the stream is
`mix(key + (i + 1) * GOLDEN)`, which is the i-th output of SplitMix64 seeded with the key. It is plain integer
arithmetic modulo 2**64, so NumPy, torch on a CPU and torch on a GPU give the same bits. NumPy's Philox, which
`usjepa.cache.randomness` uses, can't be vectorised over keys: a batch would need a generator for each row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def _words(values: ArrayLike | int) -> NDArray[np.uint64]:
    """Return any integers, negative or wider than 64 bits included, as uint64 (two's complement)."""
    if isinstance(values, int):
        return np.asarray(values & _MASK, dtype=np.uint64)
    return np.asarray(values).astype(np.uint64, copy=False)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's finaliser: a bijection of uint64 whose every output bit depends on every input bit."""
    z = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    return z ^ (z >> np.uint64(31))


def absorb(key: NDArray[np.uint64], word: ArrayLike | int) -> NDArray[np.uint64]:
    """Return the key of a sub-stream named by one more word; shapes broadcast. (1, 2) is not (2, 1)."""
    with np.errstate(over="ignore"):  # NumPy warns of wrap-around on scalars, and wrapping is the point
        return _mix(key ^ _mix(_words(word) + np.uint64(_GOLDEN)))


def stream(purpose: str, *words: ArrayLike | int) -> NDArray[np.uint64]:
    """Return the key (uint64, shape of the words broadcast) of the stream named by a purpose and integer words.

    `stream("masks", seed, step, rows_B)` gives [B] keys. The purpose keeps the draws of one part of a run (masks) apart
    from those of another (augmentation) under the same seed, step and row.
    """
    key = _words(int.from_bytes(purpose.encode()[:8].ljust(8, b"\0"), "big"))
    for byte in purpose.encode()[8:]:
        key = absorb(key, byte)
    for word in words:
        key = absorb(key, word)
    return key


def bits(keys: NDArray[np.uint64], index: ArrayLike | int) -> NDArray[np.uint64]:
    """Return draw number `index` (>= 0) of each stream: uint64, all bits random; shapes broadcast."""
    with np.errstate(over="ignore"):
        return _mix(keys + (_words(index) + np.uint64(1)) * np.uint64(_GOLDEN))


def uniforms(keys: NDArray[np.uint64], index: ArrayLike | int) -> NDArray[np.float64]:
    """Return the same draws as float64 in [0, 1), every multiple of 2**-53 equally likely."""
    return (bits(keys, index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _signed(word: int) -> int:
    """Return a 64-bit word as the int64 of the same bits: torch has no unsigned arithmetic."""
    return word - (1 << 64) if word >> 63 else word


def _mix_torch(state: torch.Tensor) -> torch.Tensor:
    """Return `_mix` over the bits of int64; `>>` is arithmetic in torch, so the copied sign bits are masked off."""
    z = (state ^ ((state >> 30) & (_MASK >> 30))) * _signed(_FIRST)
    z = (z ^ ((z >> 27) & (_MASK >> 27))) * _signed(_SECOND)
    return z ^ ((z >> 31) & (_MASK >> 31))


def _bits_torch(keys: NDArray[np.uint64], count: int, device: torch.device | str) -> torch.Tensor:
    """Return draws 0..count-1 of each stream on a device: int64 [B, count] with the same bits as `bits`."""
    start_B = torch.from_numpy(keys.astype(np.uint64).view(np.int64)).to(device, non_blocking=True)
    steps_n = torch.arange(1, count + 1, device=device, dtype=torch.int64) * _signed(_GOLDEN)
    return _mix_torch(start_B[:, None] + steps_n)


def normals_torch(keys: NDArray[np.uint64], count: int, device: torch.device | str) -> torch.Tensor:
    """Return standard normal draws, float32 [B, count], on a device: the same on all devices up to rounding.

    Box and Muller (1958): each 64-bit draw gives two 24-bit uniforms and they give two normals. 24 bits is all that a
    float32 in [0, 1) holds; the largest draw is therefore sqrt(2 * 24 * ln 2) = 5.8.
    """
    pairs = (count + 1) // 2
    draws = _bits_torch(keys, pairs, device)
    unit = 2.0**-24
    first = (((draws >> 40) & 0xFFFFFF) + 1).to(torch.float32) * unit  # in (0, 1]: its logarithm is finite
    angle = ((draws >> 8) & 0xFFFFFF).to(torch.float32) * (unit * 2.0 * np.pi)
    radius = torch.sqrt(-2.0 * torch.log(first))
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :count]
