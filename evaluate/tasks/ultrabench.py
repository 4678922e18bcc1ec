"""Read UltraBench's tasks as its own tool writes them, in both of its on-disk formats.

A task is a folder `<name>_v<version>/` with `images/`, `masks/` and JSON arrays: `train.json`, `validation.json` and
`test.json` (the released packages), or `train_val.json` and `test.json` (newer sources, and POCUS, GBCU and others in
the released ones). An item has `image`, mostly `label` (from 0), perhaps `patient` or `source`, and paths of masks.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError
from usjepa.cache.terminal.refusals import advice
from usjepa.evaluate.tasks.base import Labelled, TaskFolder, checked, refuse_twice

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.cache import CacheSettings

_TEST = "test.json"
_VERSION = re.compile(r"_v\d[\w.]*$")
_CONVENTIONS = (("train_val.json",), ("train.json", "validation.json"))
_GROUP_KEYS = ("patient", "source")
_SCAN = "scan_mask"
_NOT_CLASSIFIED = ("aul_liver", "open_kidney", "psfhs", "stanford_thyroid")
"""Tasks of the benchmark that only ask for a segmentation, whatever their items are labelled with."""

_CLASSES = {
    "aul_mass": ("normal", "benign", "malignant"),
    "butterfly": ("carotid", "2ch", "lungs", "ivc", "4ch", "bladder", "thyroid", "plax", "morisons_pouch"),
    "camus": ("poor", "medium", "good"),
    "mmotu": (
        "chocolate cyst",
        "serous cystadenoma",
        "teratoma",
        "theca cell tumour",
        "simple cyst",
        "normal ovary",
        "mucinous cystadenoma",
        "high-grade serous",
    ),
    "pocus": ("regular", "pneumonia", "covid"),
}
"""Names of the numbered labels, where the benchmark gives them; elsewhere a class is called by its number."""


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
    if _is_task(path):
        return [path]
    return [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _is_task(folder)]


def _is_task(folder: Path) -> bool:
    return (folder / _TEST).is_file() and any((folder / names[0]).is_file() for names in _CONVENTIONS)


def _read(folder: Path) -> TaskFolder:
    name = _VERSION.sub("", folder.resolve().name) or "task"
    files = [
        _item(folder, name, item, split.stem, f"{split.name}, item {number}")
        for split in _splits(folder)
        for number, item in enumerate(_array(split))
    ]
    refuse_twice(files, str(folder))
    unlabelled_only = all(file.label == "" for file in files)
    return TaskFolder(
        "ultrabench",
        name,
        folder.resolve(),
        tuple(files),
        _notes(files),
        classified=not unlabelled_only and not name.startswith(_NOT_CLASSIFIED),
    )


def _splits(folder: Path) -> list[Path]:
    """Return the JSON files of the one convention that the folder follows."""
    present = [names for names in _CONVENTIONS if (folder / names[0]).is_file()]
    if len(present) > 1:
        raise UsageError(
            f"{folder}: holds train.json and train_val.json, which two versions of UltraBench wrote. Keep one of them."
        )
    return [folder / name for name in (*present[0], _TEST) if (folder / name).is_file()]


def _array(path: Path) -> list[dict[str, Any]]:
    try:
        items = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror}). {advice(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: can't be read as JSON ({error}).") from error
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UsageError(f"{path}: not an array of objects, as UltraBench writes it.")
    return items


def _item(folder: Path, name: str, item: dict[str, Any], split: str, where: str) -> Labelled:
    where = f"{folder}: {where}"
    group = next((item[key] for key in _GROUP_KEYS if item.get(key) not in (None, "")), "")
    masks = {
        key: checked(folder, path, where)
        for key, path in sorted(item.items())
        if "mask" in key and key != _SCAN and path is not None
    }
    return Labelled(checked(folder, item.get("image"), where), _label(name, item, where), str(group), split, masks)


def _label(name: str, item: dict[str, Any], where: str) -> str:
    """Return the name of an item's class; "" where it has none."""
    number = item.get("label")
    if number is None:
        return ""
    names = _CLASSES.get(name)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise UsageError(f"{where}: label {number!r} is no whole number from 0.")
    if names is None:
        return str(number)
    if number >= len(names):
        raise UsageError(f"{where}: label {number}, but {name} has the classes 0 to {len(names) - 1}.")
    return names[number]


def _notes(files: list[Labelled]) -> tuple[str, ...]:
    if any(file.group for file in files):
        return ()
    return ("The task does not say which images are of one patient: each counts as a group of its own.",)
