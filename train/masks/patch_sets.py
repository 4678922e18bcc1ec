"""Represent sets of patches as bits, so that unions, intersections and counts are fast.

A set is an array of unsigned words [K, H, ...]: bit j of word k in row i stands for the patch in row i and column
`bits per word * k + j`; K is 1 up to 64 columns. An operation on 14 x 14 patches handles 14 words instead of 196 flags.
Images are the last axis, so every operation runs along memory however small the grid.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    Bools = NDArray[np.bool_]
    Ints = NDArray[np.int64]

Sets = NDArray[np.unsignedinteger[Any]]
_Counts = NDArray[np.unsignedinteger[Any]]


def _word(columns: int) -> np.dtype[Any]:
    """Return the smallest word type that holds a row of the grid, or the largest one; little-endian, as packed."""
    return np.dtype("<u2" if columns <= 16 else "<u4" if columns <= 32 else "<u8")


@lru_cache(16)
def _left_of(columns: int) -> Sets:
    """Return the columns left of each column j, as words [K, W + 1]."""
    word = _word(columns)
    bits = 8 * word.itemsize
    held = np.clip(np.arange(columns + 1) - bits * np.arange(-(-columns // bits))[:, None], 0, bits)
    return np.array([[(1 << int(n)) - 1 for n in row] for row in held], dtype=word)


def pack(mask_BT: Bools, grid: tuple[int, int]) -> Sets:
    """Return the sets [K, H, B] of flags, bool [B, T] row-major over the grid."""
    word = _word(grid[1])
    bits = 8 * word.itemsize
    flags = np.zeros((len(mask_BT), grid[0], -(-grid[1] // bits) * bits), np.bool_)
    flags[:, :, : grid[1]] = mask_BT.reshape(-1, *grid)
    words_BHK = (
        np.packbits(flags.reshape(-1), bitorder="little").view(word).reshape(*flags.shape[:2], flags.shape[2] // bits)
    )
    sets: Sets = np.ascontiguousarray(words_BHK.transpose(2, 1, 0))
    return sets


def take(sets_KHB: Sets, at: Ints) -> Sets:
    """Return the sets of the images `at`."""
    # Not `sets[:, :, at]`, whose result lies in memory with the images first.
    taken: Sets = np.take(sets_KHB, at, axis=2)
    return taken


def whole(grid: tuple[int, int]) -> Sets:
    """Return the set of all patches of the grid, [K, H, 1]."""
    full: Sets = np.repeat(_left_of(grid[1])[:, -1:, None], grid[0], axis=1)
    return full


def unpack(sets_KHB: Sets, grid: tuple[int, int]) -> Bools:
    """Return the flags, bool [B, T], of sets."""
    words_BHK = np.ascontiguousarray(sets_KHB.transpose(2, 1, 0))
    flags = np.unpackbits(words_BHK.reshape(-1).view(np.uint8), bitorder="little").view(np.bool_)
    rows = flags.reshape(*words_BHK.shape[:2], 8 * words_BHK.itemsize * words_BHK.shape[2])
    found: Bools = rows[:, :, : grid[1]].reshape(len(rows), grid[0] * grid[1])
    return found


def rectangles(top: Ints, left: Ints, height: Ints, width: Ints, grid: tuple[int, int]) -> Sets:
    """Return the sets [K, H, ...] of the patches in rectangles, whose corners and sides are int64 [...] each."""
    before = _left_of(grid[1])
    columns = before[:, left + width] ^ before[:, left]
    row = np.arange(grid[0], dtype=np.uint16).reshape(-1, *[1] * top.ndim)
    # Unsigned: rows above the rectangle wrap to large numbers, so one comparison tests both ends.
    inside = row - top.astype(np.uint16) < height.astype(np.uint16)
    sets: Sets = np.multiply(inside[None], columns[:, None], dtype=columns.dtype)
    return sets


def sizes(sets: Sets) -> Ints:
    """Return the number of patches in each set, int64 [...]."""
    counts = np.bitwise_count(sets).reshape(sets.shape[0] * sets.shape[1], *sets.shape[2:])
    # Row by row: NumPy's sum over the first axis of uint8 is several times slower.
    found = np.zeros(counts.shape[1:], np.uint16 if len(counts) < 2**10 else np.uint32)
    for row in counts:
        found += row
    return found.astype(np.int64)


def sizes_within(sets_KHn: Sets, height: int, width_n: Ints, grid: tuple[int, int]) -> tuple[_Counts, Bools]:
    """Count the patches of each set inside its rectangle, at every position of the rectangle.

    Args:
        sets_KHn: the sets of n images.
        height: of all rectangles.
        width_n: int64 [n].
        grid: patches down and across.

    Returns:
        _Counts, unsigned [D, A, n], at each position down and across, A being the positions of the narrowest rectangle;
        and which positions across fit, bool [A, n].
    """
    before = _left_of(grid[1])
    down, left_A1 = grid[0] - height + 1, np.arange(grid[1] - int(width_n.min()) + 1)[:, None]
    right_An = left_A1 + width_n
    columns_KAn = before[:, np.minimum(right_An, grid[1])] ^ before[:, left_A1]
    in_row_KHAn = np.bitwise_count(sets_KHn[:, :, None] & columns_KAn[:, None])
    kind = np.uint8 if height * grid[1] < 2**8 else np.uint32
    in_row_HAn = in_row_KHAn[0] if len(in_row_KHAn) == 1 else in_row_KHAn.sum(axis=0, dtype=kind)
    found_DAn = in_row_HAn[:down].astype(kind)
    for i in range(1, height):
        found_DAn += in_row_HAn[i : i + down]
    return found_DAn, right_An <= grid[1]
