"""Hold the labelled frames of one dataset, with their groups and splits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.identity import Json, digest_of
from usjepa.evaluate.scores.records import Record
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from usjepa.cache.recipes.evaluate import Unit
    from usjepa.cache.several.face import Readable


class SplitCounts(Record):
    """Frames and groups of a split."""

    frames: int
    groups: int
    """Patients or clips."""
    classes: dict[str, int]
    """Class -> frames."""


@dataclass(frozen=True)
class Task:
    """A labelled dataset within a store; arrays hold a value per frame."""

    name: str
    store: Readable
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    """Index into `classes`."""
    classes: tuple[str, ...]
    groups: NDArray[np.int64]
    """Group number; equal numbers are one patient or clip."""
    splits: NDArray[np.object_]
    """One of "train", "validation", "test"."""
    notes: tuple[str, ...]
    """What a reader of the scores must know of how the task was made; `checking` finds more in the frames."""
    unlabelled: int = 0
    """Frames of the dataset without a label, which are left out."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """"test" and "validation" -> whether the data gave that split or it was dealt."""
    layout: str = "store"
    names: NDArray[np.int64] | None = None
    """Number of what a frame's file name suggests as its patient, -1 for nothing (`name_groups.py`); None: not looked
    at."""
    ungrouped: int = 0
    """Frames whose file is a group of its own, because the data names neither patient nor clip."""
    clips: NDArray[np.int64] | None = None
    """Number of each frame's file; None: each frame is a file of its own."""

    def positions(self, split: str) -> NDArray[np.int64]:
        """Return where in the arrays a split's frames stand."""
        return np.flatnonzero(self.splits == split)

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, where: NDArray[np.int64]) -> Task:
        """Return the task with the frames at some positions alone."""
        return replace(
            self,
            rows=self.rows[where],
            labels=self.labels[where],
            groups=self.groups[where],
            splits=self.splits[where],
            names=None if self.names is None else self.names[where],
            clips=None if self.clips is None else self.clips[where],
        )

    def keys(self, unit: Unit) -> NDArray[np.int64] | None:
        """Return a number for each frame, equal for those of one clip or patient; None for frames as they are."""
        if unit == "frame":
            return None
        if unit == "patient":
            return self.groups
        return np.arange(len(self)) if self.clips is None else self.clips.astype(np.int64)

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that the scores rest on: the store's content and which rows, labels and splits of it."""
        frames = [self.rows.tolist(), self.labels.tolist(), self.splits.tolist(), self.groups.tolist()]
        return {"store": self.store.digest, "frames": digest_of(frames), "classes": list(self.classes)}

    def counts(self) -> dict[str, SplitCounts]:
        """Return frames, groups and frames of each class, for each split."""
        return {split: self._counts(self.positions(split)) for split in (TRAIN, VALIDATION, TEST)}

    def _counts(self, where: NDArray[np.int64]) -> SplitCounts:
        classes = {name: int((self.labels[where] == i).sum()) for i, name in enumerate(self.classes)}
        return SplitCounts(frames=len(where), groups=len(np.unique(self.groups[where])), classes=classes)
