"""Score features of labelled frames by logistic regression and by k nearest neighbours.

Both are those of `usjepa-evaluate`: features standardised over the frames that are fitted on, `evaluate.logistic_c` and
`evaluate.neighbours`. Neither draws anything at random.

Shape suffixes: N frames, F features, G groups, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.randomness import generator
from usjepa.train.probe.folds import FITTED
from usjepa.train.probe.knn import knn_predict
from usjepa.train.probe.logistic import fit_logistic
from usjepa.train.probe.scaler import fit_scaler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.recipes.evaluate import EvaluateSettings

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float32]

_DRAWS = 200
"""Times that groups are drawn anew for the deviation."""


@dataclass(frozen=True)
class ProbeScore:
    """What a probe found, from 0 to 1."""

    macro_f1: float
    """Of logistic regression."""
    sd: float
    """Its standard deviation over groups drawn anew: how far chance in who was scored carries it."""
    knn: float
    """Macro F1 of k nearest neighbours."""


def probe_score(
    features_NF: Floats, labels_N: Ints, groups_N: Ints, fold_N: Ints, settings: EvaluateSettings
) -> ProbeScore | None:
    """Return the score over all scored frames; None where a feature is not finite.

    Args:
        features_NF: pooled tokens of each frame.
        labels_N: classes, from 0.
        groups_N: numbers of patients or clips.
        fold_N: in which fold a frame is scored; `FITTED`: in none.
        settings: strength and number of neighbours.
    """
    if not np.isfinite(features_NF).all():
        return None
    classes = int(labels_N.max()) + 1
    by_line, by_neighbours = np.full(len(labels_N), FITTED), np.full(len(labels_N), FITTED)
    for fold in np.unique(fold_N[fold_N != FITTED]):
        fitted, scored = fold_N != fold, fold_N == fold
        scaler, y = fit_scaler(features_NF[fitted]), labels_N[fitted]
        x, queries = scaler(features_NF[fitted]), scaler(features_NF[scored])
        by_line[scored] = fit_logistic(x, y, settings.logistic_c)[0].predict(queries)
        by_neighbours[scored] = knn_predict(x, y, queries, settings.neighbours, classes)
    which = fold_N != FITTED
    confusions = _confusions(labels_N[which], by_line[which], groups_N[which], classes)
    nearest = _confusions(labels_N[which], by_neighbours[which], groups_N[which], classes)
    sd = float(macro_f1(_drawn_anew(confusions)).std())
    return ProbeScore(float(macro_f1(confusions.sum(0))), sd, float(macro_f1(nearest.sum(0))))


def constant_guess(labels_N: Ints) -> float:
    """Return the macro F1 of the most common class as a constant guess."""
    guess = np.full_like(labels_N, np.bincount(labels_N).argmax())
    return float(macro_f1(_confusions(labels_N, guess, np.zeros_like(labels_N), int(labels_N.max()) + 1).sum(0)))


def _confusions(true_N: Ints, found_N: Ints, groups_N: Ints, classes: int) -> NDArray[np.int64]:
    """Return a matrix of each group, [G, truth, prediction]."""
    names, group_N = np.unique(groups_N, return_inverse=True)
    cells = (group_N * classes + true_N) * classes + found_N
    return np.bincount(cells, minlength=len(names) * classes**2).reshape(-1, classes, classes)


def _drawn_anew(confusions_GCC: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sums of matrices of as many groups, drawn with replacement, [draws, C, C]."""
    count = len(confusions_GCC)
    drawn = generator("usjepa probe, groups", count).multinomial(count, np.full(count, 1 / count), _DRAWS)
    return np.tensordot(drawn, confusions_GCC, 1)


def macro_f1(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean F1 over the classes of the truth, of matrices [..., truth, prediction]; 0 where there is none."""
    truth, found = confusions.sum(-1).astype(np.float64), confusions.sum(-2).astype(np.float64)
    hits = np.diagonal(confusions, axis1=-2, axis2=-1).astype(np.float64)
    present = truth > 0
    f1 = np.where(present, 2 * hits / np.maximum(truth + found, 1), 0.0)
    mean: NDArray[np.float64] = f1.sum(-1) / np.maximum(present.sum(-1), 1)
    return mean
