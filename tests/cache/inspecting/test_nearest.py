"""The neighbours of a patch are the most similar patches of other patients, and survive being packed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.inspecting import nearest as module
from usjepa.cache.inspecting.nearest import NBYTES, NEIGHBOURS, NONE, nearest

if TYPE_CHECKING:
    import pytest

ROWS, TOKENS, AXES = 12, 9, 5
PATIENTS = np.arange(ROWS) // 3


def points(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, TOKENS, AXES)).astype(np.float32)


def best(coordinates: np.ndarray, valid: np.ndarray, row: int, patch: int) -> dict[int, tuple[float, int, int]]:
    """Return patient -> (cosine, row, patch) of the best patch of each other patient, by brute force."""
    found: dict[int, tuple[float, int, int]] = {}
    one = coordinates[row, patch]
    for r in range(ROWS):
        for t in range(TOKENS):
            if PATIENTS[r] == PATIENTS[row] or not valid[r, t]:
                continue
            other = coordinates[r, t]
            cosine = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
            found[PATIENTS[r]] = max(found.get(PATIENTS[r], (-2.0, 0, 0)), (cosine, r, t))
    return found


def test_every_valid_patch_has_the_best_of_each_other_patient_first() -> None:
    coordinates, valid = points(), np.random.default_rng(1).random((ROWS, TOKENS)) > 0.3
    found = nearest(coordinates, valid, PATIENTS)
    for row, patch in zip(*np.nonzero(valid), strict=True):
        wanted = sorted(best(coordinates, valid, row, patch).values(), reverse=True)
        shown = list(zip(found.row_RTN[row, patch].tolist(), found.patch_RTN[row, patch].tolist(), strict=True))
        assert shown[:3] == [(r, t) for _, r, t in wanted]
        np.testing.assert_allclose(found.cosine_RTN[row, patch, :3] / 127, [c for c, _, _ in wanted], atol=0.005)
        assert all(r == NONE or PATIENTS[r] != PATIENTS[row] for r, _ in shown)
        assert len(set(shown)) == NEIGHBOURS


def test_patches_outside_the_region_or_not_finite_are_neither_asked_nor_found() -> None:
    coordinates, valid = points(), np.ones((ROWS, TOKENS), bool)
    valid[:, 4] = False
    coordinates[2, 7] = np.nan
    found = nearest(coordinates, valid, PATIENTS)
    assert (found.row_RTN[:, 4] == NONE).all()
    assert (found.row_RTN[2, 7] == NONE).all()
    named = found.row_RTN != NONE
    assert not (found.patch_RTN[named] == 4).any()
    assert not ((found.row_RTN == 2) & (found.patch_RTN == 7)).any()


def test_rows_of_one_patient_have_no_neighbours() -> None:
    found = nearest(points(), np.ones((ROWS, TOKENS), bool), np.zeros(ROWS))
    assert (found.row_RTN == NONE).all()
    one = nearest(points()[:1], np.ones((1, TOKENS), bool), np.zeros(1))
    assert (one.row_RTN == NONE).all()


def test_among_very_many_patches_every_second_is_looked_among(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_CANDIDATES", ROWS * TOKENS // 4)
    found = nearest(points(), np.ones((ROWS, TOKENS), bool), PATIENTS)
    assert found.step == 2
    assert set(found.patch_RTN[found.row_RTN != NONE].tolist()) == {4}  # the only one of 3 x 3 at odd places


def test_of_very_many_rows_the_best_are_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nearest(points(), np.ones((ROWS, TOKENS), bool), PATIENTS)
    monkeypatch.setattr(module, "_SORTED", 9)
    some = nearest(points(), np.ones((ROWS, TOKENS), bool), PATIENTS)
    np.testing.assert_array_equal(whole.row_RTN[:, :, :3], some.row_RTN[:, :, :3])


def test_packed_neighbours_are_rows_then_patches_then_cosines() -> None:
    found = nearest(points(), np.ones((ROWS, TOKENS), bool), PATIENTS)
    packed = found.packed(3)
    assert len(packed) == TOKENS * NBYTES
    numbers, cosines = np.frombuffer(packed[: 4 * TOKENS * NEIGHBOURS], "<u2"), packed[4 * TOKENS * NEIGHBOURS :]
    np.testing.assert_array_equal(numbers[: TOKENS * NEIGHBOURS].reshape(TOKENS, -1), found.row_RTN[3])
    np.testing.assert_array_equal(numbers[TOKENS * NEIGHBOURS :].reshape(TOKENS, -1), found.patch_RTN[3])
    np.testing.assert_array_equal(np.frombuffer(cosines, np.int8).reshape(TOKENS, -1), found.cosine_RTN[3])
