"""Gather the frames of a task into the clips or patients that are scored.

A unit never reaches over two splits: frames of a patient that the data has on both sides are two units.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.evaluate.scores.units import Units
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.probes.base import Predictions
    from usjepa.evaluate.tasks.task import Task

HOW = {
    "predictions": "each with the mean of its frames' predictions",
    "features": "with probes on the mean of its frames' features",
}
"""How frames become what is scored."""


def test_units(task: Task, settings: EvaluateSettings) -> Units | None:
    """Return the units that the task's test frames are of; None where each frame is scored."""
    keys = task.keys(settings.unit)
    return None if keys is None else Units.of(keys[task.positions(TEST)])


def scored_positions(task: Task, settings: EvaluateSettings) -> NDArray[np.int64]:
    """Return the test frames that stand for what is scored: all of them, or each unit's first; positions, ascending."""
    test, units = task.positions(TEST), test_units(task, settings)
    return test if units is None else test[units.first]


def refuse_mixed(task: Task, settings: EvaluateSettings) -> None:
    """Raise UsageError where frames of several classes would be one unit: it then has no label to be scored by."""
    keys = task.keys(settings.unit)
    if keys is None:
        return
    units = _within_splits(task, keys)
    mixed = units.mixed(task.labels)
    if len(mixed):
        labels = np.unique(task.labels[units.index_N == mixed[0]])
        raise UsageError(
            f"{task.name}: evaluate.unit={settings.unit} needs one label for each, and {len(mixed)} of {len(units)} "
            f"have frames of several classes (one of them: {', '.join(task.classes[i] for i in labels)}). Score clips "
            "or frames: --set evaluate.unit=clip."
        )


def merged(
    task: Task, features_NF: NDArray[np.float32], settings: EvaluateSettings
) -> tuple[Task, NDArray[np.float32]]:
    """Return the task with the first frame of each unit alone, and the mean features of the unit, float32 [U, F]."""
    keys = task.keys(settings.unit)
    if keys is None:
        return task, features_NF
    units = _within_splits(task, keys)
    return task.only(units.first), units.mean(features_NF).astype(np.float32)


def gathered(made: Predictions, units: Units | None, classes: int) -> Predictions:
    """Return what a probe says of units: the class of the highest mean probability, or the vote where it has none."""
    if units is None:
        return made
    if made.probability_SNC is None:
        return replace(made, predicted_SN=units.vote(made.predicted_SN, classes), calibration=None)
    probability_SUC = np.stack([units.mean(one) for one in made.probability_SNC])
    predicted_SU = probability_SUC.argmax(axis=2).astype(np.int64)
    return replace(made, predicted_SN=predicted_SU, probability_SNC=probability_SUC, calibration=None)


def unit_note(task: Task, settings: EvaluateSettings) -> str:
    """Return what is scored, where it is not the frame; "" where it is."""
    keys = task.keys(settings.unit)
    if keys is None:
        return ""
    counts = [f"{len(Units.of(keys[task.positions(split)]))} {split}" for split in (TRAIN, VALIDATION, TEST)]
    test = len(task.positions(TEST))
    return (
        f"Scored per {settings.unit}, {HOW[settings.gather]}: {', '.join(counts)}. The {test} test frames count "
        f"only through their {settings.unit}s. Calibration and corruptions, where shown, are per frame."
    )


def _within_splits(task: Task, keys_N: NDArray[np.int64]) -> Units:
    _, split_N = np.unique(task.splits.astype(str), return_inverse=True)
    return Units.of(keys_N * 3 + split_N)
