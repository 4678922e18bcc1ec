"""Define what a probe is: frozen features in, predictions of the test frames out.

Macro F1, balanced accuracy and AUROC, with their intervals, are computed from the predictions for every probe alike.

Shape suffixes: S seeds, N test frames, F features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from usjepa.evaluate.scores.records import Measure, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.encoders.tokens import TokenSource
    from usjepa.evaluate.probes.scaler import Scaler
    from usjepa.evaluate.scores.calibration import Calibration
    from usjepa.evaluate.tasks.task import Task

PRIMARY = "probe"
"""Name of the linear probe: encoders are ranked and compared by it, few labels and corruptions are measured with it."""


class ProbeRecord(Record):
    """How the report presents a probe."""

    title: str
    """As "Attentive probe": names it in notes and explanations."""
    column: str
    """As "attentive": names it in tables, short."""
    meaning: str
    """What it measures and what its score shows, for a reader who knows no statistics; "": not explained."""
    shown: tuple[str, ...] = ("macro_f1",)
    """Measures that the table of all measures has of it, in order."""
    summary: str = ""
    """A few words that explain it below the first table, where its macro F1 then stands too; "": it does not."""
    caption: str = ""
    """What its own table for a paper is of, as "attentive probes on frozen patch tokens"; "": it has none."""


@dataclass(frozen=True)
class Part:
    """The frames of one split."""

    x: NDArray[np.float32]
    """[n, F] standardised features, or [n, T, D] patch tokens."""
    y: NDArray[np.int64]
    """[n] classes, 0 to C - 1."""

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class ProbeInput:
    """One encoder's features of one task, as a probe gets them."""

    train: Part
    validation: Part
    """What early stopping and choices may look at; may be empty."""
    test: Part
    """Its classes are for scoring alone."""
    classes: int
    settings: EvaluateSettings
    scaler: Scaler
    """Fitted on the training features: standardises others of the encoder."""
    task: Task
    """The frames behind the features, whose order `train`, `validation` and `test` follow."""
    tokens: TokenSource | None = None
    """Reads the encoder's patch tokens of any frames of the task; None: the encoder has none."""


@dataclass(frozen=True)
class Predictions:
    """The classes that a probe gives the test frames."""

    predicted_SN: NDArray[np.int64]
    """A row per seed; one row for a probe without seeds."""
    probability_SNC: NDArray[np.float64] | None = None
    """For the AUROC; None: the probe gives no probabilities."""
    seeded: bool = True
    """Whether rows are seeds, whose spread is then reported."""
    measures: Mapping[str, Measure] = field(default_factory=dict)
    """Further measures by name, beside those that follow from the predictions."""
    about: Mapping[str, Json] = field(default_factory=dict)
    """What else `scores.json` should hold about the training, as epochs or a chosen strength."""
    calibration: Calibration | None = None
    predict: Callable[[NDArray[np.float32]], NDArray[np.int64]] | None = None
    """Predicts other standardised features [n, F] -> [S, n]: needed to score corrupted frames."""

    def faults(self, given: ProbeInput) -> list[str]:
        """Return what is wrong with predictions for the test frames of an input, as phrases; none: nothing."""
        predicted, found = self.predicted_SN, []
        seeds, frames = len(predicted), len(given.test)
        if predicted.shape != (seeds, frames) or not seeds or predicted.dtype != np.int64:
            found.append(f"predicted_SN is {predicted.dtype} {list(predicted.shape)}, not int64 [seeds, {frames}]")
        elif not ((predicted >= 0) & (predicted < given.classes)).all():
            found.append(f"predicted_SN has classes outside of 0 to {given.classes - 1}")
        if not self.seeded and seeds > 1:
            found.append(f"it has {seeds} rows of predictions, though seeded is False")
        if self.probability_SNC is not None and self.probability_SNC.shape != (seeds, frames, given.classes):
            wanted = [seeds, frames, given.classes]
            found.append(f"probability_SNC has the shape {list(self.probability_SNC.shape)}, not {wanted}")
        taken = sorted({"macro_f1", "balanced_accuracy", "auroc"} & set(self.measures))
        return [*found, *[f"{name} is computed from the predictions and can't be given" for name in taken]]


class NotScoredError(Exception):
    """A probe can't score an encoder; the message is the reason, as "it gives no patch tokens"."""


class Probe(Protocol):
    """A way to read classes out of frozen features."""

    @property
    def name(self) -> str:
        """Its key in recipes, `scores.json`, `scores.csv` and `compare`."""
        ...

    @property
    def version(self) -> int:
        """Raised when the same features would give other predictions: a finished report is then made again."""
        ...

    @property
    def described(self) -> ProbeRecord:
        """How the report presents it."""
        ...

    def score(self, given: ProbeInput) -> Predictions:
        """Train on the training frames and predict the test frames, the same on every machine.

        Raises:
            NotScoredError: the encoder lacks what the probe needs; the report names it.
        """
        ...


def classes_of(logits_SNC: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the class of the highest logit, int64 [S, N]."""
    classes: NDArray[np.int64] = logits_SNC.argmax(axis=2).astype(np.int64)
    return classes
