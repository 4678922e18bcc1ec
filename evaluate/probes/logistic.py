"""Logistic regression whose strength is chosen on validation: a probe without seeds, epochs or learning rate."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of scikit-learn's C, the inverse of the penalty's weight, from strongly held back to nearly free."""
_UNCHOSEN = 1e-2
_STEPS = 500


@dataclass(frozen=True)
class Logistic:
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
        told = np.zeros((len(features_NF), self.classes))
        told[:, self.model.classes_] = self.model.predict_proba(features_NF)
        return told


def fit_logistic(
    train_NF: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    validation_VF: NDArray[np.float32],
    validation_labels_V: NDArray[np.int64],
    classes: int,
) -> Logistic:
    """Fit multinomial logistic regression (L2, L-BFGS) at each strength and keep the lowest validation cross-entropy.

    Without validation frames, C = 0.01 is taken unchosen. Equal losses go to the stronger penalty. Training frames of
    two classes at least are needed.
    """
    if not len(validation_labels_V):
        model, converged = _fitted(train_NF, labels_N, _UNCHOSEN, None)
        return Logistic(model, _UNCHOSEN, False, converged, classes)
    best, lowest, model = None, np.inf, None
    for strength in STRENGTHS:
        # Each fit starts from the one before: the strong penalties are done in a few steps and lead the way.
        model, converged = _fitted(train_NF, labels_N, strength, model)
        one = Logistic(model, strength, True, converged, classes)
        loss = _cross_entropy(one.probability(validation_VF), validation_labels_V)
        if loss < lowest:
            best, lowest = one, loss
    assert best is not None
    return best


def _fitted(x: NDArray[np.float32], y: NDArray[np.int64], strength: float, start: Any) -> tuple[Any, bool]:
    """Return the model at a strength, begun from another one's coefficients, and whether it converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=_STEPS, tol=1e-3, warm_start=True)
    if start is not None:
        model.coef_, model.intercept_, model.classes_ = start.coef_, start.intercept_, start.classes_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told by n_iter_, and from there in scores.json
        model.fit(x, y)
    return model, int(model.n_iter_.max()) < _STEPS


def _cross_entropy(probability_NC: NDArray[np.float64], labels_N: NDArray[np.int64]) -> float:
    chosen = probability_NC[np.arange(len(labels_N)), labels_N]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())
