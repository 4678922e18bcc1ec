"""Gather frames into clips or patients: means and votes over each one's frames.

Shape suffixes: N frames, U units, S seeds, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

_COLUMNS = 64
"""Numbers of a frame that are summed at once."""


@dataclass(frozen=True)
class Units:
    """Which frames are of one unit: a clip, or a patient."""

    index_N: Ints
    """Number of each frame's unit, 0 to U - 1, in the order of their first frames."""

    @classmethod
    def of(cls, keys_N: NDArray[Any]) -> Units:
        """Return the units of frames with equal keys."""
        _, first, index_N = np.unique(keys_N, return_index=True, return_inverse=True)
        place = np.empty(len(first), np.int64)
        place[np.argsort(first, kind="stable")] = np.arange(len(first))
        return cls(place[index_N])

    def __len__(self) -> int:
        return int(self.index_N.max(initial=-1)) + 1

    @cached_property
    def first(self) -> Ints:
        """Position of each unit's first frame, [U], ascending."""
        return np.unique(self.index_N, return_index=True)[1].astype(np.int64)

    @cached_property
    def frames(self) -> Ints:
        """Frames of each unit, [U]."""
        return np.bincount(self.index_N, minlength=len(self)).astype(np.int64)

    def mean(self, values_N: NDArray[Any]) -> Floats:
        """Return the mean over each unit's frames of values [N, ...], float64 [U, ...]."""
        order = np.argsort(self.index_N, kind="stable")
        starts = np.cumsum(self.frames) - self.frames
        flat = values_N.reshape(len(values_N), math.prod(values_N.shape[1:]))
        sums = np.empty((len(self), flat.shape[1]))
        for column in range(0, flat.shape[1], _COLUMNS):  # a million frames of 768 numbers are 6 GB in double precision
            some = slice(column, column + _COLUMNS)
            sums[:, some] = np.add.reduceat(flat[order, some].astype(np.float64), starts, axis=0)
        means: Floats = (sums / self.frames[:, None]).reshape(len(self), *values_N.shape[1:])
        return means

    def vote(self, predicted_SN: Ints, classes: int) -> Ints:
        """Return the class that most of a unit's frames are given, int64 [S, U]; equal votes go to the lower class."""
        cells = self.index_N * classes + predicted_SN
        counts = [np.bincount(one, minlength=len(self) * classes).reshape(-1, classes) for one in cells]
        most: Ints = np.stack(counts).argmax(axis=2).astype(np.int64)
        return most

    def mixed(self, values_N: NDArray[Any]) -> Ints:
        """Return the units whose frames have several values, ascending."""
        differs = values_N != values_N[self.first][self.index_N]
        return np.unique(self.index_N[differs]).astype(np.int64)
