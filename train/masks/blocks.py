"""Draw the sizes and positions of rectangular blocks of patches, for many images at once.

Everything is vectorised over images, and every draw comes from the image's own stream, so the blocks of an image do not
depend on the other images. `multiblock.py` combines the blocks into masks.

Shape suffixes: B images, b some of them, g those of one block height, M blocks, K and H as in `patch_sets.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from usjepa.train.counter import uniforms
from usjepa.train.masks.patch_sets import Sets, rectangles, sizes, sizes_within, take

if TYPE_CHECKING:
    from collections.abc import Iterator

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]


class BlockSizes(NamedTuple):
    """The blocks that each image gets, all of one size: int64 [B] each."""

    blocks: int
    """M, blocks per image."""
    height_B: Ints
    width_B: Ints
    need_B: Ints
    """Patches that each block must keep."""

    def take(self, at: Ints) -> BlockSizes:
        """Return the sizes of the images `at`."""
        return BlockSizes(self.blocks, self.height_B[at], self.width_B[at], self.need_B[at])


class Blocks(NamedTuple):
    """Rectangles of patches: four int64 arrays of one shape, images last."""

    top: Ints
    left: Ints
    height: Ints
    width: Ints

    def put(self, at: Ints, other: Blocks) -> None:
        """Overwrite the blocks of the images `at` in place."""
        for mine, theirs in zip(self, other, strict=True):
            mine[:, at] = theirs

    def take(self, at: Ints) -> Blocks:
        """Return the blocks of the images `at`."""
        return Blocks(*(np.take(part, at, axis=1) for part in self))


def draw_sizes(
    scale_B: _Floats,
    aspect_B: _Floats | None,
    scale: tuple[float, float],
    aspect: tuple[float, float],
    grid: tuple[int, int],
) -> tuple[Ints, Ints]:
    """Return block heights and widths in patches, int64 [B] each.

    The area is floor(T * scale), the height round(sqrt(area * aspect)) and the width round(sqrt(area / aspect)), both
    at least 1 and at most the grid's. As in I-JEPA's code, the aspect is uniform itself, not its logarithm.

    Args:
        scale_B: float64 [B] in [0, 1), places each image's area within `scale`.
        aspect_B: float64 [B] in [0, 1), places each image's aspect within `aspect`; None: an aspect of 1.
        scale: smallest and largest area, as a share of the grid.
        aspect: smallest and largest height over width.
        grid: patches down and across.
    """
    area_B = np.floor(grid[0] * grid[1] * (scale[0] + scale_B * (scale[1] - scale[0])))
    ratio_B = np.ones_like(area_B) if aspect_B is None else aspect[0] + aspect_B * (aspect[1] - aspect[0])
    height_B = np.rint(np.sqrt(area_B * ratio_B)).astype(np.int64)
    width_B = np.rint(np.sqrt(area_B / ratio_B)).astype(np.int64)
    return np.clip(height_B, 1, grid[0]), np.clip(width_B, 1, grid[1])


def place_blocks(
    keys_B: Keys, size: BlockSizes, kept_KHB: Sets | None, grid: tuple[int, int], give_up: bool = False
) -> tuple[Blocks, Ints]:
    """Return M blocks per image, [M, B], and the patches that the worst of them lacks, int64 [B].

    The first position of a block is uniform over all. If it keeps too few patches there, the second is uniform over all
    positions that keep enough: the limit of drawing again and again, in one draw. Block m uses draws m, M + m and
    2 * M + m, so its position does not depend on whether another block moved.

    Args:
        keys_B: uint64 [B], the stream of each image.
        size: number and size of the blocks of each image.
        kept_KHB: patches that may be kept; None: all of them.
        grid: patches down and across.
        give_up: leave an image that has too few patches anywhere at its first position.
    """
    blocks, height_B, width_B, need_B = size
    block_M1 = np.arange(blocks)[:, None]
    top_MB = (uniforms(keys_B, block_M1) * (grid[0] - height_B + 1)).astype(np.int64)
    left_MB = (uniforms(keys_B, blocks + block_M1) * (grid[1] - width_B + 1)).astype(np.int64)
    found = Blocks(top_MB, left_MB, *(np.repeat(side_B[None], blocks, axis=0) for side_B in (height_B, width_B)))
    if kept_KHB is None:
        return found, np.zeros(len(keys_B), dtype=np.int64)
    missing_MB = need_B - sizes(rectangles(top_MB, left_MB, height_B[None], width_B[None], grid) & kept_KHB[:, :, None])
    lacking_B = (missing_MB > 0).any(axis=0)
    if give_up:
        lacking_B &= sizes(kept_KHB) >= need_B
    again = np.flatnonzero(lacking_B)
    if again.size:
        draw_Mb = uniforms(keys_B[again], 2 * blocks + block_M1)
        top_Mb, left_Mb, missing_b = _second_position(draw_Mb, size.take(again), take(kept_KHB, again), grid)
        moved_Mb = missing_MB[:, again] > 0
        top_MB[:, again] = np.where(moved_Mb, top_Mb, top_MB[:, again])
        left_MB[:, again] = np.where(moved_Mb, left_Mb, left_MB[:, again])
        missing_MB[:, again] = missing_b
    return found, np.maximum(missing_MB.max(axis=0), 0)


def _second_position(
    draw_Mb: _Floats, size: BlockSizes, kept_KHb: Sets, grid: tuple[int, int]
) -> tuple[Ints, Ints, Ints]:
    """Return top and left [M, b] at positions that keep enough patches, and the patches a block lacks there, [b].

    Where no position keeps enough, those that keep the most take their place. Positions are counted for all images of
    one block height at once.
    """
    _, height_b, width_b, need_b = size
    top_Mb, left_Mb = np.empty((2, *draw_Mb.shape), dtype=np.int64)
    missing_b = np.empty_like(need_b)
    for at in _grouped(height_b):
        kept_DAg, fits_Ag = sizes_within(take(kept_KHb, at), int(height_b[at[0]]), width_b[at], grid)
        kept_DAg *= fits_Ag
        most_g = kept_DAg.reshape(-1, len(at)).max(axis=0)
        enough_g = np.minimum(need_b[at], most_g).astype(kept_DAg.dtype)
        good_DAg = kept_DAg >= enough_g
        good_DAg &= fits_Ag
        good_gP = np.ascontiguousarray(good_DAg.reshape(-1, len(at)).T)
        good_n = np.flatnonzero(good_gP)
        first_g = np.searchsorted(good_n, np.arange(len(at)) * good_gP.shape[1])
        number_g = np.diff(first_g, append=len(good_n))
        rank_Mg = (np.take(draw_Mb, at, axis=1) * number_g).astype(np.int64)
        chosen_Mg = good_n[first_g + rank_Mg] % good_gP.shape[1]
        top_Mb[:, at], left_Mb[:, at] = np.divmod(chosen_Mg, len(fits_Ag))
        missing_b[at] = need_b[at] - most_g
    return top_Mb, left_Mb, missing_b


def _grouped(code_b: Ints) -> Iterator[Ints]:
    """Yield the indices of the images that share a code, code by code."""
    order = np.argsort(code_b, kind="stable")
    starts = np.flatnonzero(np.diff(code_b[order])) + 1
    yield from np.split(order, starts)
