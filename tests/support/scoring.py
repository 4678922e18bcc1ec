"""Encoders whose features are given, and what probes are given of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from usjepa.evaluate.encoders.features import KeptFeatures
from usjepa.evaluate.probes.base import Part
from usjepa.evaluate.scoring.encoder import EncoderScoring
from usjepa.evaluate.scoring.evaluation import wanted_probes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.probes.base import ProbeInput
    from usjepa.evaluate.scores.bootstrap import Draws
    from usjepa.evaluate.scoring.encoder import Scored
    from usjepa.evaluate.tasks.task import Task


@dataclass
class Given:
    """An encoder that knows its features by row."""

    task: Task
    made: NDArray[np.float32]
    name: str = "given"
    pooling: str = "none"
    given: str = "rows"
    layers: tuple[str, ...] = ("pixels",)
    identity: dict[str, Json] = field(default_factory=lambda: {"kind": "given"})

    def features(self, batch: Batch) -> NDArray[np.float32]:
        return self.made[np.searchsorted(self.task.rows, batch.rows)]


def part(x: NDArray[np.float32], y: NDArray[np.int64], start: int = 0, stop: int | None = None) -> Part:
    """Return some frames as probes are given them."""
    return Part(x[start:stop], y[start:stop])


def probe_input(task: Task, features: NDArray[np.float32], settings: EvaluateSettings, folder: Path) -> ProbeInput:
    """Return what probes are given of features [n, F] that belong to a task's frames."""
    return scoring(task, settings, folder)._given(Given(task, features), features)


def scoring(task: Task, settings: EvaluateSettings, folder: Path, draws: Draws | None = None) -> EncoderScoring:
    return EncoderScoring(task, wanted_probes(settings), draws, settings, KeptFeatures(folder, 16))


def scored(
    task: Task, features: NDArray[np.float32], settings: EvaluateSettings, folder: Path, draws: Draws | None = None
) -> Scored:
    """Return the scores of features [n, F] that belong to a task's frames."""
    encoder = Given(task, features)
    return scoring(task, settings, folder, draws).score("given", "Given", encoder, lambda: (None, "no pixels"))
