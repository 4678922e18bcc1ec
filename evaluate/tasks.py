"""A task: the labelled frames of one dataset of a store, with their groups and splits.

`--task` names a store, or anything stage one can read: that is then cut into a pixels-only store beside the report,
once, with view 0 alone. `PATH::DATASET` picks one dataset of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.identity import Json, digest_of
from usjepa.evaluate.splits import TEST, TRAIN, VALIDATION, Frames, split_frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.settings import EvaluateSettings, Recipe
    from usjepa.cache.store import Store

_BUILT_IN_SOURCE = "phantom"


@dataclass(frozen=True)
class Task:
    """A labelled dataset within a store; arrays hold a value per frame."""

    name: str
    store: Store
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    """Index into `classes`."""
    classes: tuple[str, ...]
    groups: NDArray[np.int64]
    """Group number; equal numbers are one patient or clip."""
    splits: NDArray[np.object_]
    """One of "train", "validation", "test"."""
    notes: tuple[str, ...]
    """What a reader of the scores must know: leaks, missing labels, too few examples."""

    def positions(self, split: str) -> NDArray[np.int64]:
        """Return where in the arrays a split's frames stand."""
        return np.flatnonzero(self.splits == split)

    @property
    def identity(self) -> dict[str, Json]:
        """What the scores rest on: the store's content and which rows, labels and splits of it."""
        told = [self.rows.tolist(), self.labels.tolist(), self.splits.tolist(), self.groups.tolist()]
        return {"store": self.store.digest, "frames": digest_of(told), "classes": list(self.classes)}

    def counts(self) -> dict[str, Json]:
        """Return frames, groups and frames of each class, for each split."""
        told: dict[str, Json] = {}
        for split in (TRAIN, VALIDATION, TEST):
            where = self.positions(split)
            told[split] = {
                "frames": len(where),
                "groups": len(np.unique(self.groups[where])),
                "classes": {name: int((self.labels[where] == i).sum()) for i, name in enumerate(self.classes)},
            }
        return told


@dataclass(frozen=True)
class Found:
    """What there is to score."""

    tasks: list[Task]
    left_out: list[str]
    """Datasets that can't be scored, each with the reason."""


def open_tasks(specs: Sequence[str], out: Path, recipe: Recipe) -> Found:
    """Return the tasks behind the `--task` arguments, in their order.

    Raises:
        UsageError: a path that isn't there, or data without a task in it.
    """
    found = [_tasks_behind(*_parted(spec), out, recipe) for spec in specs]
    seen: Counter[str] = Counter()
    named = []
    for task in (task for one in found for task in one.tasks):
        seen[task.name] += 1
        named.append(replace(task, name=f"{task.name} ({seen[task.name]})") if seen[task.name] > 1 else task)
    return Found(named, [reason for one in found for reason in one.left_out])


def tasks_of(
    store: Store, settings: EvaluateSettings, dataset: str | None = None, fallback: str = "task"
) -> list[Task]:
    """Return a store's tasks by name; arguments and errors are those of `find_tasks`."""
    return find_tasks(store, settings, dataset, fallback).tasks


def find_tasks(store: Store, settings: EvaluateSettings, dataset: str | None = None, fallback: str = "task") -> Found:
    """Return a store's tasks: every dataset with two labels or more in training and in test; `dataset` picks one.

    Args:
        store: an open store.
        settings: the shares of test and validation groups.
        dataset: the one dataset wanted.
        fallback: what a dataset without a name is called.

    Raises:
        UsageError: the dataset isn't there, or none can be scored; it says why.
    """
    names = sorted(set(store.table.dataset.tolist()))
    if dataset is not None and dataset not in names:
        raise UsageError(f"{store.location}: no dataset {dataset!r}; it holds {', '.join(names)}.")
    made = [_task(store, name, name or fallback, settings) for name in (names if dataset is None else [dataset])]
    tasks = [task for task in made if isinstance(task, Task)]
    reasons = [reason for reason in made if isinstance(reason, str)]
    if not tasks:
        raise UsageError(
            f"{store.location}: nothing to score. {' '.join(reasons)} A task needs a label per file (a folder per "
            "class, or a manifest CSV with a `label` column) and several patients or clips of each."
        )
    return Found(tasks, reasons)


def _task(store: Store, dataset: str, name: str, settings: EvaluateSettings) -> Task | str:
    """Return a dataset's task, or why it is none."""
    table = store.table
    here = (table.dataset.astype(str) == dataset) & (table.view == 0)
    labelled = here & (table.label.astype(str) != "")
    classes = tuple(sorted(set(table.label[labelled].tolist())))
    if len(classes) < 2:
        return f"{name}: not scored, it has fewer than two labels."
    number = {label: i for i, label in enumerate(classes)}
    labels = np.array([number[label] for label in table.label[labelled]], dtype=np.int64)
    groups, keys = _groups(store, labelled)
    frames = Frames(labels, groups, table.split[labelled], keys, classes)
    splits, notes = split_frames(frames, settings.test_fraction, settings.validation_fraction)
    for part in (TRAIN, TEST):
        present = len(np.unique(labels[splits == part]))
        if present < 2:
            told = "no frame" if not present else "frames of one class only"
            return f"{name}: not scored, {len(keys)} groups leave {told} for {'training' if part == TRAIN else 'test'}."
    lost = int(here.sum() - labelled.sum())
    hygiene = [f"{lost} of {int(here.sum())} frames have no label and are left out."] if lost else []
    hygiene += _duplicates(store, labelled, splits, labels)
    return Task(name, store, store.rows[labelled], labels, classes, groups, splits, (*hygiene, *notes))


def _groups(store: Store, mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return each frame's group number and the groups' names; a file without a group is one of its own."""
    sources = [store.table.sources[i] for i in store.table.source[mask]]
    names = ["\0".join((s.dataset, s.group) if s.group else (s.dataset, "", s.path)) for s in sources]
    keys = tuple(sorted(set(names)))
    number = {key: i for i, key in enumerate(keys)}
    return np.array([number[name] for name in names], dtype=np.int64), keys


def _duplicates(
    store: Store, mask: NDArray[np.bool_], splits: NDArray[np.object_], labels: NDArray[np.int64]
) -> list[str]:
    """Return notes on files with equal content that lie on both sides of the split, or bear different labels."""
    content = np.array([s.content_hash for s in store.table.sources], dtype=object)[store.table.source[mask]]
    frame = store.table.frame[mask]
    sides: dict[tuple[str, int], set[str]] = {}
    named: dict[tuple[str, int], set[int]] = {}
    for key, split, label in zip(zip(content, frame.tolist(), strict=True), splits, labels.tolist(), strict=True):
        sides.setdefault(key, set()).add(split)
        named.setdefault(key, set()).add(label)
    both = sum(TEST in parts and len(parts) > 1 for parts in sides.values())
    torn = sum(len(given) > 1 for given in named.values())
    notes = [f"Leak: {both} identical frames lie both in test and in training or validation."] if both else []
    return notes + ([f"{torn} identical frames bear different labels."] if torn else [])


def _parted(spec: str) -> tuple[str, str | None]:
    path, mark, dataset = spec.rpartition("::")
    return (path, dataset) if mark else (spec, None)


def _tasks_behind(path: str, dataset: str | None, out: Path, recipe: Recipe) -> Found:
    from usjepa.cache.storage import open_storage
    from usjepa.cache.store import open_store

    fallback = Path(path).stem or "task"
    if "://" not in path and not Path(path).exists() and path != _BUILT_IN_SOURCE:
        raise UsageError(f"--task {path}: no such store, folder or manifest.")
    is_store = ("://" in path or Path(path).is_dir()) and open_storage(path).size("zarr.json") is not None
    location = path if is_store else _cut(path, out, recipe)
    return find_tasks(open_store(location), recipe.evaluate, dataset, fallback)


def _cut(source: str, out: Path, recipe: Recipe) -> str:
    """Cut a source's frames into a pixels-only store under OUT, or find an earlier call's; return its place."""
    from usjepa.cache.build import build

    views = recipe.cache.views.model_copy(update={"count": 1})
    settings = recipe.cache.model_copy(update={"views": views, "teacher": None})
    place = source if source == _BUILT_IN_SOURCE else str(Path(source).resolve())
    # Source and settings are part of the name, so that another recipe or folder never grows this store.
    mark = digest_of({"source": place, "cache": settings.model_dump(mode="json")})[:8]
    store = out / "tasks" / f"{Path(source).stem or 'task'}-{mark}.zarr"
    build(
        str(store),
        recipe.model_copy(update={"cache": settings}),
        source=source,
        teacher=None,
        on_error=None,
        steal=False,
        device=None,
    )
    return str(store)
