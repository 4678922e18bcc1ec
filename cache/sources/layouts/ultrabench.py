"""Read a task as UltraBench's own tool writes it, in both of its on-disk formats.

A task is a folder `<name>_v<version>/` with `images/`, `masks/` and JSON arrays: `train.json`, `validation.json` and
`test.json` (packages 1.0.x), or `train_val.json` and `test.json` (newer sources). An item has `image`, mostly `label`
(from 0), perhaps `patient` or `source`, and paths of masks; `scan_mask` is the region of the scan.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.formats.packed.members import is_there
from usjepa.cache.sources.layouts.base import NO_PATIENTS, Folder, Listed, Row, once
from usjepa.cache.sources.layouts.tables import objects, read_json
from usjepa.cache.sources.splits import split_named

if TYPE_CHECKING:
    from collections.abc import Mapping

TEST_LIST = "test.json"
SCAN_MASK = "scan_mask"
_CONVENTIONS = (("train_val.json",), ("train.json", "validation.json"))
_VERSION = re.compile(r"_v\d[\w.]*$")
_GROUP_KEYS = ("patient", "source")
_NAME_KEYS = ("pathology", "class_name", "label_name", "class")

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
"""Names of the numbered labels, where the benchmark gives them; elsewhere those that the items give, or the number."""


@dataclass(frozen=True)
class Item:
    """An item of a list."""

    image: object
    """A path, as the list has it."""
    label: str
    """Empty for none."""
    group: str
    split: str
    """Name of its list without `.json`."""
    masks: Mapping[str, object]
    """Name -> path as the list has it, the scan's own among them; those that are null left out."""
    where: str
    """File and number, for messages."""


class UltraBench:
    """`test.json` beside `train_val.json` or `train.json`."""

    name = "ultrabench"
    title = "an UltraBench task"

    def recognises(self, folder: Folder) -> bool:
        """Return whether a folder is a task's."""
        return folder.file(TEST_LIST) is not None and any(folder.file(names[0]) for names in _CONVENTIONS)

    def rows(self, folder: Folder) -> Listed:
        """Return the images; masks are left out, but for the scan's, which is a region."""
        items = read_items(folder.path)
        files = set(folder.tree)
        rows = [
            Row(
                _listed(item.image, files, item),
                item.label,
                item.group,
                split_named(item.split) or "",
                task_name(folder.path),
                _listed(item.masks[SCAN_MASK], files, item) if SCAN_MASK in item.masks else "",
            )
            for item in items
        ]
        named = any(row.group for row in rows)
        notes = [NO_VALIDATION] if lacks_validation(folder.path) else []
        return Listed(
            once(rows, str(folder.path)),
            "names of the lists",
            "`patient` or `source` of the lists" if named else NO_PATIENTS,
            tuple(notes),
        )


NO_VALIDATION = "validation.json is not there: the images that it lists are left out."


def lacks_validation(folder: Path) -> bool:
    """Return whether the list of validation images of the three-list convention is missing."""
    return (folder / "train.json").is_file() and not (folder / "validation.json").is_file()


def is_task(folder: Path) -> bool:
    """Return whether a folder is a task's."""
    return is_there(folder / TEST_LIST) and any(is_there(folder / names[0]) for names in _CONVENTIONS)


def task_name(folder: Path) -> str:
    """Return the name of a task, without its version."""
    return _VERSION.sub("", folder.resolve().name) or "task"


def read_items(folder: Path) -> list[Item]:
    """Return the items of a task's lists; UsageError, naming file and item, where one is not as the tool writes it."""
    name = task_name(folder)
    listed = [
        (item, split.stem, f"{folder}: {split.name}, item {number}")
        for split in _lists(folder)
        for number, item in enumerate(objects(read_json(split), str(split)))
    ]
    names = _CLASSES.get(name) or _named_classes([item for item, _, _ in listed])
    return [_item(names, name, *one) for one in listed]


def _named_classes(items: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the names of classes 0, 1, ... that items give beside their numbers; () unless each has one of its own.

    The tool writes `pathology` for fatty liver and GBCU.
    """
    found: dict[object, set[str]] = {}
    for item in items:
        told = next((item[key] for key in _NAME_KEYS if isinstance(item.get(key), str) and item[key].strip()), "")
        found.setdefault(item.get("label"), set()).add(told.strip())
    names = [found.get(number, set()) for number in range(len(found))]
    single = [one.copy().pop() for one in names if len(one) == 1]
    whole = len(single) == len(found) == len(set(single)) and all(single)
    return tuple(single) if whole else ()


def _lists(folder: Path) -> list[Path]:
    """Return the lists of the one convention that the folder follows."""
    present = [names for names in _CONVENTIONS if is_there(folder / names[0])]
    if len(present) > 1:
        raise UsageError(
            f"{folder}: holds train.json and train_val.json, which two versions of UltraBench wrote. Keep one of them."
        )
    return [folder / name for name in (*present[0], TEST_LIST) if is_there(folder / name)]


def _item(names: tuple[str, ...], name: str, item: dict[str, Any], split: str, where: str) -> Item:
    group = next((item[key] for key in _GROUP_KEYS if item.get(key) not in (None, "")), "")
    masks = {key: path for key, path in sorted(item.items()) if "mask" in key and not _is_none(path)}
    return Item(item.get("image"), _label(names, name, item, where), str(group), split, masks, where)


def _is_none(path: object) -> bool:
    """Return whether the tool had no mask or label: pandas writes NaN for that, too."""
    return path is None or path != path


def _label(names: tuple[str, ...], name: str, item: dict[str, Any], where: str) -> str:
    """Return the name of an item's class; "" where it has none."""
    number = item.get("label")
    if _is_none(number):
        return ""
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise UsageError(f"{where}: label {number!r} is no whole number from 0.")
    if not names:
        return str(number)
    if number >= len(names):
        raise UsageError(f"{where}: label {number}, but {name} has the classes 0 to {len(names) - 1}.")
    return names[number]


def _listed(path: object, files: set[str], item: Item) -> str:
    if not isinstance(path, str) or Path(path).as_posix() not in files:
        raise UsageError(f"{item.where}: {path!r} is not there. Is the folder complete?")
    return Path(path).as_posix()
