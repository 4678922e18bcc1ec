"""Robustness: probes trained on clean frames, tested on corrupted ones.

A corrupted copy is the encoder's business here: an encoder that sees frames through a corruption is an encoder of its
own identity, so its features are kept, resumed and found again like all others. The three strengths of a corruption
are kept as one vector a frame: each frame is read once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.frames.cells import unpack_cells
from usjepa.cache.identity import Json, soft_versions
from usjepa.evaluate.scores.metrics import score, spread
from usjepa.evaluate.scoring.corruptions import CORRUPTIONS_VERSION, STRENGTHS, corrupt
from usjepa.evaluate.scoring.few_shot import subset
from usjepa.evaluate.tasks.splits import TEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.recipes.evaluate import Corruption, EvaluateSettings
    from usjepa.evaluate.encoders.base import Encoder
    from usjepa.evaluate.probes.linear import Probe
    from usjepa.evaluate.scoring.linear import Data
    from usjepa.evaluate.tasks.task import Task


@dataclass
class Corrupted:
    """An encoder that sees every frame through a corruption, at each strength in turn."""

    encoder: Encoder
    corruption: Corruption

    @property
    def name(self) -> str:
        """The encoder's name and what is done to its frames."""
        return f"{self.encoder.name}, {self.corruption}"

    @property
    def pooling(self) -> str:
        """The encoder's."""
        return self.encoder.pooling

    @property
    def given(self) -> str:
        """The encoder's."""
        return self.encoder.given

    @property
    def layers(self) -> tuple[str, ...]:
        """The encoder's, and the regions."""
        return tuple(dict.fromkeys((*self.encoder.layers, "regions")))

    @property
    def identity(self) -> dict[str, Json]:
        """The encoder's and the corruption's."""
        how = {"name": self.corruption, "strengths": list(STRENGTHS), "version": CORRUPTIONS_VERSION}
        return {
            "corruption": {**how, "software": soft_versions(["opencv-python-headless"])},
            "encoder": self.encoder.identity,
        }

    def features(self, batch: Batch) -> NDArray[np.float32]:
        """Return the encoder's features of the corrupted frames, one strength after the other, float32 [B, 3 F]."""
        # A cell of the region is 2 x 2 pixels.
        regions = unpack_cells(batch.regions, batch.pixels.shape[-1]).repeat(2, axis=1).repeat(2, axis=2)
        return np.concatenate([self._at(strength, batch, regions) for strength in STRENGTHS], axis=1)

    def _at(self, strength: int, batch: Batch, regions: NDArray[np.bool_]) -> NDArray[np.float32]:
        rows = batch.rows.tolist()
        seen = [
            corrupt(frame, region, self.corruption, strength, row)
            for frame, region, row in zip(batch.pixels, regions, rows, strict=True)
        ]
        return self.encoder.features(replace(batch, arrays={**batch.arrays, "pixels": np.stack(seen)}))


def seen_corrupted(task: Task, settings: EvaluateSettings) -> NDArray[np.int64]:
    """Return which test frames are seen corrupted, positions among the test frames, ascending."""
    labels = task.labels[task.positions(TEST)]
    if settings.corrupted_frames is None or settings.corrupted_frames >= len(labels):
        return np.arange(len(labels))
    return subset(labels, settings.corrupted_frames / len(labels), draw=0)


def only_tested(task: Task, chosen: NDArray[np.int64]) -> Task:
    """Return the task with some of its test frames only: no others are ever seen corrupted."""
    test = task.positions(TEST)[chosen]
    return replace(
        task, rows=task.rows[test], labels=task.labels[test], groups=task.groups[test], splits=task.splits[test]
    )


def robustness(
    probe: Probe,
    data: Data,
    chosen: NDArray[np.int64],
    settings: EvaluateSettings,
    features_through: Callable[[Corruption], NDArray[np.float32]],
) -> dict[str, Json]:
    """Return the clean-trained probes' macro F1 on clean frames and, for each corruption, at each strength.

    Args:
        probe: trained on clean frames.
        data: the clean features: classes of the test frames, and the standardisation.
        chosen: the test frames that are seen corrupted, positions among them.
        settings: which corruptions.
        features_through: returns the features of the chosen frames under a corruption, float32 [N, 3 F].
    """
    truth = data.test_labels[chosen]

    def told(features_NF: NDArray[np.float32]) -> dict[str, Json]:
        predicted_SN = probe.logits(features_NF).argmax(axis=2)
        values = [score(truth, one, data.classes).macro_f1 for one in predicted_SN]
        mean, deviation = spread(values)
        return {"mean": mean, "sd": deviation, "seeds": values}

    strengths: dict[str, Json] = {}
    for name in settings.corruptions:
        parts = np.split(features_through(name), len(STRENGTHS), axis=1)
        strengths[name] = [
            {"strength": strength, "macro_f1": told(data.scaler(features))}
            for strength, features in zip(STRENGTHS, parts, strict=True)
        ]
    return {"frames": len(chosen), "clean": told(data.test[chosen]), "corruptions": strengths}
