"""Fit ridge regression, its strength chosen on validation frames: a probe without seeds.

The weights minimise mean (y - mean y - x w)^2 + strength |w|^2 over training frames (Hoerl and Kennard 1970); with n
frames, scikit-learn's `Ridge(alpha=n strength)`. Divided by n, one grid of strengths fits tasks of any size, and with
standardised features a strength of 1 is as much as the mean eigenvalue of their covariance. One eigendecomposition
gives the weights of every strength.

Shape suffixes: N training frames, V other frames, F features, K eigenvalues, L strengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.cache.interrupt import safe_point
from usjepa.evaluate.probes.base import ProbeRecord
from usjepa.evaluate.probes.linear import one_thread
from usjepa.evaluate.probes.regression import Numbers, held_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.evaluate.probes.regression import NumberInput

    Floats = NDArray[np.float64]

RIDGE = "ridge"
"""Name of the probe by which encoders are ranked and compared on numbers."""
STRENGTHS = tuple(round(10.0 ** (half / 2), 10) for half in range(8, -13, -1))
"""From strong to weak: 10000 to 0.000001, two a decade. Equal errors go to the stronger."""
UNCHOSEN = 1.0
"""Strength without validation frames."""
_AT_ONCE = 4096


class RidgeProbe:
    """A linear function of the features, held back as much as predicts the validation frames best."""

    name = RIDGE
    described = ProbeRecord(
        title="Ridge regression",
        column="ridge",
        meaning="A linear function of the frozen features that predicts the number. How strongly it is held back is "
        "chosen on the validation frames.",
        shown=("mae", "rmse", "r2", "pearson"),
        caption="ridge regression on frozen features",
    )

    def predict(self, given: NumberInput) -> Numbers:
        """Return the predictions of the chosen strength."""
        with one_thread():
            fitted = fit_ridge(given.train.x, given.train.y)
            place = STRENGTHS.index(UNCHOSEN)
            errors: list[float] = []
            if len(given.validation):
                held_LV = fitted.predict(given.validation.x)
                errors = [held_error(one, given.validation.y, given.held_units) for one in held_LV]
                place = int(np.argmin(errors))
            predicted_SN = fitted.predict(given.test.x)[place][None]
        about = {
            "strength": STRENGTHS[place],
            "chosen": bool(errors),
            "at_limit": bool(errors) and place in (0, len(STRENGTHS) - 1),
        }
        return Numbers(predicted_SN, seeded=False, about=about)


@dataclass(frozen=True)
class FittedRidge:
    """The weights of every strength."""

    centre_F: torch.Tensor
    """Mean of the training features."""
    weight_FL: torch.Tensor
    intercept: float
    """Mean of the training numbers."""

    def predict(self, x_VF: NDArray[np.float32]) -> Floats:
        """Return the predictions of each strength, float64 [L, V]."""
        parts = [np.zeros((0, len(STRENGTHS)))]
        for start in range(0, len(x_VF), _AT_ONCE):
            centred = torch.from_numpy(x_VF[start : start + _AT_ONCE]).double() - self.centre_F
            parts.append((centred @ self.weight_FL).numpy())
        return np.ascontiguousarray(np.concatenate(parts).T) + self.intercept


def fit_ridge(x_NF: NDArray[np.float32], y_N: Floats, strengths: tuple[float, ...] = STRENGTHS) -> FittedRidge:
    """Return ridge regression at each strength; the intercept is not held back.

    Costs N F min(N, F) for the products and its cube for the eigenvectors, in double precision.
    """
    x, y = torch.from_numpy(np.ascontiguousarray(x_NF)), torch.from_numpy(np.ascontiguousarray(y_N, dtype=np.float64))
    count, centre_F = len(y), _mean(x)
    centred_N = y - y.mean()
    strength_L = torch.tensor(strengths, dtype=torch.float64)
    if x.shape[1] <= count:
        covariance, moment = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64), torch.zeros(x.shape[1]).double()
        for start in range(0, count, _AT_ONCE):
            safe_point()
            some = x[start : start + _AT_ONCE].double() - centre_F
            covariance += some.T @ some
            moment += some.T @ centred_N[start : start + _AT_ONCE]
        value_K, vector_FK = torch.linalg.eigh(covariance / count)
        weight_FL = vector_FK @ _shrunk(value_K, vector_FK.T @ (moment / count), strength_L)
    else:
        some = x.double() - centre_F
        value_K, vector_NK = torch.linalg.eigh(some @ some.T / count)
        weight_FL = some.T @ (vector_NK @ _shrunk(value_K, vector_NK.T @ centred_N, strength_L)) / count
    return FittedRidge(centre_F, weight_FL, float(y.mean()))


def _shrunk(value_K: torch.Tensor, along_K: torch.Tensor, strength_L: torch.Tensor) -> torch.Tensor:
    """Return what is kept along each eigenvector at each strength, [K, L]."""
    return along_K[:, None] / (value_K.clamp_min(0.0)[:, None] + strength_L)


def _mean(x_NF: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(x_NF.shape[1], dtype=torch.float64)
    for some in torch.split(x_NF, _AT_ONCE):
        total += some.double().sum(dim=0)
    return total / len(x_NF)
