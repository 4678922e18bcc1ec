"""Classify features by the majority of their k nearest neighbours in cosine similarity.

There is no temperature. Equal votes go to the tied class of the nearest neighbour, equal similarities to the earlier
training frame, so that the same features give the same classes everywhere.

Shape suffixes: N training frames, Q queries, F features, K neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_QUERIES_AT_ONCE = 1024


def knn_predict(
    train_NF: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    query_QF: NDArray[np.float32],
    k: int,
    classes: int,
) -> NDArray[np.int64]:
    """Return the class of each query, int64 [Q].

    Args:
        train_NF: features of the training frames.
        labels_N: their classes, from 0.
        query_QF: features of the queries.
        k: number of neighbours, at most that of training frames.
        classes: number of classes.
    """
    train = _unit(train_NF)
    k = min(k, len(train))
    predicted = np.empty(len(query_QF), np.int64)
    for start in range(0, len(query_QF), _QUERIES_AT_ONCE):
        similarity = _unit(query_QF[start : start + _QUERIES_AT_ONCE]) @ train.T
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        predicted[start : start + len(nearest)] = _majority(labels_N[nearest], classes)
    return predicted


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows scaled to length 1; a row of zeros stays zero and is equally similar to every other."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, np.float32(1e-12)), dtype=np.float32)


def _majority(votes_QK: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return the most common class of each row of votes, which are ordered by similarity."""
    count = (votes_QK[:, :, None] == np.arange(classes)).sum(axis=1)
    tied = count == count.max(axis=1, keepdims=True)
    # Among tied classes, the one whose first vote comes earliest.
    wins = np.take_along_axis(tied, votes_QK, axis=1)
    first = np.argmax(wins, axis=1)
    return np.asarray(np.take_along_axis(votes_QK, first[:, None], axis=1)[:, 0], dtype=np.int64)
