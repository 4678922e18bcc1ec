"""Decide which labelled files are fitted on and which are scored.

What an evaluation of the same set would test on is left out altogether: the test split of the data, or, where there is
none, the groups that an evaluation would deal to it. A validation split of the data is scored, and the rest fitted on.
Without one, whole groups are dealt to folds, and each fold is scored by what was fitted on the others. No group ever
lies on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.scanning.splits import in_test
from usjepa.cache.sources.columns import is_missing
from usjepa.cache.sources.splits import TEST as TEST_SPLIT
from usjepa.cache.sources.splits import canonical
from usjepa.train.probe.splits import DEALT, TEST, VALIDATION, Frames, dealt_in_turn, split_frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.recipes.recipe import Recipe

FOLDS = 5
"""Most folds; fewer where there are fewer groups."""
FITTED = -1
"""In place of a fold's number: always fitted on, never scored."""


class LabelledFile(Protocol):
    """A file of a listing or a store."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def dataset(self) -> str: ...  # noqa: D102
    @property
    def group(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def split(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Folds:
    """The files that take part, a value each, [n]."""

    files: NDArray[np.int64]
    """Which of those given."""
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    fold: NDArray[np.int64]
    """In which fold a file is scored; `FITTED`: in none."""
    classes: tuple[str, ...]
    how: str
    """Where the scored groups come from, in words."""
    notes: tuple[str, ...]

    def only(self, where: NDArray[np.int64]) -> Folds:
        """Return the folds of some of the files alone."""
        return Folds(
            self.files[where], self.labels[where], self.groups[where], self.fold[where], self.classes, self.how,
            self.notes,
        )  # fmt: skip


def fold_files(files: Sequence[LabelledFile], recipe: Recipe, place: str, scanned: bool) -> Folds:
    """Return which files of one dataset take part, and how.

    Args:
        files: of one dataset, those without a label among them.
        recipe: `evaluate.test_fraction`, and `cache.test_fraction` for files that no scan has marked.
        place: names the set in messages.
        scanned: whether the splits are those of a store, whose scan has set test groups aside.

    Raises:
        UsageError: fewer than two classes can be fitted on and scored.
    """
    labelled = np.flatnonzero([not is_missing(file.label) for file in files])
    those = [files[i] for i in labelled.tolist()]
    names = [file.label for file in those]
    classes = tuple(sorted(set(names)))
    _refuse_numbers(classes, place)
    keys, groups = np.unique(np.array([_group_name(file) for file in those], dtype=str), return_inverse=True)
    given = np.array([canonical(file.split) for file in those], dtype=np.object_)
    unmarked = not scanned and all(canonical(file.split) != TEST_SPLIT for file in files)
    if unmarked:
        aside = in_test([(file.dataset, file.group, file.split) for file in files], recipe.cache.test_fraction)
        given[aside[labelled]] = TEST_SPLIT
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number[name] for name in names], np.int64)
    frames = Frames(labels, groups.astype(np.int64), given, tuple(keys.tolist()), classes)
    split = split_frames(frames, recipe.evaluate.test_fraction, 0.0)
    tested = np.isin(frames.groups, frames.groups[split.parts == TEST])
    left = np.flatnonzero(~tested)
    held = split.parts[left] == VALIDATION
    why = "that a scan sets aside" if unmarked else "of its test split"
    why = "that an evaluation tests on" if split.origin[TEST] == DEALT else why
    notes = (f"{int(tested.sum()):,} files {why} are not looked at",) if tested.any() else ()
    found = Folds(labelled[left], labels[left], frames.groups[left], np.full(len(left), FITTED), classes, "", notes)
    folds = _by_validation(found, held) if held.any() else _by_folds(found, frames, left)
    check_classes(folds.labels, folds.fold, folds, place)
    return folds


def _group_name(file: LabelledFile) -> str:
    """Return what names a file's group, as in an evaluation."""
    return "\0".join((file.dataset, file.group) if file.group else (file.dataset, "", file.path))


def _refuse_numbers(classes: Sequence[str], place: str) -> None:
    """Raise UsageError where labels measure something: decimals are no classes."""
    try:
        values = [float(label) for label in classes]
    except ValueError:
        return
    if any(value != round(value) for value in values):
        raise UsageError(
            f"train.probe={place}: its labels are numbers ({', '.join(classes[:3])}, ...) and no classes. Give a set "
            "with classes, or leave it out (train.probe=null)."
        )


def _by_validation(found: Folds, held: NDArray[np.bool_]) -> Folds:
    """Score the validation split; files of its groups that lie elsewhere are left out."""
    straddling = ~held & np.isin(found.groups, found.groups[held])
    more = (f"{int(straddling.sum()):,} files of validation groups outside of it are left out",)
    notes = (*found.notes, *(more if straddling.any() else ()))
    folded = Folds(
        found.files, found.labels, found.groups, np.where(held, 0, FITTED), found.classes, "its validation split", notes
    )
    return folded.only(np.flatnonzero(~straddling))


def _by_folds(found: Folds, frames: Frames, left: NDArray[np.int64]) -> Folds:
    """Deal whole groups to folds, class by class; a class of one group can't be fitted on and scored."""
    counts = [len(np.unique(found.groups[found.labels == number])) for number in range(len(found.classes))]
    alone = [number for number, count in enumerate(counts) if count == 1]
    names = ", ".join(found.classes[number] for number in alone)
    notes = (*found.notes, *((f"left out, of one group alone: {names}",) if alone else ()))
    kept = np.flatnonzero(~np.isin(found.labels, alone))
    among = np.zeros(len(frames.labels), bool)
    among[left[kept]] = True
    folds = min(FOLDS, len(np.unique(found.groups[kept])))
    turn = dealt_in_turn(frames, among, folds)
    fold = np.array([turn.get(group, FITTED) for group in found.groups.tolist()], np.int64)
    how = f"{folds} folds of whole groups"
    return Folds(found.files, found.labels, found.groups, fold, found.classes, how, notes).only(kept)


def check_classes(labels_N: NDArray[np.int64], fold_N: NDArray[np.int64], found: Folds, place: str) -> None:
    """Raise UsageError unless two classes are scored, and fitted on for each fold.

    Args:
        labels_N: of files or frames.
        fold_N: theirs.
        found: what is told of them.
        place: names the set.
    """
    scored = labels_N[fold_N != FITTED]
    fitted = [labels_N[fold_N != fold] for fold in np.unique(fold_N[fold_N != FITTED])]
    if len(np.unique(scored)) >= 2 and all(len(np.unique(labels)) >= 2 for labels in fitted):
        return
    raise UsageError(
        f"train.probe={place}: a probe needs two classes, each in two groups (patients, clips) that are not of a test "
        f"split; found: {', '.join(found.classes) or 'no label'}"
        f"{''.join(f'; {note}' for note in found.notes)}. Name a folder per class, a manifest CSV with a column "
        "`label`, or a store with labels; or leave it out (train.probe=null)."
    )


def thinned(groups_N: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return the positions of at most so many, ascending: as many of each group as fit, evenly spaced within it.

    Small groups stay whole, so that no patient and no rare class is lost before large ones are cut.
    """
    if len(groups_N) <= most:
        return np.arange(len(groups_N))
    _, group_N, sizes = np.unique(groups_N, return_inverse=True, return_counts=True)
    if len(sizes) > most:
        first = np.sort(np.unique(group_N, return_index=True)[1])
        return first[np.linspace(0, len(first) - 1, most).astype(np.int64)]
    quotas = np.arange(1, int(sizes.max()) + 1)
    fits = [int(np.minimum(sizes, quota).sum()) <= most for quota in quotas]
    quota = int(quotas[np.flatnonzero(fits)[-1]])
    order = np.argsort(group_N, kind="stable")
    starts = np.r_[0, np.cumsum(sizes)[:-1]]
    taken = [
        order[start + np.linspace(0, size - 1, min(size, quota)).astype(np.int64)]
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]
    return np.sort(np.concatenate(taken))
