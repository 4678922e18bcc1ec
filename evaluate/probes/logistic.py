"""Fit logistic regression, its strength chosen on validation frames or fixed: probes without seeds.

With two or three validation groups the chosen strength is chance: it gave a macro F1 of 26.3 where C = 0.01 gave 55.4.
So one of a fixed strength stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.evaluate.probes.base import Part, Predictions, ProbeInput, ProbeRecord
from usjepa.train.probe.logistic import fit_logistic

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of scikit-learn's C, the inverse of the penalty's weight, from strong to weak regularisation."""
_UNCHOSEN = 1e-2


class LogisticProbe:
    """A second linear classifier, without random starts."""

    name = "logistic"
    version = 1
    described = ProbeRecord(
        title="Logistic regression",
        column="logistic",
        meaning="A second linear classifier, without random starts; how strongly it is held back is chosen on the "
        "validation frames.",
        shown=("macro_f1", "auroc"),
    )

    def score(self, given: ProbeInput) -> Predictions:
        """Return the predictions of the chosen model."""
        return _predictions(_fit_logistic(given.train, given.validation, given.classes), given)


class FixedLogisticProbe:
    """Logistic regression of one strength for all encoders: `evaluate.logistic_c`."""

    name = "logistic-fixed"
    version = 1
    described = ProbeRecord(
        title="Logistic regression, fixed strength",
        column="logistic, fixed C",
        meaning="The same classifier, held back as strongly on every task: nothing is chosen on validation frames, "
        "which are of two or three patients in small tasks. It is fitted to the end: the linear probe takes so many "
        "steps, which are too few where an encoder gives many numbers, as pixels and HOG do.",
        shown=("macro_f1", "auroc"),
    )

    def score(self, given: ProbeInput) -> Predictions:
        """Return the predictions of the fitted model."""
        strength = given.settings.logistic_c
        model, converged = fit_logistic(given.train.x, given.train.y, strength)
        fitted = FittedLogistic(model, strength, False, converged, given.classes)
        return _predictions(fitted, given)


def _predictions(fitted: FittedLogistic, given: ProbeInput) -> Predictions:
    probability_NC = fitted.probability(given.test.x)
    return Predictions(
        probability_NC.argmax(axis=1).astype(np.int64)[None],
        probability_NC[None],
        seeded=False,
        about={"strength": fitted.strength, "chosen": fitted.chosen, "converged": fitted.converged},
    )


@dataclass(frozen=True)
class FittedLogistic:
    """A fitted model and how it was chosen."""

    model: Any
    """scikit-learn's LogisticRegression."""
    strength: float
    """The chosen C."""
    chosen: bool
    """False where there were no validation frames to choose on."""
    converged: bool
    """Whether the chosen fit met its tolerance."""
    classes: int

    def probability(self, features_NF: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return [N, C]; a class without training frames gets 0."""
        probability = np.zeros((len(features_NF), self.classes))
        probability[:, self.model.classes_] = self.model.predict_proba(features_NF)
        return probability


def _fit_logistic(train: Part, validation: Part, classes: int) -> FittedLogistic:
    """Fit multinomial logistic regression (L2, L-BFGS) at each strength and keep the lowest validation cross-entropy.

    Without validation frames, C = 0.01 is taken unchosen. Equal losses go to the stronger penalty. Training frames of
    two classes at least are needed.
    """
    if not len(validation):
        model, converged = fit_logistic(train.x, train.y, _UNCHOSEN)
        return FittedLogistic(model, _UNCHOSEN, False, converged, classes)
    best, lowest, model = None, np.inf, None
    for strength in _STRENGTHS:
        # Each fit starts from the one before: the strong penalties are done in a few steps and lead the way.
        model, converged = fit_logistic(train.x, train.y, strength, model)
        one = FittedLogistic(model, strength, True, converged, classes)
        loss = _cross_entropy(one.probability(validation.x), validation.y)
        if loss < lowest:
            best, lowest = one, loss
    assert best is not None
    return best


def _cross_entropy(probability_NC: NDArray[np.float64], labels_N: NDArray[np.int64]) -> float:
    chosen = probability_NC[np.arange(len(labels_N)), labels_N]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())
