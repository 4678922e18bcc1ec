"""Score predicted numbers: mean errors, coefficient of determination, correlation.

* **MAE**, the mean of |predicted - true|, and **RMSE**, the root of the mean of its square: in the quantity's unit.
* **R2** = 1 - sum (true - predicted)^2 / sum (true - mean of the true)^2, the mean being that of the test items, as in
  scikit-learn's `r2_score`. 0 is what the test items' own mean would reach; it may be negative. Undefined where all
  true values are equal.
* **Pearson's r** of predicted and true values (1895). Undefined where either are all equal.

An undefined measure is left out and said, never reported as a number.

Shape suffixes: S seeds, N items (frames, clips or patients), R bootstrap draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.evaluate.scores.bootstrap import Draws

    Floats = NDArray[np.float64]

MEASURES = ("mae", "rmse", "r2", "pearson")
LOWER_IS_BETTER = ("mae", "rmse")
_FLOAT = r"-?\d+(\.\d+)?(e[+-]?\d+)?"
PackedFloats = Annotated[str, Field(pattern=rf"^({_FLOAT}( {_FLOAT})*)?$")]
"""Finite numbers as `packed_floats` writes them."""
_DIGITS = 7
_EQUAL = 1e-9
"""Values whose deviation is so small a share of their size are equal but for rounding."""


def rounded(values: NDArray[np.floating]) -> Floats:
    """Return values to seven digits: what `scores.json` holds is what was scored."""
    flat = [float(f"{value:.{_DIGITS}g}") for value in values.ravel().tolist()]
    return np.array(flat, dtype=np.float64).reshape(values.shape)


def packed_floats(values: Floats) -> str:
    """Return finite numbers as text separated by spaces, each as short as reads back the same."""
    return " ".join(
        f"{value:.17g}" if float(f"{value:.12g}") != value else f"{value:.12g}" for value in values.tolist()
    )


def unpacked_floats(text: str) -> Floats:
    """Return the numbers of `packed_floats`."""
    return np.array([float(word) for word in text.split()], dtype=np.float64)


def regression_measures(truth_N: Floats, predicted_N: Floats) -> dict[str, float]:
    """Return each measure by name; one that is undefined is not among them."""
    error_N = predicted_N - truth_N
    found = {"mae": float(np.abs(error_N).mean()), "rmse": float(np.sqrt(np.square(error_N).mean()))}
    if all_equal(truth_N):
        return found
    apart_N = truth_N - truth_N.mean()
    found["r2"] = float(1.0 - np.square(error_N).sum() / np.square(apart_N).sum())
    if not all_equal(predicted_N):
        other_N = predicted_N - predicted_N.mean()
        length = np.sqrt(np.square(apart_N).sum() * np.square(other_N).sum())
        found["pearson"] = float(np.clip((apart_N * other_N).sum() / length, -1.0, 1.0))
    return found


def all_equal(values_N: Floats) -> bool:
    """Return whether values are one and the same but for rounding."""
    return bool(np.ptp(values_N) <= _EQUAL * np.abs(values_N).max())


def undefined(truth_N: Floats, predicted_SN: Floats) -> str:
    """Return which measures are undefined and why, as a clause; "" where none is."""
    if all_equal(truth_N):
        return "R² and Pearson's r are undefined: all true values of the test are equal"
    constant = sum(all_equal(one) for one in predicted_SN)
    if not constant:
        return ""
    seeds = "" if len(predicted_SN) == 1 else f" in {constant} of {len(predicted_SN)} seeds"
    return f"Pearson's r is undefined: all predictions are equal{seeds}"


def drawn_measures(draws: Draws, truth_N: Floats, predicted_SN: Floats) -> dict[str, Floats]:
    """Return each measure in each draw of whole groups, [R]: means over the seeds that were drawn.

    NaN in draws where a measure is undefined. Sums over groups are enough for all four; they are taken about the means
    of all items, so that no digits are lost.
    """
    middle = truth_N.mean()
    true_SN, said_SN = np.broadcast_to(truth_N - middle, predicted_SN.shape), predicted_SN - middle
    error_SN = said_SN - true_SN
    parts = (np.abs(error_SN), error_SN**2, true_SN, true_SN**2, said_SN, said_SN**2, true_SN * said_SN)
    sums = draws.sums(np.concatenate([np.ones((1, len(truth_N))), *parts]))
    count_R, rest = sums[:, :1], sums[:, 1:].reshape(len(sums), len(parts), -1)
    absolute, square, true, true2, said, said2, both = (part / count_R for part in np.moveaxis(rest, 1, 0))
    spread_true, spread_said = _spread(true, true2), _spread(said, said2)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(spread_true > 0, 1.0 - square / spread_true, np.nan)
        pearson = (both - true * said) / np.sqrt(spread_true * spread_said)
    pearson = np.where((spread_true > 0) & (spread_said > 0), np.clip(pearson, -1.0, 1.0), np.nan)
    seeds_RS = draws.seed_weights(len(predicted_SN))
    values = {"mae": absolute, "rmse": np.sqrt(square), "r2": r2, "pearson": pearson}
    return {name: _over_drawn_seeds(one, seeds_RS) for name, one in values.items()}


def _spread(mean: Floats, mean_of_squares: Floats) -> Floats:
    """Return variances, 0 where they are no more than rounding."""
    variance = mean_of_squares - mean**2
    return np.where(variance > 1e-12 * np.maximum(mean_of_squares, 1e-300), variance, 0.0)


def _over_drawn_seeds(values_RS: Floats, weights_RS: Floats) -> Floats:
    """Return the mean over drawn seeds; NaN where one that was drawn has no value."""
    held = np.where(weights_RS > 0, values_RS, 0.0)
    means: Floats = (held * weights_RS).sum(axis=1)
    return means


def floor_predictions(train_M: Floats, items: int) -> Floats:
    """Return the mean of the training values for every test item: what can be said without looking, [N]."""
    return rounded(np.full(items, train_M.mean()))


def mean_by_name(each: Sequence[dict[str, float]]) -> dict[str, tuple[float, ...]]:
    """Return the values of the measures that every seed has."""
    return {name: tuple(one[name] for one in each) for name in MEASURES if all(name in one for one in each)}
