"""Find the tasks behind `--task`: a store, or labelled frames as they were published.

Published frames (see `layouts.py`) are cut into a store first (see `cut.py`). `PATH::DATASET` picks one dataset.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.columns import is_missing
from usjepa.cache.sources.grouping import group_of_file
from usjepa.evaluate.tasks.base import Labelled
from usjepa.evaluate.tasks.cut import Known, cut
from usjepa.evaluate.tasks.layouts import known_layouts, recognise
from usjepa.evaluate.tasks.measurements import number as number_in
from usjepa.evaluate.tasks.name_groups import name_codes
from usjepa.evaluate.tasks.splits import OF_STORE, TEST, TRAIN, Frames, split_frames, splits_of
from usjepa.evaluate.tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.evaluate.tasks.base import TaskFolder


@dataclass(frozen=True)
class Found:
    """The tasks to score, and what can't be scored."""

    tasks: list[Task]
    left_out: list[str]
    """Datasets that can't be scored, each with the reason."""


def open_tasks(specs: Sequence[str], out: Path, recipe: Recipe) -> Found:
    """Return the tasks behind the `--task` arguments, in their order.

    Raises:
        UsageError: a path that isn't there, a folder of no known layout, or data without a task in it.
    """
    found = [_tasks_behind(*parted(spec), out, recipe) for spec in specs]
    named = numbered([task for one in found for task in one.tasks])
    return Found(named, [reason for one in found for reason in one.left_out])


def numbered(tasks: Sequence[Task]) -> list[Task]:
    """Return tasks with a number behind names that occurred before."""
    seen: Counter[str] = Counter()
    named = []
    for task in tasks:
        seen[task.name] += 1
        named.append(replace(task, name=f"{task.name} ({seen[task.name]})") if seen[task.name] > 1 else task)
    return named


def find_tasks(
    store: Store,
    settings: EvaluateSettings,
    dataset: str | None = None,
    fallback: str = "task",
    known: Known | None = None,
) -> Found:
    """Return a store's tasks: every dataset with two labels or more in training and in test; `dataset` picks one.

    Args:
        store: an open store.
        settings: the shares of test and validation groups.
        dataset: the one dataset wanted.
        fallback: what a dataset without a name is called.
        known: labels, groups and splits, in place of those that stand in the store's own tables.

    Raises:
        UsageError: the dataset isn't there, or none can be scored, with the reasons.
    """
    names = sorted(set(store.table.dataset.tolist()) if known is None else {key[0] for key in known.files})
    if dataset is not None and dataset not in names:
        raise UsageError(f"{store.location}: no dataset {dataset!r}; it holds {', '.join(names)}.")
    made = [_task(store, name, name or fallback, settings, known) for name in (names if dataset is None else [dataset])]
    tasks = [task for task in made if isinstance(task, Task)]
    reasons = [reason for reason in made if isinstance(reason, str)]
    if not tasks:
        raise UsageError(
            f"{store.location if known is None else known.name}: nothing to score. {' '.join(reasons)} A task needs a "
            "label per file (a folder per class, or a manifest CSV with a `label` column) and several patients or "
            "clips of each; numbers, as an ejection fraction, are predicted by --regress. Known layouts: "
            f"{known_layouts()}"
        )
    return Found(tasks, reasons)


@dataclass(frozen=True)
class Columns:
    """A dataset's labels, splits and names of groups, by row of the store."""

    here: NDArray[np.bool_]
    """[R] whether a row is of the dataset: view 0 of the files that the layout lists."""
    labels: NDArray[np.object_]
    splits: NDArray[np.object_]
    groups: NDArray[np.object_]
    names: NDArray[np.int64]
    """What file names suggest as patients, see `name_groups.py`."""
    alone: NDArray[np.bool_]
    """Whether a row's file is a group of its own."""
    given_by: str
    """Who named the splits."""


def _task(store: Store, dataset: str, name: str, settings: EvaluateSettings, known: Known | None) -> Task | str:
    """Return a dataset's task, or why it can't be scored."""
    columns = columns_of(store, dataset, known)
    mask = columns.here & (columns.labels != "")
    classes = tuple(sorted(set(columns.labels[mask].tolist())))
    if len(classes) < 2:
        return f"{name}: not scored, it has fewer than two labels."
    codes, decimals = as_numbers(classes) if known is None or known.layout == "plain" else ([], False)
    if decimals:
        return (
            f"{name}: not scored, its labels are numbers ({', '.join(classes[:3])}, ...) and no classes: --regress "
            "predicts numbers. Give classes names where they are some."
        )
    number = {label: i for i, label in enumerate(classes)}
    labels = np.array([number[label] for label in columns.labels[mask]], dtype=np.int64)
    keys, groups = np.unique(columns.groups[mask].astype(str), return_inverse=True)
    frames = Frames(labels, groups.astype(np.int64), columns.splits[mask], tuple(keys.tolist()), classes)
    split = split_frames(frames, settings.test_fraction, settings.validation_fraction, columns.given_by)
    for part in (TRAIN, TEST):
        present = len(np.unique(labels[split.parts == part]))
        if present < 2:
            what = "no frame" if not present else "frames of one class only"
            return f"{name}: not scored, {len(keys)} groups leave {what} for {'training' if part == TRAIN else 'test'}."
    return Task(
        name,
        store,
        store.rows[mask],
        labels,
        classes,
        frames.groups,
        split.parts,
        (*(known.notes if known is not None else ()), *split.notes, *codes),
        unlabelled=int((columns.here & ~mask).sum()),
        origin=split.origin,
        layout="store" if known is None else known.layout,
        names=columns.names[mask],
        ungrouped=int(columns.alone[mask].sum()),
        clips=store.table.source[mask].astype(np.int64),
    )


def as_numbers(classes: Sequence[str]) -> tuple[list[str], bool]:
    """Return what must be said of classes that are all numbers, and whether they have decimals, so are no codes."""
    try:
        found = [number_in(label) for label in classes]
    except ValueError:
        return [], False
    values = [value for value in found if value is not None]
    if len(values) < len(classes):
        return [], False
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    told = (
        f"Its {len(classes)} labels are whole numbers ({shown}) and are taken for codes of classes, without order. If "
        "they measure something, --regress predicts them."
    )
    return [told], any(value != round(value) for value in values)


def columns_of(store: Store, dataset: str, known: Known | None) -> Columns:
    """Return a dataset's labels, splits and groups, from its layout or else from the store's tables."""
    table = store.table
    per_source = [
        known.files.get((s.dataset, s.path)) if known is not None else Labelled(s.path, s.label, s.group, s.split)
        for s in table.sources
    ]
    ours = np.array([s.dataset == dataset for s in table.sources], dtype=bool)
    listed = np.array([file is not None for file in per_source], dtype=bool)
    files = [file or Labelled("", "", "", "") for file in per_source]
    splits, given_by = [file.split for file in files], OF_STORE
    if known is not None:
        mine = np.flatnonzero(ours).tolist()
        found, given_by = splits_of([files[i].split for i in mine], [table.sources[i].split for i in mine])
        for i, one in zip(mine, found, strict=True):
            splits[i] = one
    alone = np.array([_is_alone(f.group, s.path) for f, s in zip(files, table.sources, strict=True)], dtype=bool)
    names = name_codes([s.path if own else f.group for f, s, own in zip(files, table.sources, alone, strict=True)])
    groups = [
        "\0".join((dataset, f.group) if f.group else (dataset, "", s.path))
        for f, s in zip(files, table.sources, strict=True)
    ]
    here = (ours & listed)[table.source] & (table.view == 0)
    labels = ["" if is_missing(f.label) else f.label for f in files]
    by_row = [np.array(column, dtype=object)[table.source] for column in (labels, splits, groups)]
    labels_R, splits_R, groups_R = by_row
    return Columns(here, labels_R, splits_R, groups_R, names[table.source], alone[table.source], given_by)


def _is_alone(group: str, path: str) -> bool:
    """Return whether a file is a group of its own: nothing names one, or its own path does."""
    return group in ("", path, group_of_file(path))


def parted(spec: str) -> tuple[str, str | None]:
    """Return the path and the dataset of a `PATH[::DATASET]`."""
    path, mark, dataset = spec.rpartition("::")
    return (path, dataset) if mark else (spec, None)


def is_store(path: str) -> bool:
    """Return whether a store lies at a path or URL."""
    from usjepa.cache.storage.location import open_storage
    from usjepa.cache.storage.urls import is_url

    return (is_url(path) or Path(path).is_dir()) and open_storage(path).size("zarr.json") is not None


def _tasks_behind(path: str, dataset: str | None, out: Path, recipe: Recipe) -> Found:
    from usjepa.cache.reading.store import open_store

    if is_store(path):
        return find_tasks(open_store(path), recipe.evaluate, dataset, Path(path).stem or "task")
    folders = recognise(path, recipe.cache)
    tasks: list[Task] = []
    reasons: list[str] = []
    for folder in wanted_folders(folders, path, dataset):
        store, known = cut(folder, out, recipe)
        found = find_tasks(store, recipe.evaluate, None, folder.name, known)
        tasks += found.tasks
        reasons += found.left_out
    return Found(tasks, [*reasons, *_passed_over(folders, dataset)])


def _passed_over(folders: Sequence[TaskFolder], dataset: str | None) -> list[str]:
    """Return which tasks of a folder are not scored because they ask for something else."""
    if dataset is not None or folders[0].layout == "plain":
        return []
    return [
        f"{folder.name}: passed over, it asks for segmentations alone (--segment)."
        for folder in folders
        if not folder.classified
    ]


def wanted_folders(
    folders: Sequence[TaskFolder], path: str, dataset: str | None, option: str = "--task"
) -> list[TaskFolder]:
    """Return the folders that are classification tasks, or the one that was picked: nothing else is cut for it."""
    if folders[0].layout == "plain":
        return [_picked(folder, f"{option} {path}", dataset) for folder in folders]
    names = [folder.name for folder in folders if folder.classified]
    if dataset is not None and dataset not in names:
        raise UsageError(f"{option} {path}: no dataset {dataset!r}; it holds {', '.join(names) or 'none'}.")
    if not names:
        tasks = ", ".join(folder.name for folder in folders)
        raise UsageError(f"{option} {path}: {tasks} are segmentation tasks without classes. Use --segment.")
    return [folder for folder in folders if folder.classified and dataset in (None, folder.name)]


def _picked(folder: TaskFolder, place: str, dataset: str | None) -> TaskFolder:
    """Return the part of a folder that is one dataset, or the whole."""
    if dataset is None:
        return folder
    names = sorted({file.dataset or folder.name for file in folder.files})
    if dataset not in names:
        raise UsageError(f"{place}: no dataset {dataset!r}; it holds {', '.join(names)}.")
    files = tuple(file for file in folder.files if (file.dataset or folder.name) == dataset)
    return replace(folder, name=f"{folder.name}-{dataset}", files=files)
