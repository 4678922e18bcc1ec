"""Fit logistic regression of a given strength: L2, L-BFGS, no random starts."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STEPS = 500


def fit_logistic(
    x_NF: NDArray[np.float32], y_N: NDArray[np.int64], strength: float, start: Any = None
) -> tuple[Any, bool]:
    """Return scikit-learn's fitted model, and whether it converged.

    Args:
        x_NF: standardised features.
        y_N: classes, two at least.
        strength: scikit-learn's C, the inverse of the penalty's weight.
        start: another fitted model, from whose coefficients it begins.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=_STEPS, tol=1e-3, warm_start=True)
    if start is not None:
        model.coef_, model.intercept_, model.classes_ = start.coef_, start.intercept_, start.classes_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # n_iter_ shows it
        model.fit(x_NF, y_N)
    return model, int(model.n_iter_.max()) < _STEPS
