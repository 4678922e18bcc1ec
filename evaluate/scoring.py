"""Scores one encoder's features on one task: standardise, probe over seeds, k-NN, metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.evaluate.metrics import Score, score, spread, summed
from usjepa.evaluate.probe import Probe, fit_scaler, train_probe
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


def score_features(features: NDArray[np.float32], task: Task, settings: EvaluateSettings) -> Scored:
    """Return the scores of features [n, F] that belong to the task's frames, in their order."""
    train, validation, test = (task.positions(split) for split in (TRAIN, VALIDATION, TEST))
    scaled = fit_scaler(features[train])(features)
    labels, classes = task.labels, len(task.classes)
    probe = train_probe(scaled[train], labels[train], scaled[validation], labels[validation], classes, settings)
    logits = probe.logits(scaled[test])
    scores = [score(labels[test], one.argmax(axis=1).astype(np.int64), classes) for one in logits]
    neighbours = knn_predict(scaled[train], labels[train], scaled[test], settings.neighbours, classes)
    knn = score(labels[test], neighbours, classes)
    return Scored({"probe": _probe_told(scores, probe), "knn": _knn_told(knn)}, _softmax(logits).mean(axis=0))


def _probe_told(scores: list[Score], probe: Probe) -> dict[str, Json]:
    return {
        "macro_f1": _spread_told([s.macro_f1 for s in scores]),
        "balanced_accuracy": _spread_told([s.balanced_accuracy for s in scores]),
        "confusion": [list(row) for row in summed([s.confusion for s in scores])],
        "constant_seeds": [seed for seed, s in enumerate(scores) if s.constant],
        "best_epoch": list(probe.best_epoch),
        "epochs": list(probe.epochs),
    }


def _spread_told(values: list[float]) -> dict[str, Json]:
    mean, deviation = spread(values)
    return {"mean": mean, "sd": deviation, "seeds": values}


def _knn_told(knn: Score) -> dict[str, Json]:
    return {
        "macro_f1": knn.macro_f1,
        "balanced_accuracy": knn.balanced_accuracy,
        "confusion": [list(row) for row in knn.confusion],
        "constant": knn.constant,
    }


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    total: NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return total
