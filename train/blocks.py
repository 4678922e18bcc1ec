"""Rectangles of patches: their sizes, their places, and how many patches of a kind they hold, for many images at once.

Everything is vectorised over images, and every draw comes from the image's own stream, so that what an image gets does
not depend on which other images are there. `masks.py` puts the rectangles together to masks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from usjepa.train.counter import uniforms

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Counts = NDArray[np.int16] | NDArray[np.int32]
Keys = NDArray[np.uint64]


class Blocks(NamedTuple):
    """Rectangles of patches: four int64 arrays of one shape."""

    top: Ints
    left: Ints
    height: Ints
    width: Ints

    def put(self, at: Ints, other: Blocks) -> None:
        """Overwrite the blocks of the images `at` in place."""
        for mine, theirs in zip(self, other, strict=True):
            mine[at] = theirs


def draw_sizes(
    scale_B: Floats,
    aspect_B: Floats | None,
    scale: tuple[float, float],
    aspect: tuple[float, float],
    grid: tuple[int, int],
) -> tuple[Ints, Ints]:
    """Heights and widths int64 [B] from uniform draws: area = floor(T * scale), h = round(sqrt(area * aspect)),
    w = round(sqrt(area / aspect)), both at least 1 and at most the grid's. Scale and aspect are uniform over their
    ranges, the aspect not in its logarithm, as in the reference.
    """
    area_B = np.floor(grid[0] * grid[1] * (scale[0] + scale_B * (scale[1] - scale[0])))
    ratio_B = np.ones_like(area_B) if aspect_B is None else aspect[0] + aspect_B * (aspect[1] - aspect[0])
    height_B = np.rint(np.sqrt(area_B * ratio_B)).astype(np.int64)
    width_B = np.rint(np.sqrt(area_B / ratio_B)).astype(np.int64)
    return np.clip(height_B, 1, grid[0]), np.clip(width_B, 1, grid[1])


def summed_area(mask_BT: Bools, grid: tuple[int, int]) -> Counts:
    """Summed-area table int16|int32 [B, H+1, W+1] (Crow 1984): four look-ups count the patches of any rectangle."""
    kind = np.int16 if mask_BT.shape[1] < 2**15 else np.int32
    table = np.zeros((mask_BT.shape[0], grid[0] + 1, grid[1] + 1), dtype=kind)
    inner = table[:, 1:, 1:]
    inner[...] = mask_BT.reshape(-1, *grid)
    # Running sums by whole rows and columns: np.cumsum over axes this short is several times slower.
    for i in range(1, grid[0]):
        inner[:, i] += inner[:, i - 1]
    for j in range(1, grid[1]):
        inner[:, :, j] += inner[:, :, j - 1]
    return table


def place(
    keys_B: Keys,
    blocks: int,
    height_B: Ints,
    width_B: Ints,
    need_B: Ints,
    counts_BHW: Counts | None,
    grid: tuple[int, int],
) -> tuple[Blocks, Ints]:
    """M blocks of one size an image, [B, M], and how many patches the worst of them lacks, int64 [B].

    `counts_BHW` counts the patches that may be kept (None: all of them). A block's first place is uniform over all; if
    it keeps too few patches there, its second one is uniform over all places that keep enough. That is the limit of
    drawing again and again, without the draws. Block m uses draws m, M + m and 2 * M + m: no block's place depends on
    whether another one moved.
    """
    block_M = np.arange(blocks)
    height_BM, width_BM = (np.repeat(side_B[:, None], blocks, axis=1) for side_B in (height_B, width_B))
    top_BM = (uniforms(keys_B[:, None], block_M) * (grid[0] - height_BM + 1)).astype(np.int64)
    left_BM = (uniforms(keys_B[:, None], blocks + block_M) * (grid[1] - width_BM + 1)).astype(np.int64)
    found = Blocks(top_BM, left_BM, height_BM, width_BM)
    if counts_BHW is None:
        return found, np.zeros(len(keys_B), dtype=np.int64)
    image_B1 = np.arange(len(keys_B))[:, None]
    missing_BM = need_B[:, None] - _count(counts_BHW, image_B1, *found)
    again = np.flatnonzero((missing_BM > 0).any(axis=1))
    if again.size:
        size_need = (height_B[again], width_B[again], need_B[again])
        top_bM, left_bM, missing_b = _second_place(keys_B[again], blocks, *size_need, counts_BHW[again], grid)
        moved_bM = missing_BM[again] > 0
        top_BM[again] = np.where(moved_bM, top_bM, top_BM[again])
        left_BM[again] = np.where(moved_bM, left_bM, left_BM[again])
        missing_BM[again] = missing_b[:, None]
    return found, np.maximum(missing_BM.max(axis=1), 0)


def _second_place(
    keys_b: Keys,
    blocks: int,
    height_b: Ints,
    width_b: Ints,
    need_b: Ints,
    counts_bHW: Counts,
    grid: tuple[int, int],
) -> tuple[Ints, Ints, Ints]:
    """Top and left [b, M], uniform over the places that keep enough patches, or the most where none does; and what a
    block lacks there, [b].
    """
    top_P, left_P = (part.reshape(-1) for part in np.indices(grid))
    fits_bP = (top_P <= grid[0] - height_b[:, None]) & (left_P <= grid[1] - width_b[:, None])
    image_n, place_n = np.nonzero(fits_bP)
    kept_bP = np.full(fits_bP.shape, -1, dtype=counts_bHW.dtype)
    kept_bP[fits_bP] = _count(counts_bHW, image_n, top_P[place_n], left_P[place_n], height_b[image_n], width_b[image_n])
    most_b = kept_bP.max(axis=1)
    good_bP = kept_bP >= np.minimum(need_b, most_b)[:, None]
    number_b = np.count_nonzero(good_bP, axis=1)
    rank_bM = (uniforms(keys_b[:, None], 2 * blocks + np.arange(blocks)) * number_b[:, None]).astype(np.int64)
    chosen_bM = np.flatnonzero(good_bP)[(np.cumsum(number_b) - number_b)[:, None] + rank_bM] % good_bP.shape[1]
    return top_P[chosen_bM], left_P[chosen_bM], need_b - most_b


def _count(counts_BHW: Counts, image_n: Ints, top_n: Ints, left_n: Ints, height_n: Ints, width_n: Ints) -> Counts:
    """Patches that may be kept in each rectangle, [n] or any shape the arguments broadcast to."""
    rows, columns = counts_BHW.shape[1:]
    flat = counts_BHW.reshape(-1)
    corner_n = (image_n * rows + top_n) * columns + left_n
    below_n = corner_n + height_n * columns
    inside_n: Counts = flat[below_n + width_n] - flat[below_n] - flat[corner_n + width_n] + flat[corner_n]
    return inside_n


def cover(blocks: Blocks, m: int, grid: tuple[int, int]) -> Bools:
    """Patches of block m of each image, bool [B, H, W]."""
    row_H, column_W = np.arange(grid[0]), np.arange(grid[1])
    top, left = blocks.top[:, m, None], blocks.left[:, m, None]
    rows_BH = (row_H >= top) & (row_H < top + blocks.height[:, m, None])
    columns_BW = (column_W >= left) & (column_W < left + blocks.width[:, m, None])
    return rows_BH[:, :, None] & columns_BW[:, None, :]


def union(blocks: Blocks, grid: tuple[int, int]) -> Bools:
    """Patches in any block of an image, bool [B, T]."""
    covered = cover(blocks, 0, grid)
    for m in range(1, blocks.top.shape[1]):
        covered |= cover(blocks, m, grid)
    return covered.reshape(len(covered), grid[0] * grid[1])
