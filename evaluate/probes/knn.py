"""Classify and retrieve by the nearest training frames: nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.evaluate.probes.base import Predictions, ProbeInput, ProbeRecord
from usjepa.evaluate.scores.bootstrap import Draws, interval
from usjepa.evaluate.scores.records import Measure
from usjepa.evaluate.tasks.splits import TEST, TRAIN
from usjepa.train.probe.knn import knn_predict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.evaluate.probes.base import Part

RECALLS = (1, 5, 10)
"""k of the recalls."""
_QUERIES_AT_ONCE = 1024


class KnnProbe:
    """Plain majority of the k most similar training frames, by cosine; and how often one of them is of the class."""

    name = "knn"
    version = 2
    described = ProbeRecord(
        title="k-NN",
        column="k-NN",
        meaning="Nothing is trained: each test frame gets the most common class among the training frames whose "
        "features are nearest. It shows whether frames that look alike to the encoder are alike to a clinician. Recall "
        "at k is how often at least one of the k nearest frames of other patients is of the same class.",
        shown=("macro_f1", "recall_at_1", "recall_at_10"),
        summary="k nearest neighbours",
    )

    def score(self, given: ProbeInput) -> Predictions:
        """Return the predictions, k being `evaluate.neighbours`, and the recalls at 1, 5 and 10."""
        train, k = given.train, given.settings.neighbours
        predicted_N = knn_predict(train.x, train.y, given.test.x, k, given.classes)
        groups = [given.task.groups[given.task.positions(split)] for split in (TRAIN, TEST)]
        ranks_N = first_hits(train, given.test, (groups[0], groups[1]))
        draws = Draws(groups[1], given.settings.bootstrap)
        return Predictions(predicted_N[None], seeded=False, measures=_recalls(ranks_N, draws))


def first_hits(train: Part, test: Part, groups: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the place, from 0, of the nearest frame of a query's class among training frames of other groups, [N].

    Args:
        train: what is searched.
        test: the queries.
        groups: of the training frames and of the queries.

    A query of which no frame of its class is among the ten nearest has the place 10.
    """
    x_NF, most = _unit(train.x), max(RECALLS)
    found = np.full(len(test), most, np.int64)
    for start in range(0, len(test), _QUERIES_AT_ONCE):
        some = slice(start, start + _QUERIES_AT_ONCE)
        apart: NDArray[np.float32] = -(_unit(test.x[some]) @ x_NF.T)
        apart[groups[1][some, None] == groups[0]] = np.inf
        near = np.argpartition(apart, min(most, len(train)) - 1, axis=1)[:, :most]
        near.sort(axis=1)  # equally near frames in their own order
        distance = np.take_along_axis(apart, near, axis=1)
        order = np.argsort(distance, axis=1, kind="stable")
        near, distance = np.take_along_axis(near, order, axis=1), np.take_along_axis(distance, order, axis=1)
        hit = (train.y[near] == test.y[some, None]) & np.isfinite(distance)
        found[some] = np.where(hit.any(axis=1), hit.argmax(axis=1), most)
    return found


def _recalls(ranks_N: NDArray[np.int64], draws: Draws) -> dict[str, Measure]:
    """Return recall at each k, with an interval over groups."""
    hits_KN = np.stack([ranks_N < k for k in RECALLS]).astype(np.float64)
    drawn = None
    if draws.count and draws.groups > 1:
        sums = draws.sums(np.concatenate([np.ones((1, len(ranks_N))), hits_KN]))
        drawn = sums[:, 1:] / sums[:, :1]
    return {
        f"recall_at_{k}": Measure(
            mean=float(hits.mean()), interval=None if drawn is None else interval(drawn[:, place])
        )
        for place, (k, hits) in enumerate(zip(RECALLS, hits_KN, strict=True))
    }


def _unit(x_NF: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows scaled to length 1; a row of zeros stays zero."""
    length = np.linalg.norm(x_NF, axis=1, keepdims=True)
    return np.asarray(x_NF / np.maximum(length, np.float32(1e-12)), dtype=np.float32)
