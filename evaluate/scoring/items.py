"""Say what is scored of a regression task: its frames, its clips or its patients.

Shape suffix: N scored items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.evaluate.scores.records import Record
from usjepa.evaluate.scores.units import Units
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.tasks.regression import Regression

    Floats = NDArray[np.float64]

_HOW = {
    "predictions": "each with the mean of its frames' predictions",
    "features": "with probes on the mean of its frames' features",
}


class NumberCounts(Record):
    """What a split holds."""

    frames: int
    items: int
    """Of what is scored: frames, clips or patients."""
    groups: int
    """Patients or clips."""
    mean: float | None
    """Of the items' numbers; None where there is none."""
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Items:
    """What is scored of a regression task: its frames, or its clips or patients, split by split."""

    task: Regression
    settings: EvaluateSettings

    def units(self, split: str) -> Units | None:
        """Return the units that a split's frames are of; None where each frame is scored."""
        keys = self.task.keys(self.settings.unit)
        return None if keys is None else Units.of(keys[self.task.positions(split)])

    def values(self, split: str) -> Floats:
        """Return the number of each item: of its frames, or where these have several their mean, [N]."""
        values, units = self.task.values[self.task.positions(split)], self.units(split)
        return values if units is None else _of_units(values, units)

    def first(self, split: str) -> NDArray[np.int64]:
        """Return the frames that stand for the items: each one's first, positions in the task."""
        at, units = self.task.positions(split), self.units(split)
        return at if units is None else at[units.first]

    def groups(self, split: str) -> NDArray[np.int64]:
        """Return the group of each item, [N]."""
        return self.task.groups[self.first(split)]

    def counts(self, split: str) -> NumberCounts:
        """Return what a split holds."""
        at, values = self.task.positions(split), self.values(split)
        some: dict[str, float | None] = dict.fromkeys(("mean", "sd", "low", "high"))
        if len(values):
            deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            some = {
                "mean": float(values.mean()),
                "sd": deviation,
                "low": float(values.min()),
                "high": float(values.max()),
            }
        groups = len(np.unique(self.task.groups[at]))
        return NumberCounts(frames=len(at), items=len(values), groups=groups, **some)

    def notes(self) -> list[str]:
        """Return what a reader of the scores must know of what is scored."""
        task, unit = self.task, self.settings.unit
        if unit == "frame":
            clips = len(np.unique(task.clips[task.positions(TEST)]))
            if clips == len(task.positions(TEST)):
                return []
            return [
                f"Scored per frame: {len(task.positions(TEST))} test frames are of {clips} clips, and a long clip "
                "counts more than a short one. evaluate.unit=clip or patient counts each once."
            ]
        counts = [f"{len(self.values(split))} {split}" for split in (TRAIN, VALIDATION, TEST)]
        notes = [f"Scored per {unit}, {_HOW[self.settings.gather]}: {', '.join(counts)}."]
        keys = task.keys(unit)
        units = None if keys is None else Units.of(keys)
        mixed = 0 if units is None else len(units.mixed(task.values))
        if units is not None and mixed:
            notes.append(
                f"{mixed} of {len(units)} {unit}s have frames with different values of {task.quantity}: the mean of "
                "their frames' values is what is predicted."
            )
        return notes


def _of_units(values_N: Floats, units: Units) -> Floats:
    """Return each unit's value, exactly that of its frames where they agree, else their mean."""
    values, mixed = values_N[units.first], units.mixed(values_N)
    values[mixed] = units.mean(values_N)[mixed]
    return values
