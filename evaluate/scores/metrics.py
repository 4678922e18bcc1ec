"""Score predictions: macro F1, balanced accuracy, AUROC, confusion matrix, and the constant guess.

Scores are averaged over the classes that occur in the truth. A class that the test split lacks would otherwise count
as an F1 of 0 that no encoder could mend; the task's notes name such a class instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from usjepa.evaluate.scores.records import Measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.evaluate.scores.records import Interval

Labels = NDArray[np.int64]
"""Class numbers, [n]."""
PackedNumbers = Annotated[str, Field(pattern=r"^(\d+( \d+)*)?$")]
"""Numbers as `packed` writes them."""
Matrix = tuple[tuple[int, ...], ...]
"""Frames, [truth][prediction]."""


@dataclass(frozen=True)
class Score:
    """One predictor on one test split."""

    macro_f1: float
    balanced_accuracy: float
    confusion: Matrix
    """Frames, [truth][prediction], over all classes of the task."""
    constant: bool
    """Whether every test frame got the same class: then its F1 tells nothing about the encoder."""


def score(truth: Labels, predicted: Labels, classes: int) -> Score:
    """Return how well `predicted` [n] meets `truth` [n], both numbers of 0..classes-1."""
    matrix = np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)
    f1, recall = from_confusions(matrix)
    return Score(float(f1), float(recall), _rows(matrix), _is_constant(predicted))


def from_confusions(matrices: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return macro F1 and balanced accuracy of confusion matrices [..., truth, prediction], over the truth's classes.

    An evaluation computes them ten thousand times; scikit-learn's checks of each call take a hundred times as long as
    the sums.
    """
    truth, named = matrices.sum(axis=-1, dtype=np.float64), matrices.sum(axis=-2, dtype=np.float64)
    hits = np.diagonal(matrices, axis1=-2, axis2=-1).astype(np.float64)
    present = truth > 0
    count = present.sum(axis=-1)
    f1 = np.where(present, 2 * hits / np.maximum(truth + named, 1), 0.0).sum(axis=-1) / count
    recall = np.where(present, hits / np.maximum(truth, 1), 0.0).sum(axis=-1) / count
    return f1, recall


def auroc(truth: Labels, probability_NC: NDArray[np.float64]) -> float | None:
    """Return the macro one-vs-rest AUROC, over the classes that occur; None where the truth is all of one class."""
    from sklearn.metrics import roc_auc_score

    present = np.unique(truth)
    if len(present) < 2:
        return None
    return float(np.mean([roc_auc_score(truth == number, probability_NC[:, number]) for number in present]))


def _is_constant(predicted: Labels) -> bool:
    """Return whether all predictions are one class."""
    return len(np.unique(predicted)) <= 1


def constant_baseline(truth: Labels, classes: int) -> Score:
    """Return the score of a constant guess of the most common class, [n]: the most that a constant can reach."""
    most_common = int(np.argmax(np.bincount(truth, minlength=classes)))
    return score(truth, np.full_like(truth, most_common), classes)


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return probabilities along the last axis, float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    total: NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return total


def over_seeds(values: Sequence[float], interval: Interval | None = None) -> Measure:
    """Return a measure of a predictor with seeds: mean, sample standard deviation (0 for one seed) and each value."""
    array = np.asarray(values, dtype=np.float64)
    deviation = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return Measure(mean=float(array.mean()), sd=deviation, seeds=tuple(values), interval=interval)


def summed(matrices: Sequence[Matrix]) -> Matrix:
    """Return the sum of confusion matrices: each test frame counts once per seed."""
    return _rows(np.sum([np.asarray(matrix) for matrix in matrices], axis=0))


def _rows(matrix: NDArray[np.int64]) -> Matrix:
    return tuple(tuple(int(n) for n in row) for row in matrix)


def packed(numbers: NDArray[np.int64]) -> str:
    """Return numbers as text separated by spaces: one line of `scores.json` in place of thousands."""
    return " ".join(map(str, numbers.tolist()))


def unpacked(text: str) -> NDArray[np.int64]:
    """Return the numbers of `packed`; ValueError where the text holds something else."""
    return np.array([int(word) for word in text.split()], dtype=np.int64)
