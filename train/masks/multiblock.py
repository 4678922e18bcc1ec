"""Draw multiblock masks: one context block and M target blocks per image.

A mask is a pure function of (seed, step, row). The rules are I-JEPA's (arXiv 2301.08243; facts about its code are in
docs/method.md), with these differences:

* Positions are drawn end-inclusive. The reference's draw leaves out the last one, so the grid's last row and column are
  never in any block; here every patch is reachable. A block may therefore span the whole grid: the reference must keep
  it one patch short, or its draw would be empty.
* Nothing is cut to the shortest mask of the batch: masks are padded and carry a validity mask.
* Block sizes are drawn for each image; the reference shares one size over the batch, which would make an image's mask
  depend on its neighbours. As there, the M targets of an image share one size.
* A block that keeps too few patches is moved to a position drawn from all that keep enough, in one draw; the reference
  draws blindly up to 20 times.
* Scale and aspect are two draws. The reference's code uses one for both, so its small blocks are always wide and its
  large ones always tall.

With `regions` (USrc-JEPA, arXiv 2602.19322) a patch counts only if it touches the scan: a block is accepted when at
least tau of its patches count, and is intersected with them. A block of fewer than tau patches, which can only happen
on small grids, is accepted when it lies entirely inside the scan.

Shape suffixes: B images, T patches, N context length, M target blocks, P target length, K and H as in `patch_sets.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.train.counter import absorb, stream, uniforms
from usjepa.train.masks.blocks import Blocks, BlockSizes, draw_sizes, place_blocks
from usjepa.train.masks.patch_sets import pack, rectangles, sizes, take, unpack, whole

if TYPE_CHECKING:
    from usjepa.cache.recipes.train import MaskSettings
    from usjepa.train.masks.blocks import Bools, Ints, Keys
    from usjepa.train.masks.patch_sets import Sets

_SIZES, _TARGETS, _CONTEXT = range(3)
"""Sub-streams of one attempt at one image."""
_ATTEMPTS_AT_ONCE = 2048
"""Approximate number of attempts computed together when images are drawn again."""


@dataclass(frozen=True)
class Masks:
    """Patch indices of a batch, ascending, row-major over the grid, padded with 0 where the validity is False.

    N is the longest context and P the longest target block of the batch. Leave out images whose `usable_B` is False
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
    """bool [B]; False where the region was too small: such images are reported and not trained on."""

    def take(self, images: Ints) -> Masks:
        """Return the masks of some images, padded to their own longest: the others leave no trace."""
        context_valid, targets_valid = self.context_valid_BN[images], self.targets_valid_BMP[images]
        N = max(1, int(context_valid.sum(-1).max(initial=0)))
        P = max(1, int(targets_valid.sum(-1).max(initial=0)))
        return Masks(
            self.context_BN[images, :N],
            context_valid[:, :N],
            self.targets_BMP[images, :, :P],
            targets_valid[:, :, :P],
            self.usable_B[images],
        )


class _Draw(NamedTuple):
    """One attempt at the masks of some images; images are the last axis."""

    targets: Blocks  # [M, B]
    kept_KHB: Sets  # the context's patches: in its block, inside the region and in no target
    missing_B: Ints  # patches that the worst block lacks of what the settings require; 0 = accepted

    def put(self, at: Ints, other: _Draw) -> None:
        self.targets.put(at, other.targets)
        self.kept_KHB[:, :, at] = other.kept_KHB
        self.missing_B[at] = other.missing_B

    def take(self, at: Ints) -> _Draw:
        return _Draw(self.targets.take(at), take(self.kept_KHB, at), self.missing_B[at])


def sample_masks(
    seed: int,
    step: int,
    rows_B: Ints,
    grid: tuple[int, int],
    settings: MaskSettings,
    validity_BT: Bools | None = None,
) -> Masks:
    """Return the masks of some rows at a step; the mask of a row does not depend on the other rows.

    Where no position suffices for a block, or no context is left beside the targets, the whole image is drawn again,
    sizes included, up to `settings.tries` times; then the draw that lacks the fewest patches is kept. Such an image is
    usable only without regions, and only if its context is not empty.

    Args:
        seed: of the run.
        step: number of the step: another one gives other masks of the same rows.
        rows_B: int64 [B], row numbers.
        grid: patches down and across.
        settings: the `train.masks` section.
        validity_BT: bool [B, T], the patch touches the scan. Required with `settings.regions`, ignored without.

    Raises:
        UsageError: the validity is missing or has another shape.
    """
    rows_B = np.asarray(rows_B, dtype=np.int64)
    valid_BT = _validity(validity_BT, rows_B.size, grid, settings)
    region_KHB = None if valid_BT is None else pack(valid_BT, grid)
    keys_B = stream("masks", seed, step, rows_B)
    draw = _attempt(absorb(keys_B, 0), region_KHB, grid, settings)
    if draw.missing_B.any():
        _draw_anew(draw, keys_B, region_KHB, grid, settings)
    return _pack(draw, valid_BT, grid, settings)


def _draw_anew(
    draw: _Draw, keys_B: Keys, region_KHB: Sets | None, grid: tuple[int, int], settings: MaskSettings
) -> None:
    """Give each image that lacks patches its first draw that suffices, or the one that lacks the fewest.

    Several draws are computed at once, more of them the fewer images are left, because a draw of a few images costs
    little more than its function calls. Those beyond the first that suffices are thrown away.
    """
    hopeful_B = _can_succeed(region_KHB, keys_B.size, grid, settings)
    first = 1
    while first < settings.tries:
        again = np.flatnonzero((draw.missing_B > 0) & hopeful_B)
        if not again.size:
            return
        count = min(settings.tries - first, max(1, _ATTEMPTS_AT_ONCE // again.size))
        attempt_a1 = np.arange(first, first + count)[:, None]
        keys_ab = absorb(keys_B[again], attempt_a1)
        image_ab = np.broadcast_to(again, keys_ab.shape)
        region = None if region_KHB is None else take(region_KHB, image_ab.reshape(-1))
        new = _attempt(keys_ab.reshape(-1), region, grid, settings)
        best_b = new.missing_B.reshape(count, -1).argmin(axis=0) * again.size + np.arange(again.size)
        better_b = new.missing_B[best_b] < draw.missing_B[again]
        draw.put(again[better_b], new.take(best_b[better_b]))
        first += count


def _validity(given_BT: Bools | None, images: int, grid: tuple[int, int], settings: MaskSettings) -> Bools | None:
    """Return the checked validity that the settings require; None where every patch counts."""
    if not settings.regions:
        return None
    if given_BT is None:
        raise UsageError(
            "Masks with regions need the validity of every patch: pass validity_BT, or set regions: false."
        )
    if given_BT.shape != (images, grid[0] * grid[1]):
        raise UsageError(
            f"validity_BT has shape {given_BT.shape}, but {images} rows on a {grid[0]}x{grid[1]} grid need "
            f"{(images, grid[0] * grid[1])}: pass the validity of these rows, derived with the model's patch size."
        )
    return np.asarray(given_BT, dtype=np.bool_)


def _can_succeed(region_KHB: Sets | None, images: int, grid: tuple[int, int], settings: MaskSettings) -> Bools:
    """Return whether the region has room for tau context patches beside the smallest target, bool [B]."""
    smallest = max(1, int(grid[0] * grid[1] * settings.target_scale[0] / 2))
    needed = min(settings.min_patches, smallest) + settings.min_patches
    if region_KHB is None:
        return np.full(images, grid[0] * grid[1] >= needed)
    return sizes(region_KHB) >= needed


def _attempt(keys_B: Keys, region_KHB: Sets | None, grid: tuple[int, int], settings: MaskSettings) -> _Draw:
    """Draw sizes, then targets, then the context beside them; take the best positions if none suffices."""
    tau = settings.min_patches
    sizes_B, targets_B, context_B = (absorb(keys_B, part) for part in (_SIZES, _TARGETS, _CONTEXT))
    height_B, width_B = draw_sizes(
        uniforms(sizes_B, 0), uniforms(sizes_B, 1), settings.target_scale, settings.target_aspect, grid
    )
    size = BlockSizes(settings.target_blocks, height_B, width_B, np.minimum(tau, height_B * width_B))
    # With regions an image that lacks patches is not trained on: the positions of its blocks do not matter.
    give_up = region_KHB is not None
    targets, lacking_B = place_blocks(targets_B, size, region_KHB, grid, give_up)

    taken_KHB = np.bitwise_or.reduce(rectangles(*targets, grid), axis=2)
    free_KHB = (whole(grid) if region_KHB is None else region_KHB) & ~taken_KHB
    height_B, width_B = draw_sizes(uniforms(sizes_B, 2), None, settings.context_scale, (1.0, 1.0), grid)
    size = BlockSizes(1, height_B, width_B, np.full_like(height_B, tau))
    context, missing_B = place_blocks(context_B, size, free_KHB, grid, give_up)
    kept_KHB = free_KHB & rectangles(*Blocks(*(part[0] for part in context)), grid)
    return _Draw(targets, kept_KHB, np.maximum(missing_B, lacking_B))


def _pack(draw: _Draw, valid_BT: Bools | None, grid: tuple[int, int], settings: MaskSettings) -> Masks:
    """Turn blocks into padded indices, and decide which images are usable."""
    kept_BT = unpack(draw.kept_KHB, grid)
    patches_BT = np.broadcast_to(np.arange(kept_BT.shape[1]), kept_BT.shape)
    context_BN, context_valid_BN = _pad(patches_BT, kept_BT)
    targets_BMP, targets_valid_BMP = _target_patches(draw.targets, valid_BT, grid)
    usable_B = draw.missing_B == 0 if settings.regions else context_valid_BN[:, 0].copy()
    return Masks(context_BN, context_valid_BN, targets_BMP, targets_valid_BMP, usable_B)


def _target_patches(blocks: Blocks, valid_BT: Bools | None, grid: tuple[int, int]) -> tuple[Ints, Bools]:
    """Return the padded patch indices of every target block and their validity, [B, M, P] each.

    Patch p of a block of width w lies p // w rows and p % w columns from its corner, p + p // w * (W - w) patches on:
    enumerating the largest block's patches is several times less work than searching the whole grid for each block.
    Blocks of an image share their size, and few widths occur, so the distances come from a table.
    """
    height_B, width_B = blocks.height[0], blocks.width[0]
    area_B = height_B * width_B
    p_P = np.arange(int(area_B.max(initial=1)))
    width_w1 = np.arange(1, grid[1] + 1)[:, None]
    away_BP = (p_P + p_P // width_w1 * (grid[1] - width_w1))[width_B - 1]
    inside_BP = p_P < area_B[:, None]
    corner_BM = (blocks.top * grid[1] + blocks.left).T
    patches_BMP = (corner_BM[:, :, None] + away_BP[:, None]) * inside_BP[:, None]
    inside_BMP = np.repeat(inside_BP[:, None], corner_BM.shape[1], axis=1)
    if valid_BT is None:
        return patches_BMP, inside_BMP
    start_B11 = (np.arange(len(valid_BT)) * valid_BT.shape[1])[:, None, None]
    return _pad(patches_BMP, inside_BMP & valid_BT.reshape(-1)[patches_BMP + start_B11])


def _pad(values: Ints, kept: Bools) -> tuple[Ints, Bools]:
    """Move the kept values of the last axis to its front and pad with 0 to the longest; also return their validity.

    Both boolean selections run in row-major order, so the k-th kept value lands in the k-th valid place.
    """
    counts = np.count_nonzero(kept, axis=-1)
    valid = np.arange(max(1, int(counts.max(initial=0)))) < counts[..., None]
    padded = np.zeros(valid.shape, dtype=np.int64)
    padded[valid] = values[kept]
    return padded, valid
