"""Claims about intervals, differences and AUROC: groups are drawn whole, numbers are those of sklearn and SciPy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from tests.support.scoring import part
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.evaluate.probes.base import ProbeInput
from usjepa.evaluate.probes.logistic import _STRENGTHS, FixedLogisticProbe, _fit_logistic
from usjepa.evaluate.scores.bootstrap import Draws, _holm, _two_sided_p, interval, verdicts
from usjepa.evaluate.scores.metrics import auroc, score

RNG = np.random.default_rng


def drawn_rows(draws: Draws, draw: int) -> np.ndarray:
    """Return the test frames of a draw, a group's frames as often as the group was drawn."""
    keys = np.unique(draws.groups_N)
    times = draws.group_weights[draw].astype(int)
    return np.concatenate([np.repeat(np.flatnonzero(draws.groups_N == k), n) for k, n in zip(keys, times, strict=True)])


def test_a_draw_scores_the_drawn_groups_frames_as_sklearn_would() -> None:
    rng = RNG(0)
    groups = np.sort(rng.integers(0, 12, 150)) * 7  # numbers need not be dense
    truth = rng.integers(0, 3, 150)
    probability = np.round(rng.dirichlet([1, 1, 1], (1, 150)), 2)  # rounded: equal scores occur
    predicted = probability.argmax(2)
    draws = Draws(groups, 25)
    found, areas = draws.of_predictions(truth, predicted, 3), draws.auroc(truth, probability)
    for draw in range(25):
        rows = drawn_rows(draws, draw)
        assert len(rows)
        wanted = score(truth[rows], predicted[0][rows], 3)
        assert found["macro_f1"][draw] == pytest.approx(wanted.macro_f1)
        assert found["balanced_accuracy"][draw] == pytest.approx(wanted.balanced_accuracy)
        assert areas[draw] == pytest.approx(auroc(truth[rows], probability[0][rows]))


def test_seeds_are_drawn_too_and_average() -> None:
    rng = RNG(1)
    truth, groups = rng.integers(0, 2, 80), np.arange(80) // 4
    predicted = rng.integers(0, 2, (5, 80))
    draws = Draws(groups, 4000)
    found = draws.of_predictions(truth, predicted, 2)["macro_f1"]
    assert draws.seed_weights(5).sum(axis=1) == pytest.approx(1)
    each = np.mean([score(truth, one, 2).macro_f1 for one in predicted])
    assert found.mean() == pytest.approx(each, abs=0.02)
    alone = np.mean([draws.of_predictions(truth, one[None], 2)["macro_f1"].std() for one in predicted])
    assert found.std() > 0.4 * alone  # five probes together are steadier, yet never free of luck


def test_patients_who_are_all_right_or_all_wrong_widen_the_interval_as_frames_would_not() -> None:
    rng = RNG(2)
    right = np.repeat(rng.random(30) < 0.7, 20)  # 30 patients of 20 like frames
    truth = np.tile([0, 1], 300)
    predicted = np.where(right, truth, 1 - truth)[None]

    def width(groups: np.ndarray) -> float:
        ends = interval(Draws(groups, 1000).of_predictions(truth, predicted, 2)["balanced_accuracy"])
        assert ends is not None
        return ends[1] - ends[0]

    assert width(np.repeat(np.arange(30), 20)) > 3 * width(np.arange(600))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    # 200 studies of 60 patients; a patient's frames are all right with probability 0.7.
    rng, held = RNG(3), 0
    groups = np.repeat(np.arange(60), 4)
    truth = np.tile([0, 1], 120)
    weights = Draws(groups, 400)
    for _ in range(200):
        predicted = np.where(np.repeat(rng.random(60) < 0.7, 4), truth, 1 - truth)[None]
        ends = interval(weights.of_predictions(truth, predicted, 2)["balanced_accuracy"])
        assert ends is not None
        held += ends[0] <= 0.7 <= ends[1]
    assert 0.88 <= held / 200 <= 0.985


def test_equal_encoders_are_rarely_called_different_and_unlike_ones_nearly_always() -> None:
    rng = RNG(4)
    groups, truth = np.repeat(np.arange(50), 4), np.tile([0, 1], 100)
    draws = Draws(groups, 500)

    def p(other: float) -> float:
        found = [
            draws.of_predictions(truth, np.where(rng.random(200) < share, truth, 1 - truth)[None], 2)["macro_f1"]
            for share in (0.7, other)
        ]
        return _two_sided_p(found[0] - found[1])

    assert np.mean([p(0.7) < 0.05 for _ in range(150)]) < 0.11
    assert np.mean([p(0.9) < 0.05 for _ in range(30)]) > 0.9


def test_a_difference_of_nothing_has_p_1_and_no_p_is_0() -> None:
    assert _two_sided_p(np.zeros(100)) == 1.0
    assert _two_sided_p(np.ones(999)) == pytest.approx(2 / 1000)


def test_holm_is_the_textbooks() -> None:
    assert _holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert _holm([0.9, 0.8]) == [1.0, 1.0]
    assert _holm([]) == []


def test_what_is_real_alone_may_not_be_real_among_many() -> None:
    values = RNG(5).normal(2.2, 1, 4000)
    assert verdicts([values], [50])[0].real
    assert not verdicts([values], [9])[0].real  # a handful of patients shows nothing
    many = verdicts([values] * 20, [50] * 20)
    assert not any(one.real for one in many)
    assert many[0].p_holm == pytest.approx(20 * many[0].p)


def test_the_draws_are_the_same_for_every_encoder_and_every_call() -> None:
    groups = np.arange(40) // 2
    assert np.array_equal(Draws(groups, 50).group_weights, Draws(groups * 3, 50).group_weights)
    assert (Draws(groups, 50).group_weights.sum(axis=1) == 20).all()


def test_auroc_is_the_chance_that_a_frame_of_the_class_scores_higher() -> None:
    truth = np.array([0, 0, 1, 1, 1])
    second = np.array([0.1, 0.6, 0.4, 0.7, 0.9])
    wanted = stats.mannwhitneyu(second[truth == 1], second[truth == 0]).statistic / 6
    assert auroc(truth, np.stack([1 - second, second], 1)) == pytest.approx(wanted)
    assert auroc(np.zeros(3, int), np.full((3, 2), 0.5)) is None
    without = np.concatenate([np.stack([1 - second, second], 1), np.zeros((5, 1))], 1)
    assert auroc(truth, without) == pytest.approx(wanted)  # a class that the test lacks does not count


def test_macro_f1_and_balanced_accuracy_are_sklearns_over_the_classes_that_occur() -> None:
    rng = RNG(7)
    for _ in range(20):
        truth, predicted = rng.integers(0, 4, 30), rng.integers(0, 5, 30)  # class 4 has no frames, others may have none
        found, present = score(truth, predicted, 5), np.unique(truth)
        f1 = metrics.f1_score(truth, predicted, labels=present, average="macro", zero_division=0)
        recall = metrics.recall_score(truth, predicted, labels=present, average="macro", zero_division=0)
        assert (found.macro_f1, found.balanced_accuracy) == pytest.approx((f1, recall))
        matrix = metrics.confusion_matrix(truth, predicted, labels=range(5))
        assert np.array_equal(found.confusion, matrix)


def test_one_group_alone_gives_no_interval() -> None:
    assert interval(np.full(500, np.nan)) is None
    (one,) = verdicts([np.full(500, 0.1)], [1])
    assert (one.interval, one.p, one.real) == (None, 1.0, False)


def problem() -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(6)
    labels = rng.integers(0, 3, 420)
    x = 0.5 * rng.standard_normal((3, 30))[labels] + rng.standard_normal((420, 30))
    return x.astype(np.float32), labels


def test_logistic_regression_takes_the_strength_with_the_lowest_validation_loss() -> None:
    x, y = problem()
    fitted = _fit_logistic(part(x, y, 0, 200), part(x, y, 200, 300), 3)
    losses = {}
    for strength in _STRENGTHS:
        plain = LogisticRegression(C=strength, max_iter=2000, tol=1e-6).fit(x[:200], y[:200])
        losses[strength] = -np.log(plain.predict_proba(x[200:300])[np.arange(100), y[200:300]]).mean()
    assert fitted.strength == min(losses, key=lambda strength: losses[strength])
    assert fitted.chosen
    assert fitted.converged
    plain = LogisticRegression(C=fitted.strength, max_iter=2000, tol=1e-6).fit(x[:200], y[:200])
    assert np.abs(fitted.probability(x[300:]) - plain.predict_proba(x[300:])).max() < 0.02


def test_the_fixed_logistic_regression_looks_at_no_validation_frame() -> None:
    x, y = problem()
    given = ProbeInput(
        part(x, y, 0, 200), part(x, y, 200, 300), part(x, y, 300), 3,
        settings=EvaluateSettings(logistic_c=0.1), scaler=cast("Any", None), task=cast("Any", None),
    )  # fmt: skip
    made = FixedLogisticProbe().score(given)
    plain = LogisticRegression(C=0.1, max_iter=2000, tol=1e-6).fit(x[:200], y[:200])
    assert made.probability_SNC is not None
    assert np.abs(made.probability_SNC[0] - plain.predict_proba(x[300:])).max() < 0.02
    again = FixedLogisticProbe().score(replace(given, validation=part(x, y[::-1], 200, 300)))
    assert np.array_equal(again.predicted_SN, made.predicted_SN)


def test_a_class_without_training_frames_gets_probability_0() -> None:
    x, y = problem()
    keep = y < 2
    fitted = _fit_logistic(part(x[keep], y[keep]), part(x, y, 0, 0), 3)
    assert not fitted.chosen
    told = fitted.probability(x)
    assert (told[:, 2] == 0).all()
    assert told.sum(1) == pytest.approx(1)
