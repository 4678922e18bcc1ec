"""Claims about intervals and differences: patients are resampled, not frames, and chance is not called real."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from usjepa.evaluate.differences import HeldOut, Pair, compared
from usjepa.evaluate.intervals import Resamples, holm, interval, paired, replicate, resample
from usjepa.evaluate.logistic import STRENGTHS, fit_logistic
from usjepa.evaluate.metrics import auroc, score

CLASSES = 3
Ints = NDArray[np.int64]


def guesses(truth: Ints, right: float, seed: int) -> Ints:
    """Return predictions that are right with a probability."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(truth)) < right, truth, rng.integers(0, CLASSES, len(truth)))


def labels(count: int, seed: int = 0) -> Ints:
    return np.random.default_rng(seed).integers(0, CLASSES, count)


def test_a_resample_that_draws_every_group_once_scores_what_the_table_shows() -> None:
    truth, groups = labels(90), np.arange(90) // 3
    predicted = np.stack([guesses(truth, 0.6, seed) for seed in range(2)])
    probability = np.random.default_rng(1).dirichlet(np.ones(CLASSES), (2, 90))
    once = Resamples(np.ones((1, 30), np.int32), groups)
    found = replicate(truth, predicted, CLASSES, once, probability)
    scores = [score(truth, one, CLASSES) for one in predicted]
    assert found.macro_f1[0] == pytest.approx(np.mean([s.macro_f1 for s in scores]))
    assert found.balanced_accuracy[0] == pytest.approx(np.mean([s.balanced_accuracy for s in scores]))
    assert found.auroc[0] == pytest.approx(np.mean([auroc(truth, one) for one in probability]))


def test_a_replicate_equals_scoring_the_frames_of_the_drawn_groups() -> None:
    truth, groups = labels(60), np.arange(60) // 4
    predicted = guesses(truth, 0.5, 3)
    probability = np.round(np.random.default_rng(2).dirichlet(np.ones(CLASSES), 60), 1)  # rounded: many ties
    drawn = resample(groups, 20)
    found = replicate(truth, predicted[None], CLASSES, drawn, probability[None])
    for b, counts in enumerate(drawn.counts_BG):
        frames = np.repeat(np.arange(60), counts[groups])
        assert found.macro_f1[b] == pytest.approx(score(truth[frames], predicted[frames], CLASSES).macro_f1)
        assert found.auroc[b] == pytest.approx(auroc(truth[frames], probability[frames]))


def test_more_frames_of_the_same_patients_make_no_interval_narrower() -> None:
    truth = labels(40)
    predicted = guesses(truth, 0.6, 1)
    one = replicate(truth, predicted[None], CLASSES, resample(np.arange(40), 2000))
    many = replicate(
        np.repeat(truth, 50), np.repeat(predicted, 50)[None], CLASSES, resample(np.repeat(np.arange(40), 50), 2000)
    )
    assert interval(one.macro_f1) == interval(many.macro_f1)


def test_the_interval_covers_the_true_accuracy_about_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(150):
        truth = np.tile(np.arange(CLASSES), 40)
        again = replicate(truth, guesses(truth, 0.55, 100 + trial)[None], CLASSES, resample(np.arange(120), 300))
        found = interval(again.balanced_accuracy)
        assert found is not None
        covered += found[0] <= 0.55 + 0.45 / CLASSES <= found[1]
    assert 0.88 <= covered / 150 <= 0.99


def test_equal_predictions_are_no_real_difference_and_clearly_better_ones_are() -> None:
    truth = labels(300)
    tested = HeldOut(truth, CLASSES, resample(np.arange(300) // 5, 2000))
    good, bad = guesses(truth, 0.9, 1)[None], guesses(truth, 0.2, 2)[None]
    same, better, worse = compared(
        [Pair({}, one, other, tested) for one, other in ((good, good), (good, bad), (bad, good))]
    )
    assert (same["difference"], same["p"], same["real"]) == (0.0, 1.0, False)
    assert better["real"]
    assert better["interval"][0] > 0
    assert worse["difference"] == -better["difference"]
    assert worse["interval"][1] < 0


def test_encoders_that_differ_by_chance_are_seldom_called_different() -> None:
    alarms = 0
    for trial in range(100):
        truth = labels(80, trial)
        tested = HeldOut(truth, CLASSES, resample(np.arange(80), 400))
        pair = [guesses(truth, 0.6, 2 * trial + side)[None] for side in (1000, 1001)]
        alarms += compared([Pair({}, pair[0], pair[1], tested)])[0]["real"]
    assert alarms <= 12


def test_a_handful_of_patients_makes_no_difference_real() -> None:
    truth = labels(300)
    tested = HeldOut(truth, CLASSES, resample(np.arange(300) % 9, 2000))
    line = compared([Pair({}, truth[None], guesses(truth, 0.1, 0)[None], tested)])[0]
    assert line["p_holm"] < 0.05
    assert not line["real"]


def test_holm_raises_the_smallest_p_most_and_keeps_their_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_p_is_never_zero() -> None:
    found = paired(1.0, 0.0, np.ones(999), np.zeros(999))
    assert found.p == pytest.approx(2 / 1000)


def test_one_group_has_no_interval() -> None:
    assert interval(np.array([np.nan, 0.5])) is None


def problem(frames: int, features: int, noise: float) -> tuple[NDArray[np.float32], Ints]:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((frames, features)).astype(np.float32)
    best = x[:, :CLASSES] * 2 + noise * rng.gumbel(size=(frames, CLASSES))
    return x, best.argmax(1)


@pytest.mark.parametrize(("frames", "features"), [(150, 12), (60, 200)], ids=["more-frames", "more-features"])
def test_logistic_regression_is_scikit_learns_at_the_strength_of_the_lowest_validation_loss(
    frames: int, features: int
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    x, y = problem(frames + 100, features, 1.0)
    found = fit_logistic(x[:frames], y[:frames], x[frames:], y[frames:], CLASSES)
    assert found.converged
    losses = {}
    for strength in STRENGTHS:
        plain = LogisticRegression(C=strength, max_iter=5000, tol=1e-6).fit(x[:frames].astype(float), y[:frames])
        losses[strength] = log_loss(y[frames:], plain.predict_proba(x[frames:].astype(float)))
        if strength == found.strength:
            logits = found.logits(x[frames:])
            told = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            assert np.abs(told - plain.predict_proba(x[frames:].astype(float))).max() < 5e-3
    assert losses[found.strength] <= min(losses.values()) + 1e-3


def test_logistic_regression_with_two_classes_and_a_class_that_is_never_trained_on() -> None:
    x, y = problem(200, 8, 0.5)
    y = np.minimum(y, 1)
    found = fit_logistic(x[:100], y[:100], x[100:], np.where(y[100:] == 1, 2, 0), CLASSES)
    assert (found.logits(x).argmax(1)[:100] == y[:100]).mean() > 0.7
    assert np.isneginf(found.bias[2])


def test_a_fit_that_does_not_converge_is_told_and_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usjepa.evaluate.logistic._MOST_ITERATIONS", 2)
    x, y = problem(100, 20, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fit_logistic(x, y, x[:0], y[:0], CLASSES).converged
