"""Scores one encoder's features on one task: standardise, then probe over seeds, logistic regression and k-NN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.evaluate.probes.linear import Probe, train_probe
from usjepa.evaluate.probes.logistic import fit_logistic
from usjepa.evaluate.probes.scaler import Scaler, fit_scaler
from usjepa.evaluate.scores.bootstrap import interval
from usjepa.evaluate.scores.calibration import calibration_told
from usjepa.evaluate.scores.metrics import auroc, packed, score, softmax, spread, summed
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION
from usjepa.train.run.knn import knn_predict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.scores.bootstrap import Draws
    from usjepa.evaluate.tasks.task import Task

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """An encoder's standardised features of a task, by split, and their classes."""

    train: NDArray[np.float32]
    train_labels: Ints
    validation: NDArray[np.float32]
    validation_labels: Ints
    test: NDArray[np.float32]
    test_labels: Ints
    classes: int
    scaler: Scaler
    """Fitted on the training split."""


@dataclass(frozen=True)
class Scored:
    """The scores of an encoder on a task, and what more is made of its probes."""

    told: dict[str, Json]
    """As it goes into `scores.json`."""
    probability: Floats
    """[test frames, classes] mean over the probes."""
    drawn: dict[str, Floats]
    """Measure -> the probe's score in each bootstrap draw, [R]; empty without draws."""
    probe: Probe
    data: Data


def data_of(features: NDArray[np.float32], task: Task) -> Data:
    """Return features [n, F] that belong to the task's frames, standardised by the training split and parted."""
    train, validation, test = (task.positions(split) for split in (TRAIN, VALIDATION, TEST))
    scaler, labels = fit_scaler(features[train]), task.labels
    return Data(
        scaler(features[train]),
        labels[train],
        scaler(features[validation]),
        labels[validation],
        scaler(features[test]),
        labels[test],
        len(task.classes),
        scaler,
    )


def score_features(
    features: NDArray[np.float32], task: Task, settings: EvaluateSettings, draws: Draws | None = None
) -> Scored:
    """Return the scores of features [n, F] that belong to the task's frames; intervals from the draws, if any."""
    data = data_of(features, task)
    probe = train_probe(data.train, data.train_labels, data.validation, data.validation_labels, data.classes, settings)
    logits = probe.logits(data.test)
    predicted_SN, probability_SNC = logits.argmax(axis=2).astype(np.int64), softmax(logits)
    drawn = drawn_scores(draws, data.test_labels, data.classes, predicted_SN, probability_SNC)
    told = {
        "probe": {
            **seeded_told(data.test_labels, data.classes, predicted_SN, probability_SNC, drawn),
            "best_epoch": list(probe.best_epoch),
            "epochs": list(probe.epochs),
        },
        "calibration": calibration_told(
            logits, data.test_labels, probe.logits(data.validation), data.validation_labels
        ),
        "logistic": _logistic_told(data, draws),
        "knn": _knn_told(data, settings.neighbours, draws),
    }
    return Scored(told, probability_SNC.mean(axis=0), drawn, probe, data)


def drawn_scores(
    draws: Draws | None, truth_N: Ints, classes: int, predicted_SN: Ints, probability_SNC: Floats | None
) -> dict[str, Floats]:
    """Return each measure's value in each draw; none where there are no draws, or one group alone."""
    if draws is None or draws.groups < 2:
        return {}
    found = draws.of_predictions(truth_N, predicted_SN, classes)
    if probability_SNC is not None:
        found["auroc"] = draws.auroc(truth_N, probability_SNC)
    return found


def seeded_told(
    truth_N: Ints, classes: int, predicted_SN: Ints, probability_SNC: Floats, drawn: dict[str, Floats]
) -> dict[str, Json]:
    """Return the scores of a predictor that was trained from several seeds, as they go into `scores.json`."""
    scores = [score(truth_N, one, classes) for one in predicted_SN]
    areas = [auroc(truth_N, one) for one in probability_SNC]
    measures: dict[str, list[float]] = {
        "macro_f1": [s.macro_f1 for s in scores],
        "balanced_accuracy": [s.balanced_accuracy for s in scores],
        "auroc": [area for area in areas if area is not None],
    }
    return {
        **{name: _spread_told(values, drawn.get(name)) for name, values in measures.items() if values},
        "confusion": [list(row) for row in summed([s.confusion for s in scores])],
        "constant_seeds": [seed for seed, s in enumerate(scores) if s.constant],
        "predicted": [packed(one) for one in predicted_SN],
    }


def _spread_told(values: list[float], drawn_R: Floats | None) -> dict[str, Json]:
    mean, deviation = spread(values)
    told = {"mean": mean, "sd": deviation, "seeds": values}
    return told if drawn_R is None else {**told, "interval": interval(drawn_R)}


def _logistic_told(data: Data, draws: Draws | None) -> dict[str, Json]:
    fitted = fit_logistic(data.train, data.train_labels, data.validation, data.validation_labels, data.classes)
    probability_NC = fitted.probability(data.test)
    told = _single_told(data, probability_NC.argmax(axis=1).astype(np.int64), draws, probability_NC)
    return {**told, "strength": fitted.strength, "chosen": fitted.chosen, "converged": fitted.converged}


def _knn_told(data: Data, neighbours: int, draws: Draws | None) -> dict[str, Json]:
    predicted = knn_predict(data.train, data.train_labels, data.test, neighbours, data.classes)
    return _single_told(data, predicted, draws, None)


def _single_told(data: Data, predicted_N: Ints, draws: Draws | None, probability_NC: Floats | None) -> dict[str, Json]:
    """Return the scores of a predictor that no seed changes."""
    found = score(data.test_labels, predicted_N, data.classes)
    probability_1NC = None if probability_NC is None else probability_NC[None]
    drawn = drawn_scores(draws, data.test_labels, data.classes, predicted_N[None], probability_1NC)
    return {
        "macro_f1": found.macro_f1,
        "balanced_accuracy": found.balanced_accuracy,
        **({} if probability_NC is None else {"auroc": auroc(data.test_labels, probability_NC)}),
        "interval": {name: interval(values) for name, values in drawn.items()},
        "confusion": [list(row) for row in found.confusion],
        "constant": found.constant,
        "predicted": packed(predicted_N),
    }
