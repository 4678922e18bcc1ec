"""Map test frames onto the two directions in which their features differ most (PCA).

PCA rather than t-SNE or UMAP: distances on the map are distances in the features, it has nothing to tune, and the same
features give the same map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.evaluate.scores.metrics import PackedNumbers, packed
from usjepa.evaluate.scores.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_MOST_POINTS = 600
"""Frames shown on a map, evenly spaced over the test split: more would hide each other."""
RESOLUTION = 1000
"""Coordinates are whole numbers from 0 to this."""


class FeatureMap(Record):
    """Coordinates of at most 600 frames, whole numbers from 0 to `RESOLUTION`, and how much the map shows."""

    names: tuple[str, ...]
    """Of the kinds of frames: classes, or tasks."""
    x: PackedNumbers
    """Numbers separated by spaces, as `y` and `kind`."""
    y: PackedNumbers
    kind: PackedNumbers
    """Index into `names`."""
    explained: tuple[float, float]
    """Share of the variation along each axis."""
    frames: int
    """How many there are; no more than 600 are shown."""


def class_map(
    features_NF: NDArray[np.float32], labels_N: NDArray[np.int64], classes: Sequence[str]
) -> FeatureMap | None:
    """Return the map of a task's test frames, by class."""
    return _map(features_NF, labels_N, classes)


def dataset_map(features: Mapping[str, NDArray[np.float32]]) -> FeatureMap | None:
    """Return one map of several tasks' test frames, by task; each task gets an equal share of the points."""
    share = _MOST_POINTS // len(features)
    some = [one[_evenly(len(one), share)] for one in features.values()]
    numbers = np.repeat(np.arange(len(some)), [len(one) for one in some])
    return _map(np.concatenate(some), numbers, list(features))


def _map(features_NF: NDArray[np.float32], kinds_N: NDArray[np.int64], names: Sequence[str]) -> FeatureMap | None:
    """Return the map; None where there are fewer than three frames or no feature varies."""
    from sklearn.decomposition import PCA

    x_NF = features_NF.astype(np.float64)
    deviation = x_NF.std(axis=0)
    x_NF = (x_NF - x_NF.mean(axis=0)) / np.where(deviation > 1e-9, deviation, 1.0)
    if len(x_NF) < 3 or not deviation.any():
        return None
    fitted = PCA(n_components=2, svd_solver="full").fit(x_NF)
    chosen = _evenly(len(x_NF), _MOST_POINTS)
    places = fitted.transform(x_NF[chosen])
    low, span = places.min(axis=0), max(float(np.ptp(places, axis=0).max()), 1e-12)
    x, y = np.rint(RESOLUTION * (places - low) / span).astype(np.int64).T
    first, second = (float(share) for share in fitted.explained_variance_ratio_)
    return FeatureMap(
        names=tuple(names),
        x=packed(x),
        y=packed(y),
        kind=packed(kinds_N[chosen]),
        explained=(first, second),
        frames=len(x_NF),
    )


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` positions of `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
