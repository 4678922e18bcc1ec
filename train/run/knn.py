"""k nearest neighbours by cosine similarity: what the features hold before anything is trained on them.

Plain majority, no temperature. Equal votes go to the tied class that holds the nearest neighbour, equal
similarities to the earlier training frame, so that the same features give the same answer everywhere.
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
    """Return the class of each query, int64 [Q]; `k` is cut to the number of training frames."""
    train = _unit(train_NF)
    k = min(k, len(train))
    predicted = np.empty(len(query_QF), np.int64)
    for start in range(0, len(query_QF), _QUERIES_AT_ONCE):
        similarity = _unit(query_QF[start : start + _QUERIES_AT_ONCE]) @ train.T
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        predicted[start : start + len(nearest)] = _majority(labels_N[nearest], classes)
    return predicted


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows scaled to length 1; a row of zeros stays one and is as near to everything as to nothing."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, np.float32(1e-12)), dtype=np.float32)


def _majority(votes_QK: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return the commonest class of each row of votes, which are ordered by nearness."""
    count = (votes_QK[:, :, None] == np.arange(classes)).sum(axis=1)
    tied = count == count.max(axis=1, keepdims=True)
    # Among tied classes, the one whose first vote comes earliest.
    wins = np.take_along_axis(tied, votes_QK, axis=1)
    first = np.argmax(wins, axis=1)
    return np.asarray(np.take_along_axis(votes_QK, first[:, None], axis=1)[:, 0], dtype=np.int64)
