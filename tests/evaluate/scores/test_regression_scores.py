"""Claims about scores of numbers: those of scikit-learn and SciPy, drawn by whole groups, undefined where they are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from usjepa.evaluate.scores.bootstrap import Draws, _two_sided_p
from usjepa.evaluate.scores.regression import (
    MEASURES,
    drawn_measures,
    floor_predictions,
    packed_floats,
    regression_measures,
    rounded,
    undefined,
    unpacked_floats,
)
from usjepa.evaluate.scores.units import Units

RNG = np.random.default_rng


def test_measures_are_those_of_scikit_learn_and_scipy() -> None:
    rng = RNG(0)
    for scale, shift in ((1.0, 0.0), (12.0, 55.0), (1e-6, 1e-3), (1.0, 1e7)):
        truth = scale * rng.standard_normal(80) + shift
        said = truth + 0.7 * scale * rng.standard_normal(80)
        found = regression_measures(truth, said)
        assert tuple(found) == MEASURES
        assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, said), rel=1e-9)
        assert found["rmse"] == pytest.approx(metrics.mean_squared_error(truth, said) ** 0.5, rel=1e-9)
        assert found["r2"] == pytest.approx(metrics.r2_score(truth, said), rel=1e-6)
        assert found["pearson"] == pytest.approx(stats.pearsonr(truth, said).statistic, rel=1e-6)


def test_a_measure_that_is_undefined_is_left_out_and_said() -> None:
    truth, said = np.array([1.0, 2.0, 4.0]), np.array([2.0, 2.0, 2.0])
    assert set(regression_measures(truth, said)) == {"mae", "rmse", "r2"}
    assert undefined(truth, said[None]) == "Pearson's r is undefined: all predictions are equal"
    assert "in 1 of 2 seeds" in undefined(truth, np.stack([truth, said]))
    assert set(regression_measures(said, truth)) == {"mae", "rmse"}
    assert "all true values of the test are equal" in undefined(said, truth[None])
    assert undefined(truth, truth[None]) == ""
    rounding = np.array([0.1 + 0.2, 0.3, 0.3])  # equal but for the last bit
    assert "pearson" not in regression_measures(truth, rounding)


def test_a_draw_scores_the_drawn_groups_items_as_scikit_learn_would() -> None:
    rng = RNG(1)
    groups = np.sort(rng.integers(0, 9, 60)) * 5
    truth = 50 + 10 * rng.standard_normal(60)
    said = truth + rng.standard_normal((1, 60))
    draws = Draws(groups, 30)
    found = drawn_measures(draws, truth, said)
    keys = np.unique(groups)
    for draw in range(30):
        times = draws.group_weights[draw].astype(int)
        rows = np.concatenate([np.repeat(np.flatnonzero(groups == k), n) for k, n in zip(keys, times, strict=True)])
        wanted = regression_measures(truth[rows], said[0][rows])
        for name in MEASURES:
            assert found[name][draw] == pytest.approx(wanted[name], rel=1e-8)


def test_draws_of_one_group_alone_have_no_correlation_and_seeds_are_averaged() -> None:
    truth = np.array([1.0, 1.0, 3.0, 3.0])
    said = np.array([[1.0, 2.0, 2.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    draws = Draws(np.array([0, 0, 1, 1]), 200)
    found = drawn_measures(draws, truth, said)
    alone = (draws.group_weights == 2).any(axis=1)
    assert np.isnan(found["r2"][alone]).all()
    assert np.isfinite(found["r2"][~alone]).all()
    weights = draws.seed_weights(2)
    first = weights[:, 0] == 1
    assert np.isfinite(found["pearson"][~alone & first]).all()
    assert np.isnan(found["pearson"][weights[:, 1] > 0]).all()
    both = draws.group_weights / 2
    each = np.stack([np.abs(one - truth).reshape(2, 2).mean(axis=1) for one in said])
    assert found["mae"] == pytest.approx(np.einsum("rg,sg,rs->r", both, each, weights))


def test_draws_in_which_a_difference_is_undefined_do_not_make_it_real() -> None:
    difference = np.concatenate([np.full(20, -1.0), np.full(20, 1.0), np.full(1000, np.nan)])
    assert _two_sided_p(difference) == 1.0
    assert _two_sided_p(np.full(10, np.nan)) == 1.0


def test_numbers_are_kept_as_short_text_that_reads_back_the_same() -> None:
    values = np.array([0.1, -55.0, 1e-12, 123456.789, 1 / 3, 0.0, 1e12])
    assert unpacked_floats(packed_floats(values)).tolist() == values.tolist()
    assert packed_floats(np.array([55.0, 0.1])) == "55 0.1"
    assert rounded(np.array([[1 / 3, 123456789.0]])).tolist() == [[0.3333333, 123456800.0]]
    assert rounded(rounded(values)).tolist() == rounded(values).tolist()


def test_the_floor_is_the_training_mean_whose_errors_are_known_in_closed_form() -> None:
    train, truth = np.array([1.0, 2.0, 6.0]), np.array([2.0, 5.0])
    said = floor_predictions(train, 2)
    assert said.tolist() == [3.0, 3.0]
    found = regression_measures(truth, said)
    assert found["mae"] == 1.5
    assert found["rmse"] == pytest.approx((5 / 2) ** 0.5)
    assert found["r2"] == pytest.approx(1 - 5 / 4.5)


def test_units_are_numbered_by_their_first_frames_and_averaged() -> None:
    units = Units.of(np.array([7, 3, 7, 9, 3, 7]))
    assert units.index_N.tolist() == [0, 1, 0, 2, 1, 0]
    assert (len(units), units.first.tolist(), units.frames.tolist()) == (3, [0, 1, 3], [3, 2, 1])
    values = np.arange(12.0).reshape(6, 2)
    assert units.mean(values).tolist() == [[14 / 3, 17 / 3], [5.0, 6.0], [6.0, 7.0]]
    assert units.mixed(np.array([1, 2, 1, 4, 3, 1])).tolist() == [1]
    assert units.vote(np.array([[0, 2, 1, 1, 1, 1]]), 3).tolist() == [[1, 1, 1]]  # equal votes: the lower class
    assert len(Units.of(np.zeros(0))) == 0
    assert Units.of(np.zeros(0)).mean(np.zeros(0)).tolist() == []
