"""Pack scan regions into bits, and unpack them per cell or per patch.

A cell is 2 x 2 pixels of a stored row. Shape suffixes: S edge of a row in pixels, B rows, n bytes of packed cells,
T patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def packed_nbytes(size: int) -> int:
    """Return the bytes of a packed region of that edge, ceil((size / 2)^2 / 8); UsageError when it is odd."""
    if size < 2 or size % 2:
        raise UsageError(f"the edge of stored pixels is even, this is {size}.")
    return -(-((size // 2) ** 2) // 8)


def pack_cells(region_SS: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a region [S, S] as one bit per cell, set where any of its pixels is; uint8 [ceil((S / 2)^2 / 8)].

    Cells go row by row, eight per byte, the first in the highest bit (np.packbits).
    """
    if region_SS.ndim != 2 or region_SS.shape[0] != region_SS.shape[1] or region_SS.shape[0] % 2:
        raise UsageError(f"a region to pack is square with an even edge, this is {region_SS.shape}.")
    cells = region_SS.shape[0] // 2
    return np.packbits(region_SS.reshape(cells, 2, cells, 2).any((1, 3)))


def unpack_cells(cells_Bn: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    """Return the cells [B, size / 2, size / 2] of packed regions [B, n] of `size` x `size` pixels."""
    edge, nbytes = size // 2, packed_nbytes(size)
    if cells_Bn.ndim != 2 or cells_Bn.shape[1] != nbytes:
        raise UsageError(f"packed regions of {size} pixels are [B, {nbytes}], these are {cells_Bn.shape}.")
    return np.unpackbits(cells_Bn, axis=1, count=edge**2).astype(np.bool_).reshape(len(cells_Bn), edge, edge)


def patch_validity(cells_Bn: NDArray[np.uint8], size: int, patch: int) -> NDArray[np.bool_]:
    """Return which patches hold at least one cell that touches the scan, bool [B, T], row-major over the grid."""
    if patch < 2 or patch % 2 or size % patch:
        raise UsageError(f"a patch has an even edge that divides the image's: {patch} for {size} pixels does not fit.")
    grid, cells = size // patch, patch // 2
    touched = unpack_cells(cells_Bn, size).reshape(-1, grid, cells, grid, cells).any((2, 4))
    return touched.reshape(-1, grid * grid)
