"""Scores every encoder on every task, one after the other, and gathers what the report is made of."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.identity import digest_of, soft_versions
from usjepa.evaluate.encoders.features import features_of
from usjepa.evaluate.encoders.pooling import pooled_by
from usjepa.evaluate.encoders.tokens import gives_tokens
from usjepa.evaluate.report.document import constant_told, draws_of, seen_in_training, student_differences, task_told
from usjepa.evaluate.report.examples import examples_of
from usjepa.evaluate.report.feature_map import class_map, dataset_map
from usjepa.evaluate.report.markup import STUDENT, Example
from usjepa.evaluate.scoring.attentive import score_attentive
from usjepa.evaluate.scoring.few_shot import few_shot
from usjepa.evaluate.scoring.linear import score_features
from usjepa.evaluate.scoring.robustness import Corrupted, only_tested, robustness, seen_corrupted
from usjepa.evaluate.scoring.segmentation import score_segmentation
from usjepa.evaluate.tasks.hygiene import facts_of
from usjepa.evaluate.tasks.leakage import Leakage, contents_of, leakage_of
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.evaluate import Corruption
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.evaluate.encoders.base import Encoder
    from usjepa.evaluate.encoders.encoders import Encoders
    from usjepa.evaluate.encoders.finished_run import Run
    from usjepa.evaluate.scores.bootstrap import Draws
    from usjepa.evaluate.scoring.linear import Scored
    from usjepa.evaluate.tasks.hygiene import Facts
    from usjepa.evaluate.tasks.segmentation import Segmentation
    from usjepa.evaluate.tasks.task import Task

logger = logging.getLogger(__name__)

TITLES = {
    STUDENT: "Student (this run)",
    "teacher": "Its teacher",
    "random": "Random weights",
    "pixels": "Raw pixels",
    "hog": "Edges (HOG)",
}


@dataclass
class Work:
    """One evaluation: what is scored on what, and what came of it."""

    run: Run
    tasks: list[Task]
    recipe: Recipe
    folder: Path
    encoders: Encoders
    check: Callable[[], None]
    """Raises Interrupted where a stop was asked for."""
    segmentations: list[Segmentation] = field(default_factory=list)
    segmented: list[dict[str, Json]] = field(default_factory=list)
    scores: list[dict[str, Json]] = field(default_factory=list)
    described: dict[str, dict[str, Json]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    leakage: dict[str, Leakage] = field(default_factory=dict)
    """Segmentation task's name -> what its test shares with its other frames."""
    facts: dict[str, Facts] = field(default_factory=dict)
    """Task's name -> what was found out about it."""
    draws: dict[str, Draws | None] = field(default_factory=dict)
    drawn: dict[tuple[str, str], NDArray[np.float64]] = field(default_factory=dict)
    """(task, encoder) -> macro F1 in each bootstrap draw."""
    maps: dict[str, Json] = field(default_factory=dict)
    """Task's name -> map of the student's features; "" -> the map of all tasks."""
    _mapped: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def score(self) -> None:
        """Score every encoder on every task; one that can't be had is noted, not fatal, unless it is the student."""
        self.facts = {task.name: facts_of(task, self.check) for task in self.tasks}
        self.draws = {task.name: draws_of(task, self.recipe.evaluate.bootstrap) for task in self.tasks}
        for name in (STUDENT, *self.recipe.evaluate.baselines, *[one.key for one in self.encoders.named]):
            for task in self.tasks:
                self._score(name, task)
        self.notes += [f"{task}: {note}" for task, note in self._hygiene()]
        if "teacher" in self.described and self.encoders.teacher_is_random:
            self.described["teacher"]["title"] = "Its teacher (random weights)"
            self.notes.append(
                "The teacher had random weights: what the student learnt from it is no learned knowledge."
            )

    def segment(self) -> None:
        """Score every encoder that gives patch tokens on every segmentation task."""
        for task in self.segmentations:
            self.leakage[task.name] = _leakage(task, self.check)
            for name in (STUDENT, *self.recipe.evaluate.baselines, *[one.key for one in self.encoders.named]):
                self.check()
                encoder, why = self.encoders.make(name, task.store)
                if encoder is None or not gives_tokens(encoder):
                    why = why or "it gives no patch tokens."
                    self.notes.append(f"{task.name}: {self.title(name)} is left out: {why}")
                    continue
                settings = self.recipe.evaluate
                told = score_segmentation(encoder, task, self.folder / "features", settings, self.check)
                self.segmented.append({"task": task.name, "encoder": name, **told})
                self._describe(name, encoder, task.name, told["dim"])
                logger.info(f"{task.name}: {self.title(name)}: mean Dice {100 * told['dice']['mean']:.1f} %")

    def title(self, name: str) -> str:
        """Return what an encoder is called in tables."""
        return TITLES.get(name) or next(one.title for one in self.encoders.named if one.key == name)

    def _score(self, name: str, task: Task) -> None:
        self.check()
        encoder, why = self.encoders.make(name, task.store)
        if encoder is None:
            self.notes.append(f"{task.name}: {self.title(name)} is left out: {why}")
            logger.info(self.notes[-1])
            return
        settings = self.recipe.evaluate
        pooled = pooled_by(encoder, settings.pooling)
        features = self._features(pooled, task)
        scored = score_features(features, task, settings, self.draws[task.name])
        if "macro_f1" in scored.drawn:
            self.drawn[task.name, name] = scored.drawn["macro_f1"]
        more = {
            "attentive": self._attentive(name, encoder, task),
            "few_shot": few_shot(scored.data, task.groups[task.positions(TRAIN)], settings),
            "robustness": self._robustness(name, task, scored),
        }
        self.scores.append({"task": task.name, "encoder": name, **scored.told, **more})
        self._describe(name, pooled, task.name, features.shape[1])
        if name == STUDENT:
            self._show(task, scored.probability)
            self._map(task, features[task.positions(TEST)])
        mean = scored.told["probe"]["macro_f1"]["mean"]
        logger.info(f"{task.name}: {self.title(name)}: macro F1 {100 * mean:.1f} %")

    def _describe(self, name: str, encoder: Encoder, task: str, dim: int) -> None:
        told = {"title": self.title(name), "pooling": f"{encoder.pooling}; input: {encoder.given}"}
        about = self.described.setdefault(name, {**told, "dim": dim, "identities": {}})
        about["identities"][task] = encoder.identity

    def _attentive(self, name: str, encoder: Encoder, task: Task) -> Json:
        """Return the scores of attentive probes; None where none are wanted, or there are no patch tokens."""
        settings = self.recipe.evaluate
        if not settings.attentive:
            return None
        if not gives_tokens(encoder):
            note = f"{self.title(name)} has no attentive probe: it gives no patch tokens."
            self.notes += [note] if note not in self.notes else []
            return None
        draws = self.draws[task.name]
        return score_attentive(encoder, task, self.folder / "features", settings, draws, self.check)

    def _features(self, encoder: Encoder, task: Task) -> NDArray[np.float32]:
        settings = self.recipe.evaluate
        return features_of(encoder, task, self.folder / "features", settings.encode_batch_size, self.check)

    def _robustness(self, name: str, task: Task, scored: Scored) -> dict[str, Json]:
        if not self.recipe.evaluate.corruptions:
            return {}
        encoder, why = self.encoders.seeing(name, task.store)
        if encoder is None:
            self.notes.append(f"{task.name}: {self.title(name)} is not tested on corrupted frames: {why}")
            return {}
        seeing, chosen = pooled_by(encoder, self.recipe.evaluate.pooling), seen_corrupted(task, self.recipe.evaluate)
        tested = only_tested(task, chosen)

        def through(corruption: Corruption) -> NDArray[np.float32]:
            self.check()
            return self._features(Corrupted(seeing, corruption), tested)

        return robustness(scored.probe, scored.data, chosen, self.recipe.evaluate, through)

    def _map(self, task: Task, features: NDArray[np.float32]) -> None:
        self.maps[task.name] = class_map(features, task.labels[task.positions(TEST)], task.classes)
        self._mapped[task.name] = features
        if len(self.tasks) > 1 and len(self._mapped) == len(self.tasks):
            self.maps[""] = dataset_map(self._mapped)

    def _show(self, task: Task, probability: NDArray[np.float64]) -> None:
        examples, note = examples_of(task, probability)
        self.examples += examples
        self.notes += [note] if note else []

    def _hygiene(self) -> list[tuple[str, str]]:
        """Return what must be known beside the scores: test frames seen in training, constant predictors."""
        found = [(task.name, note) for task in self.tasks if (note := seen_in_training(self.run, task))]
        for scores in self.scores:
            for said in constant_told(scores, self.title(scores["encoder"]), self.recipe.evaluate.seeds):
                found.append((scores["task"], said))
        return found

    def document(self, inputs: dict[str, Json]) -> dict[str, Json]:
        """Return what scores.json holds, the page's hash aside."""
        groups = {name: draws.groups for name, draws in self.draws.items() if draws is not None}
        return {
            "format": 2,
            "inputs_digest": digest_of(inputs),
            "inputs": inputs,
            "run": {"name": self.run.name, "trained": self.run.config.extra},
            "settings": self.recipe.evaluate.model_dump(mode="json"),
            "encoders": self.described,
            "tasks": [task_told(task, self.facts[task.name]) for task in self.tasks],
            "scores": self.scores,
            "differences": student_differences(groups, self.scores, self.drawn),
            "maps": self.maps,
            "segmentation": {
                "tasks": [
                    {
                        "name": task.name,
                        "classes": list(task.classes),
                        "frames": {part: len(task.positions(part)) for part in (TRAIN, VALIDATION, TEST)},
                        "identity": task.identity,
                        "leakage": self.leakage[task.name].told(),
                        "notes": [*self.leakage[task.name].sentences(), *task.notes],
                    }
                    for task in self.segmentations
                ],
                "scores": self.segmented,
            },
            "notes": self.notes,
            "software": soft_versions(
                ["numpy", "opencv-python-headless", "scikit-image", "scikit-learn", "scipy", "timm", "torch"]
            ),
        }


def _leakage(task: Segmentation, check: Callable[[], None]) -> Leakage:
    frames = task.frames(np.arange(len(task.rows)))
    return leakage_of(frames, contents_of(frames, check), check)
