"""The second linear probe: L2-regularised logistic regression to convergence, its strength chosen on validation.

The paper's probe stops early and so depends on its learning rate; this one has one optimum for each strength and no
seed. Strengths are tried from strong to weak, each from the solution before it; the lowest validation loss wins.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.linear_model import LogisticRegression

STRENGTHS = tuple(float(10.0**power) for power in np.arange(-6.0, 1.5, 0.5))
"""scikit-learn's C, smallest (strongest) first; features are standardised."""
WITHOUT_VALIDATION = 1e-2
"""C where a task leaves no validation frames to choose it on."""
_WORSE_IN_A_ROW = 3
"""Weaker strengths are not tried after this many in a row raised the validation loss: the loss is smooth in C."""
_MOST_ITERATIONS = 500


@dataclass(frozen=True)
class Logistic:
    """A fitted logistic regression."""

    weight: NDArray[np.float64]
    """[F, C]"""
    bias: NDArray[np.float64]
    """[C] -inf for a class without training frames: it is never named."""
    strength: float
    """The C that was chosen."""
    converged: bool

    def logits(self, features_NF: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return float64 [N, C]."""
        out: NDArray[np.float64] = features_NF.astype(np.float64) @ self.weight + self.bias
        return out


def fit_logistic(
    train_NF: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    validation_VF: NDArray[np.float32],
    validation_labels_V: NDArray[np.int64],
    classes: int,
) -> Logistic:
    """Fit on standardised training features; without validation frames the strength is `WITHOUT_VALIDATION`."""
    from threadpoolctl import threadpool_limits

    # An L2 penalty keeps the weights within the span of the training features, so that with more features than frames
    # the same optimum is found in as many dimensions as there are frames.
    basis_FR = _basis(train_NF)
    seen = np.isin(validation_labels_V, labels_N)  # a class that was never trained on has no finite loss
    given = train_NF @ basis_FR, labels_N, validation_VF[seen] @ basis_FR, validation_labels_V[seen]
    with threadpool_limits(1):  # sums that aren't split give the same numbers on any number of cores
        fitted, strength, converged = _chosen(*given)
    weight, bias = np.zeros((train_NF.shape[1], classes)), np.full(classes, -np.inf)
    coefficients, intercept = _per_class(fitted.coef_, fitted.intercept_)
    weight[:, fitted.classes_] = basis_FR.astype(np.float64) @ coefficients.T
    bias[fitted.classes_] = intercept
    return Logistic(weight, bias, strength, converged)


def _chosen(
    x_NR: NDArray[np.float32], y_N: NDArray[np.int64], x_VR: NDArray[np.float32], y_V: NDArray[np.int64]
) -> tuple[LogisticRegression, float, bool]:
    """Return the fit of the lowest validation loss, its strength, and whether it converged."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    x, held = x_NR.astype(np.float64), x_VR.astype(np.float64)
    start: LogisticRegression | None = None
    best: tuple[float, LogisticRegression, float, bool] | None = None
    worse = 0
    for strength in STRENGTHS if len(y_V) else (WITHOUT_VALIDATION,):
        model = LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS, warm_start=True)
        if start is not None:
            model.coef_, model.intercept_ = start.coef_.copy(), start.intercept_.copy()
            model.classes_ = start.classes_
        converged = _fit(model, x, y_N)
        loss = log_loss(y_V, model.predict_proba(held), labels=model.classes_) if len(y_V) else 0.0
        if best is None or loss < best[0]:
            best, worse = (loss, model, strength, converged), 0
        else:
            worse += 1
        if worse == _WORSE_IN_A_ROW:
            break
        start = model
    assert best is not None
    return best[1], best[2], best[3]


def _fit(model: LogisticRegression, x_NR: NDArray[np.float64], y_N: NDArray[np.int64]) -> bool:
    """Fit, and return whether it converged; that it did not is told with the score, not warned of."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x_NR, y_N)
    return bool((model.n_iter_ < _MOST_ITERATIONS).all())


def _basis(train_NF: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an orthonormal basis [F, R] of a space that holds all training rows."""
    frames, features = train_NF.shape
    if features <= frames:
        return np.eye(features, dtype=np.float32)
    q_FR: NDArray[np.float32] = np.linalg.qr(train_NF.T)[0]
    return q_FR


def _per_class(
    coefficients: NDArray[np.float64], intercept: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a row per class: scikit-learn keeps one row, the second class's log odds, where there are two classes."""
    if len(coefficients) > 1:
        return coefficients, intercept
    return np.concatenate([-coefficients, coefficients]) / 2.0, np.concatenate([-intercept, intercept]) / 2.0
