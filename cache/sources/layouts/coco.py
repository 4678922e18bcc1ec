"""Read images that a COCO annotation lists."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.columns import GROUP_COLUMNS, plain
from usjepa.cache.sources.layouts.base import NO_PATIENTS, NO_SPLITS, Folder, Listed, Row, missing, once
from usjepa.cache.sources.layouts.tables import objects, read_json
from usjepa.cache.sources.splits import split_within

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROBOFLOW = "_annotations.coco.json"


class Coco:
    """`annotations/instances_train2017.json` beside folders of images, or `_annotations.coco.json` in each split's."""

    name = "coco"
    title = "COCO"

    def recognises(self, folder: Folder) -> bool:
        """Return whether a folder holds such a list."""
        return any(_is_coco(folder.path / path) for path in _candidates(folder))

    def rows(self, folder: Folder) -> Listed:
        """Return the images of all lists."""
        rows: list[Row] = []
        lost: list[str] = []
        for path in _candidates(folder):
            if _is_coco(folder.path / path):
                _add(folder, path, rows, lost)
        splits = "names of the lists" if any(row.split for row in rows) else NO_SPLITS
        groups = "the patient or video that the list names" if any(row.group for row in rows) else NO_PATIENTS
        return Listed(once(rows, str(folder.path)), splits, groups, missing("the lists", lost))


def _candidates(folder: Folder) -> list[str]:
    """Return paths of files that may be COCO's, by their names."""
    found = [name for name in folder.files if name.lower().endswith(".json") and _speaks(name)]
    beside = folder.below("annotations")
    found += [f"{beside.name}/{name}" for name in beside.files if name.lower().endswith(".json")] if beside else []
    return found + [f"{name}/{_ROBOFLOW}" for name in folder.folders if folder.child(name).file(_ROBOFLOW)]


def _speaks(name: str) -> bool:
    return any(word in name.lower() for word in ("coco", "instances", "annotation"))


def _is_coco(file: Path) -> bool:
    try:
        found = read_json(file)
    except UsageError:
        return False  # a torn list that may hold splits still stops the scan
    return isinstance(found, dict) and isinstance(found.get("images"), list) and "annotations" in found


def _add(folder: Folder, path: str, rows: list[Row], lost: list[str]) -> None:
    """Add the images of one list."""
    where, content = f"{folder.path / path}", read_json(folder.path / path)
    classes = _classes(content, where)
    inside = path.rpartition("/")[0] if path.endswith(_ROBOFLOW) else ""
    split = split_within(inside or Path(path).stem)
    for image in objects(content["images"], f"{where}: images"):
        name = image.get("file_name")
        if not isinstance(name, str):
            raise UsageError(f"{where}: an image has no `file_name`.")
        found = folder.find(f"{inside}/{name}" if inside else name, near=split or "images")
        if found is None:
            lost.append(name)
            continue
        labels = classes.get(image.get("id"), set())
        rows.append(Row(found, next(iter(labels)) if len(labels) == 1 else "", _group(image), split))


def _classes(content: Mapping[str, Any], where: str) -> dict[Any, set[str]]:
    """Return the names of the classes in each image."""
    names = {one.get("id"): str(one.get("name", "")) for one in objects(content.get("categories", []), where)}
    found: dict[Any, set[str]] = defaultdict(set)
    for one in objects(content["annotations"] or [], f"{where}: annotations"):
        if one.get("category_id") in names:
            found[one.get("image_id")].add(names[one["category_id"]])
    return found


def _group(image: Mapping[str, Any]) -> str:
    by_name = {plain(key): value for key, value in image.items()}
    value = next((by_name[name] for name in GROUP_COLUMNS if by_name.get(name) not in (None, "")), "")
    return str(value)
