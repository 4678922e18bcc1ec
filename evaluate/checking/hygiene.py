"""Find what must be known of a task before its scores are believed.

Leakage (see `leakage.py`) and label hygiene depend on the task alone, not on any encoder, and are reported beside the
score. Every frame is read once: 10,000 frames take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.perceptual import NEAR_BITS
from usjepa.evaluate.checking.leakage import Contents, Leakage, blank_note, contents_of, leakage_of
from usjepa.evaluate.scores.metrics import constant_baseline
from usjepa.evaluate.scores.records import Record
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.evaluate.tasks.segmentation import Segmentation
    from usjepa.evaluate.tasks.task import Task

_FEW_TRAINING_FRAMES = 20
"""A class with fewer training frames is reported: 1 % of them is not one example."""
_FEW_TEST_GROUPS = 5
"""A class tested on fewer patients or clips is reported."""


class ClassCount(Record):
    """How many examples of a class a split holds."""

    name: str
    split: str
    frames: int
    groups: int


class Hygiene(Record):
    """The faults of a task's labels."""

    frames: int
    """Of the dataset, labelled or not."""
    unlabelled: int
    missing: tuple[ClassCount, ...]
    """Classes without any example in a split that has frames."""
    few: tuple[ClassCount, ...]
    """Classes with too few training frames or test groups."""
    one_class: tuple[str, ...]
    """Splits whose frames are all of one class."""
    empty: tuple[str, ...]
    """Splits without a frame."""
    constant_macro_f1: float
    """Macro F1 of a constant guess of the test split's most common class."""
    constant_accuracy: float
    """Share of test frames that are of that class."""
    torn_exact: int
    """Frames of which the very same pixels bear another label elsewhere in the task."""
    torn_near: int
    """Further frames with a near-duplicate that bears another label."""
    blank: str
    """How many frames are blank and in which split; "" for none."""
    validation_groups: int
    """Patients or clips of the validation split."""

    def sentences(self) -> list[str]:
        """Return what a reader of the scores must know."""
        notes = []
        if self.unlabelled:
            notes.append(f"{self.unlabelled} of {self.frames} frames have no label and are left out.")
        notes += [
            f"No frame is left for {split}." + (_NEVER_STOPPED if split == VALIDATION else "") for split in self.empty
        ]
        notes += [f"No example of {count.name} in {count.split}." for count in self.missing]
        notes += [f"All frames of {split} are of one class." for split in self.one_class]
        notes += [_too_few(count) for count in self.few]
        notes += [few_validation_groups(self.validation_groups)] if VALIDATION not in self.empty else []
        notes += [self.blank]
        if self.torn_exact or self.torn_near:
            exact = f"{self.torn_exact} identical frames have different labels"
            near = f"frames have a near-duplicate with another label (at most {NEAR_BITS} bits apart)"
            parts = [exact] if self.torn_exact else []
            parts += [f"{self.torn_near} {'more ' if parts else ''}{near}"] if self.torn_near else []
            notes.append(f"Labels contradict each other: {', and '.join(parts)}.")
        return [note for note in notes if note]


FEW_VALIDATION_GROUPS = 5
"""Below this many validation groups the report warns: what is chosen on them is chance. Our choice."""


_CHOSEN = (
    "When a probe stops and the strength of logistic regression are chosen on them, by chance; logistic regression of "
    "a fixed strength is not."
)


def few_validation_groups(groups: int, chosen: str = _CHOSEN) -> str:
    """Return a warning where something is chosen on few patients, and what; "" where there are enough."""
    if groups >= FEW_VALIDATION_GROUPS:
        return ""
    return f"Few validation patients: {groups} {'group' if groups == 1 else 'groups'}. {chosen}"


_NEVER_STOPPED = " Every probe runs all its epochs."


def _too_few(count: ClassCount) -> str:
    groups = f"{count.groups} {'group' if count.groups == 1 else 'groups'}"
    if count.split == TEST:
        return (
            f"Too few examples: {count.name} is tested on {count.frames} frames of {groups}; another choice of groups "
            "can move its score a lot."
        )
    return f"Too few examples: {count.name} is trained on {count.frames} frames of {groups}."


def _hygiene_of(task: Task, contents: Contents) -> Hygiene:
    """Return the faults of a task's labels, given the content of its frames."""
    parts = {split: task.positions(split) for split in (TRAIN, VALIDATION, TEST)}
    counts = [_count(task, number, split) for split in parts for number in range(len(task.classes))]
    truth = task.labels[parts[TEST]]
    constant = constant_baseline(truth, len(task.classes))
    exact, near = torn(contents, task.labels)
    return Hygiene(
        frames=len(task.rows) + task.unlabelled,
        unlabelled=task.unlabelled,
        missing=tuple(c for c in counts if not c.frames and len(parts[c.split])),
        few=tuple(c for c in counts if _is_few(c)),
        one_class=tuple(s for s, where in parts.items() if len(np.unique(task.labels[where])) == 1),
        empty=tuple(s for s, where in parts.items() if not len(where)),
        constant_macro_f1=constant.macro_f1,
        constant_accuracy=float(np.bincount(truth).max() / len(truth)) if len(truth) else 0.0,
        torn_exact=exact,
        torn_near=near,
        blank=blank_note(contents.blank, task.splits),
        validation_groups=len(np.unique(task.groups[parts[VALIDATION]])),
    )


def _count(task: Task, number: int, split: str) -> ClassCount:
    where = (task.splits == split) & (task.labels == number)
    groups = len(np.unique(task.groups[where]))
    return ClassCount(name=task.classes[number], split=split, frames=int(where.sum()), groups=groups)


def _is_few(count: ClassCount) -> bool:
    if count.split == TEST:
        return 0 < count.groups < _FEW_TEST_GROUPS
    return count.split == TRAIN and 0 < count.frames < _FEW_TRAINING_FRAMES


def classes_of_masks(task: Segmentation) -> list[str]:
    """Return which classes no mask of a split holds."""
    return [
        f"No example of {name} in {split}." + (" No mean Dice counts it." if split == TEST else "")
        for split in (TRAIN, VALIDATION, TEST)
        for number, name in enumerate(task.classes)
        if number and len(task.positions(split)) and not task.held[task.positions(split), number].any()
    ]


def torn(contents: Contents, labels: NDArray[np.int64]) -> tuple[int, int]:
    """Return how many frames are found again, exactly or nearly, under another label."""
    _, frame = np.unique(contents.pixels.astype(str), return_inverse=True)
    lowest = np.full(frame.max(initial=-1) + 1, np.iinfo(np.int64).max)
    highest = np.full(len(lowest), -1)
    np.minimum.at(lowest, frame, labels)
    np.maximum.at(highest, frame, labels)
    exact = lowest[frame] != highest[frame]
    every = np.arange(len(labels))
    distance, _ = contents.nearest(every, every, labels)
    return int(exact.sum()), int(((distance <= NEAR_BITS) & ~exact).sum())


def torn_numbers(contents: Contents, values: NDArray[np.float64]) -> str:
    """Return how many frames are found again, exactly, with another number; "" for none."""
    _, frame = np.unique(contents.pixels.astype(str), return_inverse=True)
    lowest, highest = np.full(frame.max(initial=-1) + 1, np.inf), np.full(frame.max(initial=-1) + 1, -np.inf)
    np.minimum.at(lowest, frame, values)
    np.maximum.at(highest, frame, values)
    exact = lowest[frame] != highest[frame]
    if not exact.any():
        return ""
    apart = float((highest - lowest).max())
    count = int(exact.sum())
    return f"Numbers contradict each other: {count} identical frames have different ones, up to {apart:.4g} apart."


@dataclass(frozen=True)
class Facts:
    """Leakage, faults of the labels and notes of a task."""

    hygiene: Hygiene
    leakage: Leakage
    notes: tuple[str, ...]
    """The task's own notes: how it was made."""

    def sentences(self) -> list[str]:
        """Return everything that a reader of the scores must know, leaks first."""
        return [*self.leakage.sentences(), *self.notes, *self.hygiene.sentences()]


def facts_of(task: Task) -> Facts:
    """Find what must be known of a task; DamageError where its store is damaged."""
    contents = contents_of(task)
    return Facts(_hygiene_of(task, contents), leakage_of(task, contents), task.notes)
