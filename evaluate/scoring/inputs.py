"""Hold what an evaluation rests on, and identify it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from usjepa.cache.identity import Json, digest_of
from usjepa.cache.recipes.marks import hard_values
from usjepa.evaluate.encoders.features import FEATURES_VERSION

if TYPE_CHECKING:
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.evaluate.encoders.encoders import Encoders
    from usjepa.evaluate.encoders.finished_run import FinishedRun
    from usjepa.evaluate.probes.base import Probe
    from usjepa.evaluate.tasks.find import Found
    from usjepa.evaluate.tasks.regression import Regression
    from usjepa.evaluate.tasks.segmentation import Segmentation
    from usjepa.evaluate.tasks.task import Task

REPORT_VERSION = 8
"""Raised when the same inputs would give another page or other scores."""


@dataclass(frozen=True)
class Inputs:
    """Run, recipe, encoders, probes and tasks of an evaluation."""

    run: FinishedRun
    """Whose encoder is scored."""
    recipe: Recipe
    encoders: Encoders
    probes: tuple[Probe, ...]
    found: Found
    """The classification tasks."""
    segmentations: tuple[Segmentation, ...]
    regressions: tuple[Regression, ...] = ()

    @property
    def settings(self) -> EvaluateSettings:
        """The protocol."""
        return self.recipe.evaluate

    @cached_property
    def identity(self) -> dict[str, Json]:
        """Everything that may change the report."""
        teacher = self.recipe.cache.teacher
        identity = {
            "versions": {"report": REPORT_VERSION, "features": FEATURES_VERSION},
            "run": self.run.identity,
            "tasks": [
                {"name": t.name, **t.identity, "told": _told(t, t.ungrouped, t.unlabelled, t.layout, dict(t.origin))}
                for t in self.found.tasks
            ],
            "left_out": self.found.left_out,
            "regression": [
                {"name": t.name, **t.identity, "told": _told(t, t.layout, dict(t.origin))} for t in self.regressions
            ],
            "segmentation": [
                {"name": t.name, **t.identity, "told": _told(t, list(t.classes))} for t in self.segmentations
            ],
            "encoders": {one.key: one.encoder.identity for one in self.encoders.named},
            "settings": hard_values(self.settings, "evaluation"),
            "teacher": None if teacher is None else hard_values(teacher, "evaluation"),
        }
        added = {probe.name: probe.version for probe in self.probes if probe.name in self.settings.probes}
        return {**identity, "probes": added} if added else identity

    @property
    def digest(self) -> str:
        """Hash of the identity: equal digests stand for equal reports."""
        return digest_of(self.identity)


def _told(task: Task | Regression | Segmentation, *more: Json) -> str:
    """Return a digest of what a report says of a task beside its scores: equal frames may bear other names."""
    names = None if task.names is None else task.names.tolist()
    return digest_of([list(task.notes), names, *more])
