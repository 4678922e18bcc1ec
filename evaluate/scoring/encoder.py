"""Score one encoder on one task: every probe, few labels, corrupted frames.

Shape suffixes: S seeds, N test frames, C classes, R bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsjepaError
from usjepa.cache.identity import Json
from usjepa.cache.interrupt import safe_point
from usjepa.evaluate.encoders.base import STUDENT
from usjepa.evaluate.encoders.pooling import pooled_by
from usjepa.evaluate.encoders.tokens import TokenSource
from usjepa.evaluate.extensions import raised_at
from usjepa.evaluate.probes.base import PRIMARY, NotScoredError, Part, Predictions, ProbeInput
from usjepa.evaluate.probes.scaler import fit_scaler
from usjepa.evaluate.scores.bootstrap import interval
from usjepa.evaluate.scores.calibration import Calibration
from usjepa.evaluate.scores.metrics import Matrix, PackedNumbers, auroc, over_seeds, packed, score, summed
from usjepa.evaluate.scores.records import Measure, Record
from usjepa.evaluate.scoring.few_shot import FewShot, few_shot
from usjepa.evaluate.scoring.gathering import gathered, merged, test_units
from usjepa.evaluate.scoring.robustness import Corrupted, Robustness, robustness, seen_corrupted
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.recipes.evaluate import Corruption, EvaluateSettings
    from usjepa.evaluate.encoders.base import Encoder
    from usjepa.evaluate.encoders.features import KeptFeatures
    from usjepa.evaluate.probes.base import Probe
    from usjepa.evaluate.scores.bootstrap import Draws
    from usjepa.evaluate.scores.metrics import Labels
    from usjepa.evaluate.scores.units import Units
    from usjepa.evaluate.tasks.task import Task

    Floats = NDArray[np.float64]

Live = Callable[[], "tuple[Encoder | None, str]"]
"""Returns an encoder that reads pixels, so that they may be corrupted first, or None and why there is none."""


class ProbeScores(Record):
    """The scores of one probe."""

    measures: dict[str, Measure]
    confusion: Matrix
    """Summed over seeds."""
    constant: tuple[int, ...]
    """Seeds that give every test frame the same class: their scores tell nothing about the encoder."""
    predicted: tuple[PackedNumbers, ...]
    """Class of every test frame (clip, patient: what is scored), numbers separated by spaces; one text per seed."""
    about: dict[str, Json]
    """What the probe reports about its training."""
    calibration: Calibration | None


class EncoderScores(Record):
    """Everything that was measured of one encoder on one task."""

    task: str
    encoder: str
    probes: dict[str, ProbeScores]
    """In the order of the report's columns; the linear probe first."""
    few_shot: tuple[FewShot, ...]
    """Of the linear probe."""
    robustness: Robustness | None
    """Of the linear probe; None where no corruption was tested."""

    @property
    def primary(self) -> ProbeScores:
        """The linear probe's."""
        return self.probes[PRIMARY]

    @property
    def macro_f1(self) -> Measure:
        """The linear probe's."""
        return self.primary.measures["macro_f1"]


@dataclass(frozen=True)
class Described:
    """An encoder as it was used on a task."""

    key: str
    """Its key in `scores.json`."""
    title: str
    pooling: str
    """How a frame becomes one vector, and the input."""
    dim: int
    task: str
    identity: dict[str, Json]
    """Which its features are kept under."""

    @classmethod
    def of(cls, key: str, title: str, encoder: Encoder, task: str, dim: int) -> Described:
        """Describe an encoder whose features have `dim` numbers."""
        return cls(key, title, f"{encoder.pooling}; input: {encoder.given}", dim, task, encoder.identity)


@dataclass(frozen=True)
class Scored:
    """The scores of an encoder on a task, and the arrays that the report needs beside them."""

    record: EncoderScores
    described: Described
    probability_NC: Floats | None
    """Of the test frames, mean over the linear probe's seeds; None where it saw mean features of several."""
    drawn_R: Floats | None
    """The linear probe's macro F1 in each bootstrap draw; None without draws."""
    test_NF: NDArray[np.float32] | None
    """The student's features of the test frames; None for others, whose features nobody needs any more."""
    notes: tuple[str, ...]
    """What could not be measured and why."""


@dataclass(frozen=True)
class EncoderScoring:
    """Scores encoders on one task by the same probes and in the same bootstrap draws."""

    task: Task
    probes: tuple[Probe, ...]
    """The linear probe first."""
    draws: Draws | None
    settings: EvaluateSettings
    kept: KeptFeatures

    def score(self, name: str, title: str, encoder: Encoder, live: Live) -> Scored:
        """Score an encoder.

        Args:
            name: its key in `scores.json`.
            title: what notes call it.
            encoder: what turns frames into features.
            live: gives the encoder that sees corrupted frames.

        Raises:
            UsjepaError: the encoder gave a number that is not finite, or another package's probe failed.
            Interrupted: a stop was requested; features computed so far are kept.
        """
        pooled = pooled_by(encoder, self.settings.pooling)
        features = self.kept.features(pooled, self.task)
        given = self._given(encoder, features)
        dim, test_NF = features.shape[1], features[self.task.positions(TEST)] if name == STUDENT else None
        del features  # `given` holds them standardised: one copy is enough
        made, notes = self._predictions(title, given)
        units = None if self._merges else test_units(self.task, self.settings)
        scored = {
            key: _scores_of(given, gathered(one, units, given.classes), self.draws, units) for key, one in made.items()
        }
        robust, note = self._robustness(title, made[PRIMARY], given, live)
        record = EncoderScores(
            task=self.task.name,
            encoder=name,
            probes={key: one for key, (one, _) in scored.items()},
            few_shot=few_shot(given, units),
            robustness=robust,
        )
        probability_SNC = made[PRIMARY].probability_SNC
        assert probability_SNC is not None
        return Scored(
            record=record,
            described=Described.of(name, title, pooled, self.task.name, dim),
            probability_NC=None if self._merges else probability_SNC.mean(axis=0),
            drawn_R=scored[PRIMARY][1].get("macro_f1"),
            test_NF=test_NF,
            notes=(*notes, *note),
        )

    @property
    def _merges(self) -> bool:
        """Whether probes see mean features of several frames."""
        return self.settings.gather == "features"

    def _given(self, encoder: Encoder, features: NDArray[np.float32]) -> ProbeInput:
        """Return what probes are given: features standardised by the training split and parted."""
        task, tokens = self.task, None if self._merges else TokenSource(encoder, self.kept)
        if self._merges:
            task, features = merged(task, features, self.settings)
        where = {split: task.positions(split) for split in (TRAIN, VALIDATION, TEST)}
        scaler = fit_scaler(features[where[TRAIN]])
        parts = {split: Part(scaler(features[at]), task.labels[at]) for split, at in where.items()}
        return ProbeInput(
            train=parts[TRAIN],
            validation=parts[VALIDATION],
            test=parts[TEST],
            classes=len(task.classes),
            settings=self.settings,
            scaler=scaler,
            task=task,
            tokens=tokens,
        )

    def _predictions(self, title: str, given: ProbeInput) -> tuple[dict[str, Predictions], list[str]]:
        """Return what each probe predicts, and which can't score this encoder."""
        made, notes = {}, []
        for probe in self.probes:
            try:
                made[probe.name] = self._predicted(probe, given)
            except NotScoredError as error:
                notes.append(f"{probe.described.title}: {title} is left out: {error}")
        return made, notes

    def _predicted(self, probe: Probe, given: ProbeInput) -> Predictions:
        """Return what a probe predicts; whatever another package's probe does wrong is named by it."""
        if probe.name not in self.settings.probes:
            return probe.score(given)
        try:
            made = probe.score(given)
        except (NotScoredError, UsjepaError):
            raise
        except Exception as error:  # other people's code raises any type there is
            raise UsjepaError(f"{self.task.name}: probe {probe.name} failed{raised_at(error)}: {error!r}") from error
        faults = made.faults(given) if isinstance(made, Predictions) else [f"it returned a {type(made).__name__}"]
        if faults:
            raise UsjepaError(f"{self.task.name}: probe {probe.name} broke its contract: {'; '.join(faults)}.")
        return made

    def _robustness(
        self, title: str, made: Predictions, given: ProbeInput, live: Live
    ) -> tuple[Robustness | None, list[str]]:
        """Return the scores on corrupted frames, None where there are none, and a note where they were wanted."""
        if not self.settings.corruptions:
            return None, []
        if self._merges:
            return None, [f"{self.task.name}: corruptions are not tested, since probes see mean features of frames."]
        encoder, why = live()
        if encoder is None:
            return None, [f"{self.task.name}: {title} is not tested on corrupted frames: {why}"]
        seeing, chosen = pooled_by(encoder, self.settings.pooling), seen_corrupted(self.task, self.settings)
        tested = self.task.only(self.task.positions(TEST)[chosen])

        def under(corruption: Corruption) -> NDArray[np.float32]:
            safe_point()
            return self.kept.features(Corrupted(seeing, corruption), tested)

        return robustness(made, given, chosen, under), []


def _scores_of(
    given: ProbeInput, made: Predictions, draws: Draws | None, units: Units | None = None
) -> tuple[ProbeScores, dict[str, Floats]]:
    """Return a probe's scores, and each measure's value in each draw, [R]; `made` is of units where there are any."""
    truth_N = given.test.y if units is None else given.test.y[units.first]
    scores = [score(truth_N, one, given.classes) for one in made.predicted_SN]
    values = {"macro_f1": [s.macro_f1 for s in scores], "balanced_accuracy": [s.balanced_accuracy for s in scores]}
    if made.probability_SNC is not None:
        values["auroc"] = [area for one in made.probability_SNC if (area := auroc(truth_N, one)) is not None]
    drawn = _drawn(truth_N, given.classes, made, draws)
    record = ProbeScores(
        measures={
            **{name: _measure(each, made.seeded, drawn.get(name)) for name, each in values.items() if each},
            **made.measures,
        },
        confusion=summed([s.confusion for s in scores]),
        constant=tuple(seed for seed, s in enumerate(scores) if s.constant),
        predicted=tuple(packed(one) for one in made.predicted_SN),
        about=dict(made.about),
        calibration=made.calibration,
    )
    return record, drawn


def _drawn(truth_N: Labels, classes: int, made: Predictions, draws: Draws | None) -> dict[str, Floats]:
    """Return each measure's value in each draw; none where there are no draws, or one group alone."""
    if draws is None or draws.groups < 2:
        return {}
    found = draws.of_predictions(truth_N, made.predicted_SN, classes)
    if made.probability_SNC is not None:
        found["auroc"] = draws.auroc(truth_N, made.probability_SNC)
    return found


def _measure(values: list[float], seeded: bool, drawn_R: Floats | None) -> Measure:
    ends = None if drawn_R is None else interval(drawn_R)
    return over_seeds(values, ends) if seeded else Measure(mean=values[0], interval=ends)
