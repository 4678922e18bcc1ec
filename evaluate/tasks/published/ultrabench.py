"""Read UltraBench's tasks for scoring, as its own tool writes them.

The lists are read by the layout of stage one; here come the segmentations and what counts as a classification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.sources.layouts.ultrabench import (
    NO_VALIDATION,
    SCAN_MASK,
    Item,
    is_task,
    lacks_validation,
    read_items,
    task_name,
)
from usjepa.evaluate.tasks.base import Labelled, TaskFolder, checked, refuse_twice

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.cache import CacheSettings

_NOT_CLASSIFIED = ("aul_liver", "open_kidney", "psfhs", "stanford_thyroid")
"""Tasks of the benchmark that only ask for a segmentation, whatever their items are labelled with."""


class UltraBench:
    """One task's folder, or a folder that holds several: all of them are read."""

    name = "ultrabench"
    wanted = "`test.json` beside `train_val.json` or `train.json`, in the folder or in folders within it."

    def fits(self, path: Path) -> bool:
        """Return whether a folder is a task's, or holds any."""
        return bool(_folders(path))

    def read(self, path: Path, settings: CacheSettings) -> list[TaskFolder]:
        """Return the tasks; raises UsageError, naming file and item, where one is not as UltraBench writes it."""
        del settings
        return [_read(folder) for folder in _folders(path)]


def _folders(path: Path) -> list[Path]:
    """Return the task folders at a path: the folder itself, or those directly within it, by name."""
    if not path.is_dir():
        return []
    if is_task(path):
        return [path]
    return [folder for folder in sorted(path.iterdir()) if folder.is_dir() and is_task(folder)]


def _read(folder: Path) -> TaskFolder:
    name = task_name(folder)
    files = [_labelled(folder, item) for item in read_items(folder)]
    refuse_twice(files, str(folder))
    unlabelled_only = all(file.label == "" for file in files)
    return TaskFolder(
        "ultrabench",
        name,
        folder.resolve(),
        tuple(files),
        _notes(folder, files),
        classified=not unlabelled_only and not name.startswith(_NOT_CLASSIFIED),
    )


def _labelled(folder: Path, item: Item) -> Labelled:
    masks = {name: checked(folder, path, item.where) for name, path in item.masks.items() if name != SCAN_MASK}
    return Labelled(checked(folder, item.image, item.where), item.label, item.group, item.split, masks)


def _notes(folder: Path, files: list[Labelled]) -> tuple[str, ...]:
    notes = [] if any(file.group for file in files) else [_NO_PATIENTS]
    return (*notes, *([NO_VALIDATION] if lacks_validation(folder) else []))


_NO_PATIENTS = "The task does not say which images are of one patient: each counts as a group of its own."
