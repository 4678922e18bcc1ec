"""Sets of patches of many images, a row of the grid in the bits of a word: unions, intersections and counts.

An operation on a set of 14 x 14 patches handles 14 words instead of 196 flags. Images are the last axis, so that every
operation runs along memory however small the grid. A set is an array of unsigned words [K, H, ...]: bit j of word k in
row i stands for the patch in row i and column `bits of a word * k + j`; K is 1 up to 64 columns.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    Bools = NDArray[np.bool_]
    Ints = NDArray[np.int64]

Sets = NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]
Counts = NDArray[np.unsignedinteger[Any]]


def _word(columns: int) -> np.dtype[Any]:
    """The smallest word that holds a row, or the largest that there is; little-endian, as bits are packed."""
    return np.dtype("<u2" if columns <= 16 else "<u4" if columns <= 32 else "<u8")


@lru_cache(16)
def _tables(grid: tuple[int, int]) -> tuple[Sets, Sets]:
    """The rows above row i, [H, H + 1] words of all bits or none; and the columns left of column j, [K, W + 1]."""
    word = _word(grid[1])
    bits = 8 * word.itemsize
    full = np.iinfo(word).max
    above = np.where(np.arange(grid[0])[:, None] < np.arange(grid[0] + 1), full, 0).astype(word)
    count = np.clip(np.arange(grid[1] + 1) - bits * np.arange(-(-grid[1] // bits))[:, None], 0, bits)
    left = np.array([[(1 << int(n)) - 1 for n in row] for row in count], dtype=word)
    return above, left


def pack(mask_BT: Bools, grid: tuple[int, int]) -> Sets:
    """Sets [K, H, B] of flags [B, T], row-major over the grid."""
    word = _word(grid[1])
    octets = np.packbits(mask_BT.reshape(-1, *grid), axis=2, bitorder="little")
    lacking = -octets.shape[2] % word.itemsize
    if lacking:
        octets = np.concatenate([octets, np.zeros((*octets.shape[:2], lacking), np.uint8)], axis=2)
    sets: Sets = np.ascontiguousarray(octets.view(word).transpose(2, 1, 0))
    return sets


def whole(grid: tuple[int, int]) -> Sets:
    """All patches of the grid, [K, H, 1]."""
    full: Sets = np.repeat(_tables(grid)[1][:, -1:, None], grid[0], axis=1)
    return full


def unpack(sets_KHB: Sets, grid: tuple[int, int]) -> Bools:
    """Flags [B, T] of sets."""
    octets = np.ascontiguousarray(sets_KHB.transpose(2, 1, 0)).view(np.uint8)
    flags = np.unpackbits(octets, axis=2, count=grid[1], bitorder="little")
    return flags.reshape(sets_KHB.shape[2], grid[0] * grid[1]).view(np.bool_)


def rectangles(top: Ints, left: Ints, height: Ints, width: Ints, grid: tuple[int, int]) -> Sets:
    """Sets [K, H, ...] of the patches in rectangles, from int64 [...] each."""
    above, before = _tables(grid)
    rows = above[:, top + height] ^ above[:, top]
    columns = before[:, left + width] ^ before[:, left]
    sets: Sets = rows[None] & columns[:, None]
    return sets


def sizes(sets: Sets) -> Ints:
    """Patches of each set, int64 [...]."""
    found: Ints = np.bitwise_count(sets).sum(axis=(0, 1), dtype=np.int64)
    return found


def sizes_within(sets_KHn: Sets, height: int, width: int, grid: tuple[int, int]) -> Counts:
    """Patches of each set in the rectangle of one size at every place: [places down, places across, n]."""
    _, before = _tables(grid)
    down, across = grid[0] - height + 1, grid[1] - width + 1
    columns_KA = before[:, width:] ^ before[:, :across]
    in_row_HAn = np.bitwise_count(sets_KHn[:, :, None] & columns_KA[:, None, :, None])
    kind = np.uint8 if height * width < 2**8 else np.uint32
    in_row = in_row_HAn[0] if len(in_row_HAn) == 1 else in_row_HAn.sum(axis=0, dtype=kind)
    found = in_row[:down].astype(kind)
    for i in range(1, height):
        found += in_row[i : i + down]
    return found
