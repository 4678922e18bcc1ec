"""Scores one encoder's features on one task: standardise, probe over seeds, logistic regression, k-NN, metrics.

What a classifier said of every test frame is kept beside its scores, so that reports can be compared frame by frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.evaluate.intervals import Resamples, interval, replicate, resample
from usjepa.evaluate.logistic import fit_logistic
from usjepa.evaluate.metrics import auroc, score, spread, summed
from usjepa.evaluate.probe import Probe, Scaler, fit_scaler, train_probe
from usjepa.evaluate.splits import TEST, TRAIN, VALIDATION
from usjepa.train.knn import knn_predict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.settings import EvaluateSettings
    from usjepa.evaluate.tasks import Task


@dataclass(frozen=True)
class Scored:
    """The scores of an encoder on a task, as they go into `scores.json`, and what its probes say of the test frames."""

    told: dict[str, Json]
    probability: NDArray[np.float64]
    """[test frames, classes] mean over the probes."""
    scaler: Scaler
    probe: Probe


def score_features(
    features: NDArray[np.float32], task: Task, settings: EvaluateSettings, resamples: Resamples | None = None
) -> Scored:
    """Return the scores of features [n, F] that belong to the task's frames, in their order.

    Args:
        features: one row a frame.
        task: whose frames, labels, splits and groups.
        settings: the protocol.
        resamples: of the test groups; drawn anew where they are not given.
    """
    train, validation, test = (task.positions(split) for split in (TRAIN, VALIDATION, TEST))
    labels, classes, truth = task.labels, len(task.classes), task.labels[test]
    drawn = resamples if resamples is not None else resample(task.groups[test], settings.resamples)
    judge = _Judge(truth, classes, drawn)
    scaler = fit_scaler(features[train])
    scaled = scaler(features)
    fitted_on = scaled[train], labels[train], scaled[validation], labels[validation], classes
    probe = train_probe(*fitted_on, settings)
    logistic = fit_logistic(*fitted_on)
    probability = softmax(probe.logits(scaled[test]))
    neighbours = knn_predict(scaled[train], labels[train], scaled[test], settings.neighbours, classes)
    told: dict[str, Json] = {
        "probe": {
            **judge.over_seeds(predicted_by(probability), probability),
            "best_epoch": list(probe.best_epoch),
            "epochs": list(probe.epochs),
        },
        "logistic": {
            **judge.once(softmax(logistic.logits(scaled[test]))),
            "strength": logistic.strength,
            "converged": logistic.converged,
        },
        "knn": judge.named(neighbours),
    }
    return Scored(told, probability.mean(axis=0), scaler, probe)


@dataclass(frozen=True)
class _Judge:
    """Turns what a classifier says of a task's test frames into what scores.json holds."""

    truth: NDArray[np.int64]
    classes: int
    resamples: Resamples

    def over_seeds(self, predicted_Sn: NDArray[np.int64], probability_SnC: NDArray[np.float64]) -> dict[str, Json]:
        """Return mean, spread and interval of classifiers that differ by seed."""
        scores = [score(self.truth, one, self.classes) for one in predicted_Sn]
        areas = [auroc(self.truth, one) for one in probability_SnC]
        again = replicate(self.truth, predicted_Sn, self.classes, self.resamples, probability_SnC)
        return {
            "macro_f1": {**_spread_told([s.macro_f1 for s in scores]), "interval": self._interval(again.macro_f1)},
            "balanced_accuracy": {
                **_spread_told([s.balanced_accuracy for s in scores]),
                "interval": self._interval(again.balanced_accuracy),
            },
            "auroc": None
            if areas[0] is None
            else {**_spread_told([a for a in areas if a is not None]), "interval": self._interval(again.auroc)},
            "confusion": [list(row) for row in summed([s.confusion for s in scores])],
            "constant_seeds": [seed for seed, s in enumerate(scores) if s.constant],
            "predictions": [written(one) for one in predicted_Sn],
        }

    def once(self, probability_nC: NDArray[np.float64]) -> dict[str, Json]:
        """Return score and intervals of a classifier that gives probabilities."""
        predicted = predicted_by(probability_nC)
        again = replicate(self.truth, predicted[None], self.classes, self.resamples, probability_nC[None])
        area = auroc(self.truth, probability_nC)
        return {**self.named(predicted), "auroc": area, "auroc_interval": self._interval(again.auroc)}

    def named(self, predicted_n: NDArray[np.int64]) -> dict[str, Json]:
        """Return score and intervals of a classifier that names a class and no more."""
        found = score(self.truth, predicted_n, self.classes)
        again = replicate(self.truth, predicted_n[None], self.classes, self.resamples)
        return {
            "macro_f1": found.macro_f1,
            "interval": self._interval(again.macro_f1),
            "balanced_accuracy": found.balanced_accuracy,
            "confusion": [list(row) for row in found.confusion],
            "constant": found.constant,
            "predictions": [written(predicted_n)],
        }

    def _interval(self, replicates: NDArray[np.float64]) -> list[float] | None:
        """Return the interval as JSON; None with a single group, of which nothing is to be learnt about others."""
        found = interval(replicates) if self.resamples.groups > 1 else None
        return None if found is None else list(found)


def softmax(logits: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities over the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    total: NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return total


def predicted_by(scores: NDArray[np.float64] | NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the class of the highest score over the last axis; the first of equal ones."""
    return np.asarray(scores.argmax(axis=-1), dtype=np.int64)


def written(numbers: NDArray[np.int64]) -> str:
    """Return whole numbers as text, apart by spaces: one line of scores.json for a thousand frames."""
    return " ".join(str(number) for number in numbers.tolist())


def unwritten(text: str) -> NDArray[np.int64]:
    """Return the numbers that `written` wrote; ValueError where it is no such text."""
    return np.array([int(word) for word in text.split()], dtype=np.int64)


def _spread_told(values: list[float]) -> dict[str, Json]:
    mean, deviation = spread(values)
    return {"mean": mean, "sd": deviation, "seeds": values}
