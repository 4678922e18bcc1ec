"""Masks against a slow sampler of one image at a time, and against the reference's rules."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.train import MaskSettings
from usjepa.train.masks.multiblock import sample_masks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.train.masks.multiblock import Masks

    Case = tuple[tuple[int, int], MaskSettings, NDArray[np.int64], NDArray[np.bool_]]
    """(grid, recipe, rows, valid patches)"""

GRID = (14, 14)
PAPER = MaskSettings()
REGIONS = MaskSettings(regions=True)


def sector() -> np.ndarray:
    down, across = np.mgrid[:14, :14] / 14
    return (np.hypot(down, across - 0.47) < 0.96) & (np.abs(np.arctan2(across - 0.47, down + 0.14)) < 0.6)


def lengths(masks: Masks) -> dict[str, np.ndarray]:
    """Patches a target block, patches in the union of an image's targets, patches of its context."""
    unions = [np.unique(t[v]).size for t, v in zip(masks.targets_BMP, masks.targets_valid_BMP, strict=True)]
    return {
        "block": masks.targets_valid_BMP.sum(2).reshape(-1),
        "union": np.array(unions),
        "context": masks.context_valid_BN.sum(1),
    }


# -- samplers of one image, written from the rules ---------------------------------------------------------------------


def block(
    rng: np.random.Generator, size: tuple[int, int], last: int, grid: tuple[int, int] = GRID
) -> NDArray[np.bool_]:
    """A rectangle of patches at a random place; last = 1 draws end-inclusive, 0 leaves the last place out."""
    top, left = (rng.integers(0, extent - side + last) for extent, side in zip(grid, size, strict=True))
    patches = np.zeros(grid, bool)
    patches[top : top + size[0], left : left + size[1]] = True
    return patches


def side_lengths(
    rng: np.random.Generator, scale: tuple[float, float], aspect: tuple[float, float], limit: int, shared: bool
) -> tuple[int, int]:
    first = rng.random()
    second = first if shared else rng.random()
    area = int(14 * 14 * (scale[0] + first * (scale[1] - scale[0])))
    ratio = aspect[0] + second * (aspect[1] - aspect[0])
    return min(round((area * ratio) ** 0.5), limit), min(round((area / ratio) ** 0.5), limit)


def slow_image(
    rng: np.random.Generator,
    valid: NDArray[np.bool_],
    recipe: MaskSettings,
    last: int = 1,
    limit: int = 14,
    shared: bool = False,
) -> tuple[list[NDArray[np.bool_]], NDArray[np.bool_]]:
    """Blocks drawn one by one until each keeps enough patches: (list of targets, context), bool [14, 14] each."""

    def until_enough(size: tuple[int, int], allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        while True:
            kept = block(rng, size, last) & allowed
            if kept.sum() >= recipe.min_patches:
                return kept

    size = side_lengths(rng, recipe.target_scale, recipe.target_aspect, limit, shared)
    targets = [until_enough(size, valid) for _ in range(recipe.target_blocks)]
    size = side_lengths(rng, recipe.context_scale, (1.0, 1.0), limit, shared)
    return targets, until_enough(size, valid & ~np.any(targets, axis=0))


def slow_lengths(images: int, valid: NDArray[np.bool_], recipe: MaskSettings, **rules: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    drawn = [slow_image(rng, valid, recipe, **rules) for _ in range(images)]
    return {
        "block": np.array([t.sum() for targets, _ in drawn for t in targets]),
        "union": np.array([np.any(targets, axis=0).sum() for targets, _ in drawn]),
        "context": np.array([context.sum() for _, context in drawn]),
    }


def distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Kolmogorov and Smirnov's: the largest gap between two empirical distribution functions."""
    at = np.union1d(a, b)
    gaps = (np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (a, b))
    return float(np.abs(np.subtract(*gaps)).max())


# -- distributions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "valid"),
    [
        pytest.param(PAPER, np.ones(GRID, bool), id="us-jepa"),
        pytest.param(REGIONS, sector(), id="usrc-jepa in a sector"),
        pytest.param(MaskSettings(target_scale=(0.15, 0.2)), np.ones(GRID, bool), id="i-jepa scales"),
        pytest.param(MaskSettings(regions=True, context_scale=(0.3, 0.5)), sector(), id="small context"),
    ],
)
def test_sizes_unions_and_contexts_are_distributed_as_in_a_sampler_of_one_image(
    recipe: MaskSettings, valid: NDArray[np.bool_]
) -> None:
    images = 20_000
    validity = np.tile(valid.reshape(1, -1), (images, 1)) if recipe.regions else None
    fast = lengths(sample_masks(0, 0, np.arange(images), GRID, recipe, validity))
    slow = slow_lengths(2500, valid, recipe)
    for name, drawn in slow.items():
        # 2.23 is the 1e-4 quantile; the blocks of one image share their size, so images are counted, not blocks
        limit = 2.23 * np.sqrt(1 / images + 1 / 2500)
        assert distance(fast[name], drawn) < limit, name


def test_us_jepas_scales_give_19_patches_a_block_63_targets_and_120_context_patches() -> None:
    got = lengths(sample_masks(0, 0, np.arange(20_000), GRID, PAPER))
    assert got["block"].mean() == pytest.approx(19.1, abs=0.2)
    assert got["union"].mean() == pytest.approx(62.7, abs=0.5)
    assert got["context"].mean() == pytest.approx(119.6, abs=0.7)


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        pytest.param(False, (19.1, 60.8, 108.2), id="separate draws of scale and aspect"),
        pytest.param(True, (18.5, 59.3, 109.7), id="one draw for both as in its code"),
    ],
)
def test_the_references_rules_give_19_61_108_and_never_reach_the_last_row_and_column(
    shared: bool, expected: tuple[float, float, float]
) -> None:
    rules: dict[str, Any] = {"last": 0, "limit": 13, "shared": shared}
    got = slow_lengths(2500, np.ones(GRID, bool), PAPER, **rules)
    assert (got["block"].mean(), got["union"].mean(), got["context"].mean()) == pytest.approx(expected, abs=0.8)
    rng = np.random.default_rng(0)
    seen = np.zeros(GRID, int)
    for _ in range(500):
        targets, context = slow_image(rng, np.ones(GRID, bool), PAPER, **rules)
        seen += np.any(targets, axis=0) | context
    assert not seen[-1].any()
    assert not seen[:, -1].any()
    assert seen[:-1, :-1].all()


def test_every_patch_is_reached_by_targets_and_by_contexts() -> None:
    masks = sample_masks(0, 0, np.arange(4000), GRID, PAPER)
    for indices, valid in (
        (masks.targets_BMP, masks.targets_valid_BMP),
        (masks.context_BN, masks.context_valid_BN),
    ):
        counts = np.bincount(indices[valid], minlength=196).reshape(GRID)
        assert counts.min() > 0
        mirrored = counts[::-1, ::-1]
        assert np.abs(counts - mirrored).max() / counts.mean() < 0.15  # no side is favoured


def test_positions_are_uniform_over_all_places_that_keep_enough() -> None:
    valid = sector()
    recipe = MaskSettings(regions=True, target_blocks=1, target_scale=(0.125, 0.125), target_aspect=(1.0, 1.0))
    masks = sample_masks(3, 0, np.arange(40_000), GRID, recipe, np.tile(valid.reshape(1, -1), (40_000, 1)))
    places = [
        (top, left) for top in range(10) for left in range(10) if valid[top : top + 5, left : left + 5].sum() >= 10
    ]
    expected: dict[tuple[np.int64, ...], int] = {}
    for top, left in places:
        patches = np.zeros(GRID, bool)
        patches[top : top + 5, left : left + 5] = True
        expected[tuple(np.flatnonzero(patches & valid))] = expected.get(tuple(np.flatnonzero(patches & valid)), 0) + 1
    drawn: dict[tuple[np.int64, ...], int] = {}
    for indices, kept in zip(masks.targets_BMP[:, 0], masks.targets_valid_BMP[:, 0], strict=True):
        key = tuple(indices[kept])
        drawn[key] = drawn.get(key, 0) + 1
    assert set(drawn) == set(expected)
    ratio = np.array([drawn[key] / (expected[key] * 40_000 / len(places)) for key in expected])
    assert np.abs(ratio - 1).max() < 5 / np.sqrt(40_000 / len(places))


def test_size_and_shape_of_blocks_are_uncorrelated() -> None:
    masks = sample_masks(0, 0, np.arange(5000), GRID, MaskSettings(target_blocks=1, target_scale=(0.1, 0.5)))
    first = masks.targets_BMP[:, 0]
    last = (first * masks.targets_valid_BMP[:, 0]).max(1)
    height = last // 14 - first[:, 0] // 14 + 1
    width = last % 14 - first[:, 0] % 14 + 1
    correlation = np.corrcoef(np.log(height * width), np.log(height / width))[0, 1]
    assert abs(correlation) < 0.1


# -- purity ------------------------------------------------------------------------------------------------------------


def test_the_mask_of_a_row_does_not_depend_on_the_batch_it_is_in() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 10**7, 300)
    centre, radius = rng.uniform(3, 10, (2, 300, 1, 1)), rng.uniform(1.5, 6, (300, 1, 1))
    down, across = np.mgrid[:14, :14]
    valid = (np.hypot(down - centre[0], across - centre[1]) < radius).reshape(300, -1)
    for recipe in (PAPER, REGIONS):
        whole = sample_masks(1, 5, rows, GRID, recipe, valid)
        order = rng.permutation(300)[:40]
        for part in (order, order[:1], order[::-1]):
            few = sample_masks(1, 5, rows[part], GRID, recipe, valid[part])
            np.testing.assert_array_equal(few.usable_B, whole.usable_B[part])
            for i, j in enumerate(part):
                np.testing.assert_array_equal(
                    few.context_BN[i][few.context_valid_BN[i]], whole.context_BN[j][whole.context_valid_BN[j]]
                )
                for m in range(4):
                    np.testing.assert_array_equal(
                        few.targets_BMP[i, m][few.targets_valid_BMP[i, m]],
                        whole.targets_BMP[j, m][whole.targets_valid_BMP[j, m]],
                    )


def test_seed_step_and_row_each_change_the_mask() -> None:
    def digest(seed: int, step: int, row: int) -> bytes:
        masks = sample_masks(seed, step, np.array([row]), GRID, PAPER)
        return masks.targets_BMP.tobytes() + masks.context_BN.tobytes()

    assert len({digest(0, 0, 0), digest(1, 0, 0), digest(0, 1, 0), digest(0, 0, 1), digest(1, 1, 1)}) == 5
    assert digest(0, 1, 2) == digest(0, 1, 2)


def test_masks_of_this_version_are_those_of_the_first() -> None:
    hashed = hashlib.sha256()
    for recipe in (PAPER, REGIONS):
        masks = sample_masks(7, 11, np.arange(64), GRID, recipe, np.tile(sector().reshape(1, -1), (64, 1)))
        for part in (masks.context_BN, masks.context_valid_BN, masks.targets_BMP, masks.targets_valid_BMP):
            hashed.update(str((part.shape, part.dtype)).encode() + part.tobytes())
    # Changes only together with a note in the changelog: a resumed run would go on with other masks.
    assert hashed.hexdigest()[:16] == "1d8f243f3336a4d4"


# -- structure ---------------------------------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn) -> Case:
    grid = (draw(st.integers(2, 20)), draw(st.integers(2, 20)))
    low, high = sorted(draw(st.tuples(st.floats(0.02, 0.6), st.floats(0.02, 0.6))))
    narrow, wide = sorted(draw(st.tuples(st.floats(0.2, 4.0), st.floats(0.2, 4.0))))
    c_low, c_high = sorted(draw(st.tuples(st.floats(0.2, 1.0), st.floats(0.2, 1.0))))
    recipe = MaskSettings(
        target_blocks=draw(st.integers(1, 5)),
        target_scale=(low, high),
        target_aspect=(narrow, wide),
        context_scale=(c_low, c_high),
        min_patches=draw(st.integers(1, 15)),
        regions=draw(st.booleans()),
        tries=draw(st.integers(1, 6)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    images = draw(st.integers(0, 9))
    valid = rng.random((images, grid[0] * grid[1])) < draw(st.sampled_from([0.0, 0.2, 0.7, 1.0]))
    return grid, recipe, rng.integers(0, 2**40, images), valid


@given(cases(), st.integers(0, 2**40))
@settings(max_examples=150)
def test_masks_keep_their_promises_on_any_grid(case: Case, step: int) -> None:
    grid, recipe, rows, valid = case
    masks = sample_masks(0, step, rows, grid, recipe, valid)
    assert masks.context_BN.dtype == masks.targets_BMP.dtype == np.int64
    assert masks.context_valid_BN.dtype == masks.usable_B.dtype == np.bool_
    assert masks.targets_BMP.shape[:2] == (len(rows), recipe.target_blocks)
    assert not masks.context_BN[~masks.context_valid_BN].any()
    assert not masks.targets_BMP[~masks.targets_valid_BMP].any()
    allowed = valid if recipe.regions else np.ones_like(valid)
    for i in range(len(rows)):
        kept = [t[v] for t, v in zip(masks.targets_BMP[i], masks.targets_valid_BMP[i], strict=True)]
        context = masks.context_BN[i][masks.context_valid_BN[i]]
        for patches, flags in zip(
            [*kept, context], [*masks.targets_valid_BMP[i], masks.context_valid_BN[i]], strict=True
        ):
            assert (np.diff(patches) > 0).all()
            assert allowed[i][patches].all()
            assert flags[: len(patches)].all()
        assert not np.isin(context, np.concatenate(kept)).any()
        if recipe.regions and masks.usable_B[i]:
            assert len(context) >= recipe.min_patches
            assert min(map(len, kept)) >= 1
        if not recipe.regions:
            assert masks.usable_B[i] == (len(context) > 0)
            assert len({len(k) for k in kept}) == 1


def test_lengths_are_those_of_the_longest_and_nothing_is_cut() -> None:
    valid = np.tile(sector().reshape(1, -1), (200, 1))
    masks = sample_masks(0, 0, np.arange(200), GRID, REGIONS, valid)
    assert masks.context_valid_BN.sum(1).max() == masks.context_BN.shape[1]
    assert masks.targets_valid_BMP.sum(2).max() == masks.targets_BMP.shape[2]
    assert masks.context_valid_BN.sum(1).min() < masks.context_BN.shape[1]


# -- regions -----------------------------------------------------------------------------------------------------------


def test_usable_images_keep_tau_patches_of_the_region_in_every_block() -> None:
    valid = np.tile(sector().reshape(1, -1), (2000, 1))
    masks = sample_masks(0, 0, np.arange(2000), GRID, REGIONS, valid)
    assert masks.usable_B.all()
    assert masks.targets_valid_BMP.sum(2).min() >= 10
    assert masks.context_valid_BN.sum(1).min() >= 10
    assert masks.targets_valid_BMP.sum(2).min() < 12  # or the edge of the region would never be asked for


def test_images_whose_region_is_too_small_are_reported_and_the_others_are_not() -> None:
    valid = np.zeros((4, 196), bool)
    valid[0] = True
    valid[1, :9] = True  # less than tau
    valid[2, :0] = True  # empty
    valid[3].reshape(GRID)[3:9, 3:9] = True  # 36 patches: room for targets and context
    for seed in range(20):
        masks = sample_masks(seed, 0, np.arange(4), GRID, REGIONS, valid)
        assert masks.usable_B.tolist()[:3] == [True, False, False]
        assert masks.context_valid_BN[2].sum() == 0


def test_an_image_short_of_context_is_drawn_anew_as_a_whole() -> None:
    valid = np.zeros((500, 196), bool)
    valid.reshape(500, *GRID)[:, 3:9, 3:9] = True
    once = sample_masks(0, 0, np.arange(500), GRID, MaskSettings(regions=True, tries=1), valid).usable_B.mean()
    often = sample_masks(0, 0, np.arange(500), GRID, REGIONS, valid).usable_B.mean()
    assert once < 0.5
    assert often > 0.9


def test_blocks_smaller_than_tau_must_lie_whole_inside_the_region() -> None:
    valid = np.zeros((300, 49), bool)
    valid.reshape(300, 7, 7)[:, :, 1:6] = True
    masks = sample_masks(0, 0, np.arange(300), (7, 7), REGIONS, valid)
    assert masks.usable_B.mean() > 0.95
    sizes = masks.targets_valid_BMP[masks.usable_B].sum(2)
    assert sizes.max() < 10
    assert (sizes == sizes[:, :1]).all()


def test_without_regions_the_validity_is_ignored() -> None:
    valid = np.zeros((3, 196), bool)
    with_it = sample_masks(0, 0, np.arange(3), GRID, PAPER, valid)
    without = sample_masks(0, 0, np.arange(3), GRID, PAPER)
    np.testing.assert_array_equal(with_it.context_BN, without.context_BN)
    assert with_it.usable_B.all()


def test_regions_without_validity_or_with_that_of_another_grid_are_refused() -> None:
    with pytest.raises(UsageError, match="need the validity of every patch"):
        sample_masks(0, 0, np.arange(3), GRID, REGIONS)
    with pytest.raises(UsageError, match=r"14x14 grid need \(3, 196\)"):
        sample_masks(0, 0, np.arange(3), GRID, REGIONS, np.ones((3, 49), bool))


def test_a_grid_whose_targets_leave_no_context_is_reported() -> None:
    masks = sample_masks(0, 0, np.arange(50), (2, 2), MaskSettings(target_scale=(1.0, 1.0), target_aspect=(1.0, 1.0)))
    assert not masks.usable_B.any()
    assert masks.context_BN.shape == (50, 1)
