"""Multiblock masks: one context block and M target blocks an image, a pure function of (seed, step, row).

The rules are I-JEPA's (arXiv 2301.08243; facts of its code in docs/method.md), with these differences:

* Positions are drawn end-inclusive. The reference's draw leaves out the last one, so the grid's last row and column are
  never in any block; here every patch is reachable. A block may therefore span the whole grid: the reference must keep
  it one patch short, or its draw would be empty.
* Nothing is cut to the shortest mask of the batch: masks are padded and carry a validity mask.
* Block sizes are drawn for each image; the reference shares one size over the batch, which would make an image's mask
  depend on its neighbours. As there, the M targets of an image share one size.
* A block that keeps too few patches is moved to a place drawn from all that keep enough, in one draw; the reference
  draws blindly up to 20 times.
* Scale and aspect are two draws. The reference's code uses one for both, so its small blocks are always wide and its
  large ones always tall.

With `regions` (USrc-JEPA, arXiv 2602.19322) a patch counts only if it touches the scan: a block is accepted when at
least tau of its patches count, and is intersected with them. A block of fewer than tau patches, which can only happen
on small grids, is accepted when it lies whole inside the scan.
"""

# ruff: noqa: N815 - shape suffixes in the fields' names

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from usjepa.cache.errors import UsageError
from usjepa.train.counter import absorb, stream, uniforms

if TYPE_CHECKING:
    from usjepa.cache.settings import MaskSettings

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Counts = NDArray[np.int16] | NDArray[np.int32]
Keys = NDArray[np.uint64]

_SIZES, _TARGETS, _CONTEXT = range(3)
"""Sub-streams of one attempt at one image."""


@dataclass(frozen=True)
class Masks:
    """Patch indices of a batch, ascending, row-major over the grid, padded with 0 where the validity is False.

    N is the longest context and P the longest target block of this batch. Leave out images whose `usable_B` is False
    before the student runs: their context may be empty, and attention over nothing is NaN.
    """

    context_BN: Ints
    """int64 [B, N]"""
    context_valid_BN: Bools
    """bool [B, N]"""
    targets_BMP: Ints
    """int64 [B, M, P]"""
    targets_valid_BMP: Bools
    """bool [B, M, P]"""
    usable_B: Bools
    """bool [B]; False where the region was too small: reported, not trained on."""


class _Blocks(NamedTuple):
    """Rectangles of patches: four int64 arrays of one shape."""

    top: Ints
    left: Ints
    height: Ints
    width: Ints

    def put(self, at: Ints, other: _Blocks) -> None:
        for mine, theirs in zip(self, other, strict=True):
            mine[at] = theirs


class _Draw(NamedTuple):
    """One attempt at the masks of some images."""

    targets: _Blocks  # [B, M]
    context: _Blocks  # [B, 1]
    free_BT: Bools  # inside the region and in no target
    missing_B: Ints  # patches short of what the settings ask for, of the worst block; 0 = accepted

    def put(self, at: Ints, other: _Draw) -> None:
        self.targets.put(at, other.targets)
        self.context.put(at, other.context)
        self.free_BT[at] = other.free_BT
        self.missing_B[at] = other.missing_B

    def take(self, at: Bools) -> _Draw:
        targets, context = (_Blocks(*(part[at] for part in blocks)) for blocks in (self.targets, self.context))
        return _Draw(targets, context, self.free_BT[at], self.missing_B[at])


def sample_masks(
    seed: int,
    step: int,
    rows_B: Ints,
    grid: tuple[int, int],
    settings: MaskSettings,
    validity_BT: Bools | None = None,
) -> Masks:
    """Masks of the rows `rows_B` (int64 [B]) at a step; the mask of a row doesn't depend on which others are there.

    `validity_BT` (bool [B, T]: patch touches the scan) is needed with `settings.regions` and ignored without. Where no
    place suffices for a block, or no context is left beside the targets, the image is drawn anew as a whole, sizes
    included, up to `settings.tries` draws; then the one that lacks the fewest patches stands. Such an image is usable
    only without regions, and only if its context is not empty.
    """
    rows_B = np.asarray(rows_B, dtype=np.int64)
    valid_BT = _validity(validity_BT, rows_B.size, grid, settings)
    keys_B = stream("masks", seed, step, rows_B)
    draw = _attempt(absorb(keys_B, 0), valid_BT, grid, settings)
    missing_B = draw.missing_B
    if missing_B.any():
        hopeful_B = _hopeful(valid_BT, rows_B.size, grid, settings)
        for attempt in range(1, settings.tries):
            again = np.flatnonzero((missing_B > 0) & hopeful_B)
            if not again.size:
                break
            new = _attempt(absorb(keys_B[again], attempt), _rows_of(valid_BT, again), grid, settings)
            better = new.missing_B < missing_B[again]
            draw.put(again[better], new.take(better))
    return _pack(draw, valid_BT, grid, settings)


def _validity(given_BT: Bools | None, images: int, grid: tuple[int, int], settings: MaskSettings) -> Bools | None:
    """The validity that the settings call for, checked; None where every patch counts."""
    if not settings.regions:
        return None
    if given_BT is None:
        raise UsageError("masks with regions need the validity of every patch: pass validity_BT, or set regions: false")
    if given_BT.shape != (images, grid[0] * grid[1]):
        raise UsageError(
            f"validity_BT is {given_BT.shape}, and {images} rows on a {grid[0]}x{grid[1]} grid need "
            f"{(images, grid[0] * grid[1])}: pass the validity of these rows, derived with the model's patch size"
        )
    return np.asarray(given_BT, dtype=np.bool_)


def _rows_of(valid_BT: Bools | None, at: Ints) -> Bools | None:
    return None if valid_BT is None else valid_BT[at]


def _hopeful(valid_BT: Bools | None, images: int, grid: tuple[int, int], settings: MaskSettings) -> Bools:
    """bool [B]: a context of tau patches beside the smallest possible target fits in the region at all."""
    smallest = max(1, int(grid[0] * grid[1] * settings.target_scale[0] / 2))
    needed = min(settings.min_patches, smallest) + settings.min_patches
    if valid_BT is None:
        return np.full(images, grid[0] * grid[1] >= needed)
    enough_B: Bools = np.count_nonzero(valid_BT, axis=1) >= needed
    return enough_B


def _attempt(keys_B: Keys, valid_BT: Bools | None, grid: tuple[int, int], settings: MaskSettings) -> _Draw:
    """Sizes, then targets, then the context beside them; the best places if none suffices."""
    tau = settings.min_patches
    sizes_B, targets_B, context_B = (absorb(keys_B, part) for part in (_SIZES, _TARGETS, _CONTEXT))
    height_B, width_B = _sizes(
        uniforms(sizes_B, 0), uniforms(sizes_B, 1), settings.target_scale, settings.target_aspect, grid
    )
    counts_BHW = None if valid_BT is None else _summed_area(valid_BT, grid)
    need_B = np.minimum(tau, height_B * width_B)
    targets, lacking_B = _place(targets_B, settings.target_blocks, height_B, width_B, need_B, counts_BHW, grid)

    free_BT = ~_union(targets, grid)
    if valid_BT is not None:
        free_BT &= valid_BT
    height_B, width_B = _sizes(uniforms(sizes_B, 2), None, settings.context_scale, (1.0, 1.0), grid)
    counts_BHW = _summed_area(free_BT, grid)
    context, missing_B = _place(context_B, 1, height_B, width_B, np.full_like(height_B, tau), counts_BHW, grid)
    return _Draw(targets, context, free_BT, np.maximum(missing_B, lacking_B))


def _sizes(
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


def _summed_area(mask_BT: Bools, grid: tuple[int, int]) -> Counts:
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


def _place(
    keys_B: Keys,
    blocks: int,
    height_B: Ints,
    width_B: Ints,
    need_B: Ints,
    counts_BHW: Counts | None,
    grid: tuple[int, int],
) -> tuple[_Blocks, Ints]:
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
    found = _Blocks(top_BM, left_BM, height_BM, width_BM)
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


def _cover(blocks: _Blocks, m: int, grid: tuple[int, int]) -> Bools:
    """Patches of block m of each image, bool [B, H, W]."""
    row_H, column_W = np.arange(grid[0]), np.arange(grid[1])
    top, left = blocks.top[:, m, None], blocks.left[:, m, None]
    rows_BH = (row_H >= top) & (row_H < top + blocks.height[:, m, None])
    columns_BW = (column_W >= left) & (column_W < left + blocks.width[:, m, None])
    return rows_BH[:, :, None] & columns_BW[:, None, :]


def _union(blocks: _Blocks, grid: tuple[int, int]) -> Bools:
    """Patches in any block of an image, bool [B, T]."""
    covered = _cover(blocks, 0, grid)
    for m in range(1, blocks.top.shape[1]):
        covered |= _cover(blocks, m, grid)
    return covered.reshape(len(covered), grid[0] * grid[1])


def _pack(draw: _Draw, valid_BT: Bools | None, grid: tuple[int, int], settings: MaskSettings) -> Masks:
    """Blocks to padded indices, and the verdict on each image."""
    kept_BT = _cover(draw.context, 0, grid).reshape(draw.free_BT.shape) & draw.free_BT
    patches_BT = np.broadcast_to(np.arange(kept_BT.shape[1]), kept_BT.shape)
    context_BN, context_valid_BN = _pad(patches_BT, kept_BT)
    targets_BMP, targets_valid_BMP = _target_patches(draw.targets, valid_BT, grid)
    usable_B = draw.missing_B == 0 if settings.regions else context_valid_BN[:, 0].copy()
    return Masks(context_BN, context_valid_BN, targets_BMP, targets_valid_BMP, usable_B)


def _target_patches(blocks: _Blocks, valid_BT: Bools | None, grid: tuple[int, int]) -> tuple[Ints, Bools]:
    """Padded patch indices of every target block and their validity, [B, M, P] each.

    Patch p of a block of width w lies at row p // w, column p % w: enumerating at most the largest block's patches is
    several times less work than searching the whole grid for each block.
    """
    area_BM = blocks.height * blocks.width
    p_P = np.arange(int(area_BM.max(initial=1)), dtype=np.int32)
    width_BM1 = blocks.width[:, :, None].astype(np.int32)
    inside_BMP = p_P < area_BM[:, :, None]
    # p // w * W + p % w = p + p // w * (W - w): one division instead of two.
    corner_BM1 = (blocks.top * grid[1] + blocks.left)[:, :, None]
    patches_BMP = corner_BM1 + (p_P + p_P // width_BM1 * (np.int32(grid[1]) - width_BM1))
    patches_BMP *= inside_BMP
    if valid_BT is None:
        return patches_BMP, inside_BMP
    start_B11 = (np.arange(len(valid_BT)) * valid_BT.shape[1])[:, None, None]
    return _pad(patches_BMP, inside_BMP & valid_BT.reshape(-1)[patches_BMP + start_B11])


def _pad(values: Ints, kept: Bools) -> tuple[Ints, Bools]:
    """The kept values of the last axis moved to its front, 0 behind them, and where they are; as long as the longest.

    Both boolean selections run in row-major order, so the k-th kept value lands in the k-th valid place.
    """
    counts = np.count_nonzero(kept, axis=-1)
    valid = np.arange(max(1, int(counts.max(initial=0)))) < counts[..., None]
    padded = np.zeros(valid.shape, dtype=np.int64)
    padded[valid] = values[kept]
    return padded, valid
