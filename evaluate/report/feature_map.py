"""A map of features: test frames on the two directions in which their features differ most (PCA).

PCA rather than t-SNE or UMAP: distances on the map are distances in the features, it has nothing to tune, and the same
features give the same map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.evaluate.scores.metrics import packed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json

MOST_POINTS = 600
"""Frames shown on a map, evenly spaced over the test split: more would hide each other."""
RESOLUTION = 1000
"""Coordinates are whole numbers from 0 to this."""


def class_map(features_NF: NDArray[np.float32], labels_N: NDArray[np.int64], classes: Sequence[str]) -> Json:
    """Return the map of a task's test frames, by class."""
    return _map(features_NF, labels_N, classes)


def dataset_map(features: Mapping[str, NDArray[np.float32]]) -> Json:
    """Return one map of several tasks' test frames, by task; each task gets an equal share of the points."""
    share = MOST_POINTS // len(features)
    some = [one[_evenly(len(one), share)] for one in features.values()]
    numbers = np.repeat(np.arange(len(some)), [len(one) for one in some])
    return _map(np.concatenate(some), numbers, list(features))


def _map(features_NF: NDArray[np.float32], kinds_N: NDArray[np.int64], names: Sequence[str]) -> Json:
    """Return coordinates of at most 600 frames, as `scores.json` keeps them, and how much the map shows."""
    from sklearn.decomposition import PCA

    x_NF = features_NF.astype(np.float64)
    deviation = x_NF.std(axis=0)
    x_NF = (x_NF - x_NF.mean(axis=0)) / np.where(deviation > 1e-9, deviation, 1.0)
    if len(x_NF) < 3 or not deviation.any():
        return None
    fitted = PCA(n_components=2, svd_solver="full").fit(x_NF)
    chosen = _evenly(len(x_NF), MOST_POINTS)
    places = fitted.transform(x_NF[chosen])
    low, span = places.min(axis=0), max(float(np.ptp(places, axis=0).max()), 1e-12)
    x, y = np.rint(RESOLUTION * (places - low) / span).astype(np.int64).T
    return {
        "names": list(names),
        "x": packed(x),
        "y": packed(y),
        "kind": packed(kinds_N[chosen]),
        "explained": [float(share) for share in fitted.explained_variance_ratio_],
        "frames": len(x_NF),
    }


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` positions of `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
