"""Score encoders on regression: a number for each frame, clip or patient, with intervals.

Shape suffixes: S seeds, N scored items (frames, clips or patients), R bootstrap draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.identity import Json
from usjepa.evaluate.encoders.pooling import pooled_by
from usjepa.evaluate.encoders.tokens import TokenSource
from usjepa.evaluate.probes.base import NotScoredError
from usjepa.evaluate.probes.regression import NumberInput, NumberPart, Numbers
from usjepa.evaluate.probes.ridge import RIDGE
from usjepa.evaluate.probes.scaler import fit_scaler
from usjepa.evaluate.scores.bootstrap import Draws, interval
from usjepa.evaluate.scores.metrics import over_seeds
from usjepa.evaluate.scores.records import Measure, Record
from usjepa.evaluate.scores.regression import (
    PackedFloats,
    drawn_measures,
    floor_predictions,
    mean_by_name,
    packed_floats,
    regression_measures,
    rounded,
    undefined,
)
from usjepa.evaluate.scoring.encoder import Described
from usjepa.evaluate.scoring.items import Items
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.encoders.base import Encoder
    from usjepa.evaluate.encoders.features import KeptFeatures
    from usjepa.evaluate.probes.regression import Regressor
    from usjepa.evaluate.tasks.regression import Regression

    Floats = NDArray[np.float64]


class NumberScores(Record):
    """The scores of one probe for numbers."""

    measures: dict[str, Measure]
    """Of `scores.regression.MEASURES`; one that is undefined is not among them."""
    undefined: str
    """Which are undefined and why; "" where none is."""
    predicted: tuple[PackedFloats, ...]
    """The number of everything that is scored, separated by spaces; one text per seed."""
    about: dict[str, Json]
    """What the probe reports about its training."""


class RegressionScores(Record):
    """Everything that was measured of one encoder on one regression task."""

    task: str
    encoder: str
    probes: dict[str, NumberScores]
    """In the order of the report's columns; ridge regression first."""
    dim: int
    """Features of a frame."""

    @property
    def primary(self) -> NumberScores:
        """Ridge regression's."""
        return self.probes[RIDGE]


class MeanFloor(Record):
    """The errors of the training split's mean: no image is looked at."""

    value: float
    """That mean."""
    measures: dict[str, Measure]


@dataclass(frozen=True)
class RegressionScored:
    """The scores of an encoder on a regression task, and what the report needs beside them."""

    record: RegressionScores
    described: Described
    drawn_R: Floats | None
    """Ridge regression's MAE in each bootstrap draw; None without draws."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RegressionScoring:
    """Scores encoders on one regression task by the same probes and in the same bootstrap draws."""

    task: Regression
    probes: tuple[Regressor, ...]
    """Ridge regression first."""
    draws: Draws | None
    settings: EvaluateSettings
    kept: KeptFeatures

    @classmethod
    def of(
        cls, task: Regression, probes: tuple[Regressor, ...], settings: EvaluateSettings, kept: KeptFeatures
    ) -> RegressionScoring:
        """Return the scoring of a task, with the draws of its test groups."""
        draws = Draws(Items(task, settings).groups(TEST), settings.bootstrap) if settings.bootstrap else None
        return cls(task, probes, None if draws is None or draws.groups < 2 else draws, settings, kept)

    def score(self, name: str, title: str, encoder: Encoder) -> RegressionScored:
        """Score an encoder.

        Args:
            name: its key in `scores.json`.
            title: what notes call it.
            encoder: what turns frames into features.

        Raises:
            UsjepaError: the encoder gave a number that is not finite.
            Interrupted: a stop was requested; features computed so far are kept.
        """
        pooled = pooled_by(encoder, self.settings.pooling)
        features = self.kept.features(pooled, self.task.frames())
        given, dim = self._given(encoder, features), features.shape[1]
        made: dict[str, Numbers] = {}
        notes = []
        for probe in self.probes:
            try:
                made[probe.name] = self._gathered(probe.predict(given))
            except NotScoredError as error:
                notes.append(f"{probe.described.title}: {title} is left out: {error}")
        truth = Items(self.task, self.settings).values(TEST)
        scored = {key: scores_of(truth, one, self.draws) for key, one in made.items()}
        notes += [
            f"{self.task.name}: {title}, {key}: {one.undefined}." for key, (one, _) in scored.items() if one.undefined
        ]
        if made[RIDGE].about["at_limit"]:
            strength = made[RIDGE].about["strength"]
            notes.append(
                f"{self.task.name}: {title}: the strength chosen for ridge regression, {strength:g}, lies at an end of "
                "the searched range."
            )
        drawn = scored[RIDGE][1]
        return RegressionScored(
            RegressionScores(
                task=self.task.name, encoder=name, probes={key: one for key, (one, _) in scored.items()}, dim=dim
            ),
            Described.of(name, title, pooled, self.task.name, dim),
            drawn.get("mae"),
            tuple(notes),
        )

    def floor(self) -> MeanFloor:
        """Return the errors of the training mean."""
        items = Items(self.task, self.settings)
        train, truth = items.values(TRAIN), items.values(TEST)
        said = Numbers(floor_predictions(train, len(truth))[None], seeded=False)
        return MeanFloor(value=float(train.mean()), measures=scores_of(truth, said, self.draws)[0].measures)

    def _given(self, encoder: Encoder, features: NDArray[np.float32]) -> NumberInput:
        """Return what probes are given: features standardised by the training split and parted."""
        items = Items(self.task, self.settings)
        merges = self.settings.gather == "features"
        raw: dict[str, NDArray[np.float32]] = {}
        for split in (TRAIN, VALIDATION, TEST):
            units, part = items.units(split), features[self.task.positions(split)]
            raw[split] = units.mean(part).astype(np.float32) if merges and units is not None and len(part) else part
        scaler = fit_scaler(raw[TRAIN])
        parts = {}
        for split, x in raw.items():
            at = items.first(split) if merges else self.task.positions(split)
            y = items.values(split) if merges else self.task.values[at]
            parts[split] = NumberPart(scaler(x), y, self.task.frames(at))
        return NumberInput(
            parts[TRAIN],
            parts[VALIDATION],
            parts[TEST],
            self.settings,
            None if merges or not len(parts[VALIDATION]) else items.units(VALIDATION),
            None if merges else TokenSource(encoder, self.kept),
        )

    def _gathered(self, made: Numbers) -> Numbers:
        """Return what a probe says of what is scored, to the digits that are kept."""
        units = None if self.settings.gather == "features" else Items(self.task, self.settings).units(TEST)
        each = made.predicted_SN if units is None else np.stack([units.mean(one) for one in made.predicted_SN])
        return Numbers(rounded(each), made.seeded, made.about)


def scores_of(truth_N: Floats, made: Numbers, draws: Draws | None) -> tuple[NumberScores, dict[str, Floats]]:
    """Return a probe's scores, and each measure's value in each draw, [R]; none without draws."""
    each = mean_by_name([regression_measures(truth_N, one) for one in made.predicted_SN])
    drawn = {} if draws is None else drawn_measures(draws, truth_N, made.predicted_SN)
    ends = {name: interval(drawn[name]) if name in drawn else None for name in each}
    record = NumberScores(
        measures={
            name: over_seeds(values, ends[name]) if made.seeded else Measure(mean=values[0], interval=ends[name])
            for name, values in each.items()
        },
        undefined=undefined(truth_N, made.predicted_SN),
        predicted=tuple(packed_floats(one) for one in made.predicted_SN),
        about=dict(made.about),
    )
    return record, drawn
