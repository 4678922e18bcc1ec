"""Score probes that were trained on clean frames on corrupted ones.

An encoder that sees frames through a corruption is an encoder of its own identity, so its features are kept, resumed
and found again like all others. The three strengths of a corruption are kept as one vector per frame: each frame is
read once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.frames.cells import unpack_cells
from usjepa.cache.identity import Json, soft_versions
from usjepa.cache.recipes.evaluate import Corruption
from usjepa.evaluate.scores.metrics import over_seeds, score
from usjepa.evaluate.scores.records import Measure, Record
from usjepa.evaluate.scoring.corruptions import CORRUPTIONS_VERSION, STRENGTHS, corrupt
from usjepa.evaluate.tasks.splits import TEST, stratified_draw

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.encoders.base import Encoder
    from usjepa.evaluate.probes.base import Predictions, ProbeInput
    from usjepa.evaluate.tasks.task import Task


class AtStrength(Record):
    """The score at one strength of a corruption."""

    strength: int
    macro_f1: Measure


class Robustness(Record):
    """The scores of clean-trained probes on corrupted test frames."""

    frames: int
    clean: Measure
    """Macro F1 on the same frames, uncorrupted."""
    corruptions: dict[Corruption, tuple[AtStrength, ...]]


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
    return stratified_draw(labels, settings.corrupted_frames / len(labels), draw=0)


def robustness(
    predictions: Predictions,
    given: ProbeInput,
    chosen: NDArray[np.int64],
    features_under: Callable[[Corruption], NDArray[np.float32]],
) -> Robustness | None:
    """Return macro F1 on clean frames and, for each corruption of `evaluate.corruptions`, at each strength.

    Args:
        predictions: of a probe trained on clean frames; None is returned where it can't predict other frames.
        given: what that probe was given: classes of the test frames, and the standardisation.
        chosen: the test frames that are seen corrupted, positions among them.
        features_under: returns the features of the chosen frames under a corruption, float32 [N, 3 F].
    """
    predict, truth = predictions.predict, given.test.y[chosen]
    if predict is None:
        return None

    def macro_f1(features_NF: NDArray[np.float32]) -> Measure:
        return over_seeds([score(truth, one, given.classes).macro_f1 for one in predict(features_NF)])

    strengths: dict[Corruption, tuple[AtStrength, ...]] = {}
    for name in given.settings.corruptions:
        parts = np.split(features_under(name), len(STRENGTHS), axis=1)
        strengths[name] = tuple(
            AtStrength(strength=strength, macro_f1=macro_f1(given.scaler(features)))
            for strength, features in zip(STRENGTHS, parts, strict=True)
        )
    return Robustness(frames=len(chosen), clean=macro_f1(given.test.x[chosen]), corruptions=strengths)
