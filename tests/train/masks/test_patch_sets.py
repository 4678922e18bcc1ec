"""Sets of patches as bits of rows, against flags, on grids of one word a row and of several."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from usjepa.train.masks.patch_sets import pack, rectangles, sizes, sizes_within, unpack, whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRIDS = [(14, 14), (3, 5), (2, 16), (4, 17), (5, 32), (3, 40), (2, 64), (3, 65), (2, 130)]


def flags(grid: tuple[int, int], images: int = 7) -> NDArray[np.bool_]:
    return np.random.default_rng(0).random((images, grid[0] * grid[1])) < 0.6


@pytest.mark.parametrize("grid", GRIDS)
def test_flags_come_back_from_bits_and_sizes_count_them(grid: tuple[int, int]) -> None:
    given = flags(grid)
    np.testing.assert_array_equal(unpack(pack(given, grid), grid), given)
    assert sizes(pack(given, grid)).tolist() == given.sum(1).tolist()
    assert unpack(whole(grid), grid).all()
    assert unpack(pack(given, grid) & ~whole(grid), grid).sum() == 0
    assert unpack(pack(given[:0], grid), grid).shape == (0, grid[0] * grid[1])


@pytest.mark.parametrize("grid", GRIDS)
def test_rectangles_hold_the_patches_of_their_rows_and_columns_and_counts_within_agree_at_every_place(
    grid: tuple[int, int],
) -> None:
    given = flags(grid)
    rng = np.random.default_rng(1)
    height, widths = int(rng.integers(1, grid[0] + 1)), rng.integers(1, grid[1] + 1, len(given))
    counts, fits = sizes_within(pack(given, grid), height, widths, grid)
    for image, width in enumerate(widths):
        assert fits[:, image].sum() == grid[1] - width + 1
        for top in range(grid[0] - height + 1):
            for left in range(grid[1] - width + 1):
                one = rectangles(np.array([top]), np.array([left]), np.array([height]), np.array([width]), grid)
                expected = np.zeros(grid, bool)
                expected[top : top + height, left : left + width] = True
                np.testing.assert_array_equal(unpack(one, grid), expected.reshape(1, -1))
                assert counts[top, left, image] == (expected.reshape(-1) & given[image]).sum()
