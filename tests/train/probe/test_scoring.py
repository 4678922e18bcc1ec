"""Scores of a probe: those of an evaluation's, without chance, and none of features that are not finite."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from tests.support.runs import recipe
from usjepa.train.probe.folds import FITTED
from usjepa.train.probe.scoring import constant_guess, macro_f1, probe_score

SETTINGS = recipe().evaluate
RNG = np.random.default_rng(0)
LABELS = np.arange(120) % 3
GROUPS = np.arange(120) // 4
X = (RNG.standard_normal((120, 16)) + 1.5 * np.eye(16)[LABELS]).astype(np.float32)
FOLD = GROUPS % 5


def test_classes_that_lie_apart_are_told_and_noise_is_not() -> None:
    told = probe_score(X + 9 * np.eye(16, dtype=np.float32)[LABELS], LABELS, GROUPS, FOLD, SETTINGS)
    noise = probe_score(RNG.standard_normal((120, 16)).astype(np.float32), LABELS, GROUPS, FOLD, SETTINGS)
    assert told is not None
    assert noise is not None
    assert (told.macro_f1, told.sd) == (1.0, 0.0)
    assert told.knn > 0.95
    assert noise.macro_f1 < 0.55
    assert 0.01 < noise.sd < 0.15


def test_the_same_features_give_the_same_score() -> None:
    assert probe_score(X, LABELS, GROUPS, FOLD, SETTINGS) == probe_score(X.copy(), LABELS, GROUPS, FOLD, SETTINGS)


def test_a_score_of_a_validation_split_is_that_of_scikit_learn_on_standardised_features() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    fold = np.where(GROUPS < 20, FITTED, 0)
    scaler = StandardScaler().fit(X[fold == FITTED])
    model = LogisticRegression(C=SETTINGS.logistic_c, max_iter=500, tol=1e-3)
    model.fit(scaler.transform(X[fold == FITTED]), LABELS[fold == FITTED])
    predicted = model.predict(scaler.transform(X[fold == 0]))
    found = probe_score(X, LABELS, GROUPS, fold, SETTINGS)
    assert found is not None
    assert found.macro_f1 == pytest.approx(f1_score(LABELS[fold == 0], predicted, average="macro"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_have_no_score(value: float) -> None:
    spoilt = X.copy()
    spoilt[7, 3] = value
    assert probe_score(spoilt, LABELS, GROUPS, FOLD, SETTINGS) is None


def test_features_that_are_all_the_same_score_no_more_than_a_guess() -> None:
    found = probe_score(np.ones_like(X), LABELS, GROUPS, FOLD, SETTINGS)
    assert found is not None
    assert found.macro_f1 <= constant_guess(LABELS) + 0.01


def test_macro_f1_is_over_the_classes_of_the_truth() -> None:
    truth, found = [0] * 10 + [1] * 10, [0] * 8 + [1] * 2 + [0] + [1] * 9
    assert macro_f1(np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])) == pytest.approx(
        f1_score(truth, found, average="macro")
    )
    assert macro_f1(np.diag([3, 4, 0])) == 1.0
