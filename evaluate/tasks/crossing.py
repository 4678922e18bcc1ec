"""Join labelled frames of two places into one task, to train and to test on.

`--train-task A --test-task B`: of A everything that A does not set aside for a test, of B its test split, or everything
where it names none. Patients of the two are numbered apart; equal names are told, for they may be the same people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.several.stores import Stores
from usjepa.cache.sources.columns import is_missing
from usjepa.cache.sources.splits import VAL, canonical
from usjepa.evaluate.tasks.cut import cut
from usjepa.evaluate.tasks.find import Found, as_numbers, columns_of, is_store, numbered, parted, wanted_folders
from usjepa.evaluate.tasks.layouts import recognise
from usjepa.evaluate.tasks.splits import SET_ASIDE, TEST, Frames, split_frames
from usjepa.evaluate.tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.several.face import Readable
    from usjepa.evaluate.tasks.cut import Known
    from usjepa.evaluate.tasks.find import Columns

TRAIN_OPTION, TEST_OPTION = "--train-task", "--test-task"
LAYOUT = "crossed"
_NAMED = 5
"""How many names a message lists."""


@dataclass(frozen=True)
class Side:
    """The labelled frames of one place."""

    spec: str
    """As it was given."""
    name: str
    store: Store
    columns: Columns
    mask: NDArray[np.bool_]
    """[R] rows that take part."""
    notes: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """The label of each frame."""
        return [str(label) for label in self.columns.labels[self.mask].tolist()]

    @property
    def files(self) -> set[tuple[str, str]]:
        """Content and label of each file of the place, whatever path it was given by."""
        numbers = np.unique(self.store.table.source[self.columns.here]).tolist()
        labels = dict(zip(self.store.table.source.tolist(), self.columns.labels.tolist(), strict=True))
        return {(self.store.table.sources[n].content_hash, str(labels[n])) for n in numbers}

    @property
    def known_groups(self) -> set[str]:
        """Names of patients or clips, without their dataset's; not of files that are groups of their own."""
        named = self.columns.groups[self.mask & ~self.columns.alone]
        return {str(group).rsplit("\0", 1)[-1] for group in named.tolist()}


def add_crossed(found: Found, pairs: Sequence[tuple[str, str]], out: Path, recipe: Recipe) -> Found:
    """Return the tasks with those of `--train-task` and `--test-task` behind them.

    Raises:
        UsageError: a place that isn't there, holds several datasets, bears labels that the other lacks, or is it.
        IdentityError: two stores whose pixels differ in size or recipe.
    """
    made = [_crossed(*pair, out, recipe) for pair in pairs]
    return Found(numbered([*found.tasks, *made]), found.left_out)


def _crossed(train: str, test: str, out: Path, recipe: Recipe) -> Task:
    first, second = _side(train, TRAIN_OPTION, out, recipe), _side(test, TEST_OPTION, out, recipe)
    if first.files == second.files:
        raise UsageError(
            f"{TRAIN_OPTION} {train} and {TEST_OPTION} {test} are one data set: the same files with the same labels. "
            f"--task {train} trains and tests on one place; for two, name another."
        )
    classes = _classes(first, second)
    store, starts = _joined(first.store, second.store)
    sides = (first, second)
    positions = np.concatenate([at + np.flatnonzero(side.mask) for at, side in zip(starts, sides, strict=True)])
    number = {label: i for i, label in enumerate(classes)}
    labels = np.array([number[label] for side in sides for label in side.labels], dtype=np.int64)
    keys = [f"{at}\0{group}" for at, side in enumerate(sides) for group in side.columns.groups[side.mask].tolist()]
    names, groups = np.unique(np.array(keys), return_inverse=True)
    given = np.concatenate([_own_validation(first), np.full(int(second.mask.sum()), TEST, dtype=object)])
    frames = Frames(labels, groups.astype(np.int64), given, tuple(names.tolist()), classes)
    split = split_frames(frames, 0.0, recipe.evaluate.validation_fraction)
    return Task(
        f"{first.name} to {second.name}",
        store,
        store.row_numbers(positions),
        labels,
        classes,
        frames.groups,
        split.parts,
        (*_told(first, second), *split.notes),
        unlabelled=sum(int((side.columns.here & (side.columns.labels == "")).sum()) for side in sides),
        origin={**split.origin, TEST: f"the frames of {TEST_OPTION}"},
        layout=LAYOUT,
        names=_suggested(first, second),
        ungrouped=sum(int(side.columns.alone[side.mask].sum()) for side in sides),
        clips=store.table.source[positions].astype(np.int64),
    )


def _side(spec: str, option: str, out: Path, recipe: Recipe) -> Side:
    """Open or cut one place; UsageError where it is not one dataset with labels."""
    from usjepa.cache.reading.store import open_store

    path, dataset = parted(spec)
    known: Known | None = None
    if is_store(path):
        store, fallback = open_store(path), path.rstrip("/").rsplit("/", 1)[-1].removesuffix(".zarr")
        names = sorted({one.dataset for one in store.table.sources if not is_missing(one.label)})
    else:
        folders = wanted_folders(recognise(path, recipe.cache), path, dataset, option)
        if len(folders) > 1:
            raise _several(option, spec, [folder.name for folder in folders])
        store, known = cut(folders[0], out, recipe)
        fallback = folders[0].name
        names = sorted({key[0] for key, file in known.files.items() if not is_missing(file.label)})
        dataset = None  # the folder is it already
    if dataset is not None and dataset not in names:
        raise UsageError(f"{option} {spec}: no labels of a dataset {dataset!r}; {', '.join(names) or 'none'} has some.")
    names = names if dataset is None else [dataset]
    if not names:
        raise UsageError(f"{option} {spec}: no frame has a label.")
    if len(names) > 1:
        raise _several(option, spec, names)
    columns = columns_of(store, names[0], known)
    return _taking_part(spec, names[0] or fallback, store, columns, option, () if known is None else known.notes)


def _several(option: str, spec: str, names: Sequence[str]) -> UsageError:
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return UsageError(f"{option} {spec}: holds several datasets ({shown}). Pick one: {option} {spec}::{names[0]}.")


def _taking_part(spec: str, name: str, store: Store, columns: Columns, option: str, notes: tuple[str, ...]) -> Side:
    """Return the side with the frames of its place that take part, and what is said of those that don't."""
    labelled = columns.here & (columns.labels != "")
    # What only the scan set aside, because the data names no test split, is no split of the data.
    named = columns.given_by != SET_ASIDE
    test = labelled & (_splits(columns) == TEST) & named
    if option == TRAIN_OPTION:
        mask, left, why = labelled & ~test, int(test.sum()), "it sets them aside for its own test"
    else:
        mask = test if test.any() else labelled
        left, why = int((labelled & ~mask).sum()), "they are not of its test split"
    told = [f"{left} of {int(labelled.sum())} labelled frames of {name} are left out: {why}."] if left else []
    if not mask.any():
        raise UsageError(f"{option} {spec}: no labelled frame is left to take part. {' '.join(told)}")
    return Side(spec, name, store, columns, mask, (*notes, *told))


def _splits(columns: Columns) -> NDArray[np.object_]:
    return np.array([canonical(str(name)) for name in columns.splits.tolist()], dtype=object)


def _own_validation(side: Side) -> NDArray[np.object_]:
    """Return "val" for the frames that the training side names so, "" for others, [n]."""
    return np.where(_splits(side.columns)[side.mask] == VAL, VAL, "").astype(object)


def _classes(first: Side, second: Side) -> tuple[str, ...]:
    """Return the classes of the training side; UsageError where the other has more, or either fewer than two."""
    mine, theirs = set(first.labels), set(second.labels)
    unknown = sorted(theirs - mine)
    if unknown:
        raise UsageError(
            f"{TEST_OPTION} {second.spec}: its labels {', '.join(unknown[:_NAMED])} do not occur in {TRAIN_OPTION} "
            f"{first.spec}, which has {', '.join(sorted(mine)[:_NAMED])}. Give both the same names (a manifest CSV "
            "with a column `label`), and leave out what only one of them has."
        )
    for option, side, labels in ((TRAIN_OPTION, first, mine), (TEST_OPTION, second, theirs)):
        if len(labels) < 2:
            raise UsageError(
                f"{option} {side.spec}: all its frames are {next(iter(labels))!r}; two classes are needed."
            )
    classes = tuple(sorted(mine))
    _, decimals = as_numbers(classes)
    if decimals:
        raise UsageError(f"{TRAIN_OPTION} {first.spec}: its labels are numbers and no classes; see --regress.")
    return classes


def _joined(first: Store, second: Store) -> tuple[Readable, tuple[int, int]]:
    """Return both stores as one, and where the rows of each start in it; the same store twice is itself."""
    if first.storage.url == second.storage.url:
        return first, (0, 0)
    layers = [
        name
        for name, layer in first.layers.items()
        if layer.kind in ("pixels", "regions") or second.identity.get(name) == layer.identity
    ]
    return Stores((first, second), layers), (0, len(first))


def _suggested(first: Side, second: Side) -> NDArray[np.int64]:
    """Return the numbers of what file names suggest as patients, those of the two sides apart, [n]."""
    mine, theirs = (side.columns.names[side.mask] for side in (first, second))
    apart = np.where(theirs >= 0, theirs + 1 + max(int(mine.max()), 0), theirs)
    return np.concatenate([mine, apart]).astype(np.int64)


def _told(first: Side, second: Side) -> list[str]:
    told = [f"Trained on {first.name} and tested on {second.name}, which are two places."]
    shared = sorted(first.known_groups & second.known_groups)
    if shared:
        some = ", ".join(shared[:_NAMED]) + (", ..." if len(shared) > _NAMED else "")
        told.append(
            f"Perhaps a leak: {len(shared)} of {len(second.known_groups)} patients or clips of the test bear a name "
            f"that training has, too ({some}). If they are the same, scores are too high."
        )
    missing = sorted(set(first.labels) - set(second.labels))
    if missing:
        told.append(f"The test has no frame of {', '.join(missing[:_NAMED])}, which training knows.")
    return [*told, *first.notes, *second.notes]
