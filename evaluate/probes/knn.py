"""Classify test frames by their nearest training frames: nothing is trained."""

from __future__ import annotations

from usjepa.evaluate.probes.base import Predictions, ProbeInput, ProbeRecord
from usjepa.train.run.knn import knn_predict


class KnnProbe:
    """Plain majority of the k most similar training frames, by cosine."""

    name = "knn"
    version = 1
    described = ProbeRecord(
        title="k-NN",
        column="k-NN",
        meaning="Nothing is trained: each test frame gets the most common class among the training frames whose "
        "features are nearest. It shows whether frames that look alike to the encoder are alike to a clinician.",
        summary="k nearest neighbours",
    )

    def score(self, given: ProbeInput) -> Predictions:
        """Return the predictions; k is `evaluate.neighbours`."""
        train, k = given.train, given.settings.neighbours
        predicted_N = knn_predict(train.x, train.y, given.test.x, k, given.classes)
        return Predictions(predicted_N[None], seeded=False)
