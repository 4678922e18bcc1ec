"""Score every encoder on every task, one after the other, and gather the results."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.interrupt import safe_point
from usjepa.evaluate.checking.hygiene import classes_of_masks, facts_of, few_validation_groups, torn_numbers
from usjepa.evaluate.checking.leakage import Leakage, blank_note, contents_of, leakage_of
from usjepa.evaluate.encoders.tokens import TokenSource
from usjepa.evaluate.probes.base import PRIMARY
from usjepa.evaluate.probes.registry import PROBES, regressors
from usjepa.evaluate.scores.bootstrap import Draws
from usjepa.evaluate.scoring.encoder import Described, EncoderScoring
from usjepa.evaluate.scoring.gathering import refuse_mixed, scored_positions
from usjepa.evaluate.scoring.items import Items
from usjepa.evaluate.scoring.regression import RegressionScoring
from usjepa.evaluate.scoring.segmentation import DiceFloor, floor_of, score_segmentation
from usjepa.evaluate.tasks.splits import VALIDATION

if TYPE_CHECKING:
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.checking.hygiene import Facts
    from usjepa.evaluate.encoders.features import KeptFeatures
    from usjepa.evaluate.probes.base import Probe
    from usjepa.evaluate.scoring.encoder import Scored
    from usjepa.evaluate.scoring.inputs import Inputs
    from usjepa.evaluate.scoring.regression import MeanFloor, RegressionScored
    from usjepa.evaluate.scoring.segmentation import SegmentationScores
    from usjepa.evaluate.tasks.regression import Regression
    from usjepa.evaluate.tasks.segmentation import Segmentation
    from usjepa.evaluate.tasks.task import Task

logger = logging.getLogger(__name__)

_RIDGE_CHOSEN = "The strength of ridge regression is chosen on them, by chance."
_HEAD_CHOSEN = "When a head stops is chosen on them, by chance."
_HEAD_UNSTOPPED = f"No frame is left for {VALIDATION}. Every head runs all its epochs."


@dataclass(frozen=True)
class SegmentationResult:
    """The scores of a segmentation task."""

    task: Segmentation
    leakage: Leakage
    floor: DiceFloor
    hygiene: tuple[str, ...]
    """What a reader of the scores must know of its frames."""
    scores: tuple[SegmentationScores, ...]
    described: tuple[Described, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RegressionResult:
    """The scores of a regression task."""

    task: Regression
    leakage: Leakage
    floor: MeanFloor
    hygiene: tuple[str, ...]
    """What a reader of the scores must know of its frames and numbers."""
    scored: tuple[RegressionScored, ...]
    notes: tuple[str, ...]
    """Which encoders were left out and why, and which measures are undefined."""


@dataclass
class Results:
    """The scores of an evaluation, one record per (task, encoder)."""

    facts: dict[str, Facts]
    """Task's name -> what was found out about it."""
    scored: list[Scored] = field(default_factory=list)
    regressed: list[RegressionResult] = field(default_factory=list)
    segmented: list[SegmentationResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was left out of the scores and why."""


@dataclass(frozen=True)
class Evaluation:
    """Scores a run's encoder, the baselines and the named encoders."""

    inputs: Inputs
    kept: KeptFeatures
    """Where features are kept."""

    def run(self) -> Results:
        """Score everything.

        Raises:
            Interrupted: a stop was requested; features computed so far are kept.
            UsjepaError: damage in a task's store, or an encoder gave a number that is not finite.
        """
        inputs, settings = self.inputs, self.inputs.settings
        tasks = inputs.found.tasks
        for task in tasks:
            refuse_mixed(task, settings)
        facts = {task.name: facts_of(task) for task in tasks}
        results = Results(facts, notes=[*inputs.found.left_out])
        scorings = [EncoderScoring(task, inputs.probes, self._draws(task), settings, self.kept) for task in tasks]
        for name in inputs.encoders.names:
            for scoring in scorings:
                self._score(name, scoring, results)
        results.regressed += [self._regress(task) for task in inputs.regressions]
        results.segmented += [self._segment(task) for task in inputs.segmentations]
        return results

    def _draws(self, task: Task) -> Draws | None:
        count = self.inputs.settings.bootstrap
        return Draws(task.groups[scored_positions(task, self.inputs.settings)], count) if count else None

    def _score(self, name: str, scoring: EncoderScoring, results: Results) -> None:
        """Score an encoder on a task; one that can't be had is noted, not fatal, unless it is the student."""
        safe_point()
        task, title = scoring.task, self.inputs.encoders.title(name)
        encoder, why = self.inputs.encoders.make(name, task.store)
        if encoder is None:
            results.notes.append(f"{task.name}: {title} is left out: {why}")
            logger.info(results.notes[-1])
            return
        scored = scoring.score(name, title, encoder, lambda: self.inputs.encoders.seeing(name, task.store))
        results.scored.append(scored)
        results.notes += [note for note in scored.notes if note not in results.notes]
        logger.info(f"{task.name}: {title}: macro F1 {100 * scored.record.macro_f1.mean:.1f} %")

    def _regress(self, task: Regression) -> RegressionResult:
        """Score every encoder on a regression task."""
        inputs, settings = self.inputs, self.inputs.settings
        frames = task.frames()
        contents, held = contents_of(frames), task.groups[task.positions(VALIDATION)]
        hygiene = [
            blank_note(contents.blank, task.splits),
            torn_numbers(contents, task.values),
            *Items(task, settings).notes(),
        ]
        hygiene += [few_validation_groups(len(np.unique(held)), _RIDGE_CHOSEN)] if len(held) else []
        scoring = RegressionScoring.of(task, regressors(settings), settings, self.kept)
        scored, notes = [], []
        for name in inputs.encoders.names:
            safe_point()
            title = inputs.encoders.title(name)
            encoder, why = inputs.encoders.make(name, task.store)
            if encoder is None:
                notes.append(f"{task.name}: {title} is left out: {why}")
                continue
            scored.append(scoring.score(name, title, encoder))
            notes += scored[-1].notes
            error = scored[-1].record.primary.measures["mae"].mean
            logger.info(f"{task.name}: {title}: mean absolute error {error:.4g} {task.unit}".rstrip())
        return RegressionResult(
            task,
            leakage_of(frames, contents),
            scoring.floor(),
            tuple(note for note in hygiene if note),
            tuple(scored),
            tuple(dict.fromkeys(notes)),
        )

    def _segment(self, task: Segmentation) -> SegmentationResult:
        """Score every encoder that gives patch tokens on a segmentation task."""
        frames = task.frames()
        contents, held = contents_of(frames), task.groups[task.positions(VALIDATION)]
        hygiene = [blank_note(contents.blank, task.splits), *classes_of_masks(task)]
        hygiene += [few_validation_groups(len(np.unique(held)), _HEAD_CHOSEN)] if len(held) else [_HEAD_UNSTOPPED]
        scores, described, notes = [], [], []
        for name in self.inputs.encoders.names:
            safe_point()
            title = self.inputs.encoders.title(name)
            encoder, why = self.inputs.encoders.make(name, task.store)
            tokens = None if encoder is None else TokenSource(encoder, self.kept)
            if encoder is None or tokens is None or not tokens.available:
                notes.append(f"{task.name}: {title} is left out: {why or 'it gives no patch tokens.'}")
                continue
            scores.append(score_segmentation(name, task, tokens, self.inputs.settings))
            described.append(Described.of(name, title, encoder, task.name, scores[-1].dim))
            logger.info(f"{task.name}: {title}: mean Dice {100 * scores[-1].dice.mean:.1f} %")
        return SegmentationResult(
            task,
            leakage_of(frames, contents),
            floor_of(task),
            tuple(note for note in hygiene if note),
            tuple(scores),
            tuple(described),
            tuple(notes),
        )


def wanted_probes(settings: EvaluateSettings) -> tuple[Probe, ...]:
    """Return the probes of an evaluation, in the order of the report's columns; the linear probe comes first.

    Raises:
        UsageError: `evaluate.probes` names one that there is not.
    """
    attentive = ("attentive",) if settings.attentive else ()
    names = dict.fromkeys((PRIMARY, *attentive, "logistic", "logistic-fixed", "knn", *settings.probes))
    return tuple(PROBES.named(name) for name in names)
