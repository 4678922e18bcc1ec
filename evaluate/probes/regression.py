"""Define what a probe for numbers is: features in, a number per test frame out.

Errors and correlations, with their intervals, are computed from the numbers for every probe alike.

Shape suffixes: S seeds, N test frames, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.encoders.tokens import TokenSource
    from usjepa.evaluate.probes.base import ProbeRecord
    from usjepa.evaluate.scores.units import Units
    from usjepa.evaluate.tasks.task import Task


@dataclass(frozen=True)
class NumberPart:
    """The frames of one split; with `evaluate.gather=features`, its clips or patients."""

    x: NDArray[np.float32]
    """[n, F] standardised features."""
    y: NDArray[np.float64]
    """[n] true numbers."""
    frames: Task
    """What stands behind them, in their order."""

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class NumberInput:
    """One encoder's features of one regression task."""

    train: NumberPart
    validation: NumberPart
    """What choices may look at; may be empty."""
    test: NumberPart
    """Its numbers are for scoring alone."""
    settings: EvaluateSettings
    held_units: Units | None
    """Clips or patients of the validation frames, whose predictions are averaged before they are judged; None: frames
    are judged."""
    tokens: TokenSource | None
    """Reads the encoder's patch tokens; None: there are none."""


@dataclass(frozen=True)
class Numbers:
    """What a probe says of the test frames."""

    predicted_SN: NDArray[np.float64]
    """A row per seed; one row for a probe without seeds."""
    seeded: bool = True
    about: Mapping[str, Json] = field(default_factory=dict)
    """What else `scores.json` should hold about the training, as a chosen strength."""


class Regressor(Protocol):
    """A way to read a number out of frozen features."""

    @property
    def name(self) -> str:
        """Its key in `scores.json`, `scores.csv` and `compare`."""
        ...

    @property
    def described(self) -> ProbeRecord:
        """How the report presents it."""
        ...

    def predict(self, given: NumberInput) -> Numbers:
        """Train on the training frames and predict the test frames, the same on every machine.

        Raises:
            NotScoredError: the encoder lacks what the probe needs; the report names it.
        """
        ...


def held_error(predicted_V: NDArray[np.float64], truth_V: NDArray[np.float64], units: Units | None) -> float:
    """Return the mean squared error of validation frames, or of their clips or patients."""
    if units is not None:
        predicted_V, truth_V = units.mean(predicted_V), units.mean(truth_V)
    return float(np.square(predicted_V - truth_V).mean())
