"""Near-duplicates are of other files, of other patients first; outliers lie far from other patients."""

from __future__ import annotations

import numpy as np

from tests.cache.inspecting.looked import speckle
from usjepa.cache.inspecting.flags import LEAST_ROWS, NEIGHBOURS, far_out, outlier_scores, twins
from usjepa.cache.perceptual import picture_signs


def test_a_noisy_copy_is_a_twin_and_another_picture_is_not() -> None:
    frames = speckle(6)[:, 0].astype(float)
    frames[4] = frames[1] + np.random.default_rng(0).normal(0, 4, frames[1].shape)
    found = twins(picture_signs(frames), np.arange(6), np.arange(6))
    assert sorted(found) == [1, 4]
    assert (found[1].place, found[4].place) == (4, 1)
    assert 0 <= found[1].bits <= 32
    assert found[1].other_patient


def test_frames_of_one_file_and_blank_ones_are_no_twins() -> None:
    frames = np.concatenate([speckle(1)[:, 0].repeat(3, axis=0), np.zeros((2, 32, 32))])
    assert twins(picture_signs(frames), np.array([0, 0, 0, 1, 2]), np.zeros(5)) == {}


def test_a_twin_of_another_patient_is_named_before_a_nearer_one_of_the_same() -> None:
    frames = speckle(1)[:, 0].repeat(3, axis=0).astype(float)
    frames[2] += np.random.default_rng(3).normal(0, 6, frames[2].shape)
    found = twins(picture_signs(frames), np.arange(3), np.array([7, 7, 8]))
    assert found[0].place == 2
    assert found[0].other_patient
    only = twins(picture_signs(frames[:2]), np.arange(2), np.array([7, 7]))
    assert not only[0].other_patient


def test_the_score_is_the_mean_distance_to_five_rows_of_other_patients_over_its_median() -> None:
    rng = np.random.default_rng(0)
    pooled, patient = rng.normal(size=(40, 6)).astype(np.float32), np.arange(40) // 4
    points = (pooled - pooled.mean(axis=0)) / pooled.std(axis=0)
    apart = np.linalg.norm(points[:, None] - points, axis=2)
    apart[patient[:, None] == patient] = np.inf
    wanted = np.sort(apart, axis=1)[:, :NEIGHBOURS].mean(axis=1)
    np.testing.assert_allclose(outlier_scores(pooled, patient), wanted / np.median(wanted), rtol=1e-4)


def test_all_frames_of_an_odd_patient_are_far_out_though_they_are_alike() -> None:
    rng = np.random.default_rng(1)
    pooled, patient = rng.normal(size=(60, 6)).astype(np.float32), np.arange(60) // 6
    pooled[patient == 3] = 12 + 0.01 * rng.normal(size=(6, 6))
    scores = outlier_scores(pooled, patient)
    assert set(np.flatnonzero(scores > far_out(scores)) // 6) == {3}


def test_one_patient_few_rows_or_latents_that_are_not_finite_make_no_outlier() -> None:
    pooled = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    assert np.isnan(outlier_scores(pooled, np.zeros(20))).all()
    assert far_out(outlier_scores(pooled, np.zeros(20))) == np.inf
    assert far_out(np.ones(LEAST_ROWS - 1)) == np.inf
    assert np.isnan(outlier_scores(np.full((3, 2), np.nan, np.float32), np.arange(3))).all()
    pooled[4] = np.nan
    scores = outlier_scores(pooled, np.arange(20))
    assert np.flatnonzero(np.isnan(scores)).tolist() == [4]


def test_rows_that_are_all_the_same_are_no_outliers() -> None:
    scores = outlier_scores(np.ones((20, 3), np.float32), np.arange(20))
    assert (scores == 1).all()
    assert not (scores > far_out(scores)).any()
