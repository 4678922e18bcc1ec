"""Read TN5000 as published: thyroid nodules as PASCAL VOC, with splits but no patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.layouts.voc import classes_of
from usjepa.evaluate.tasks.base import Labelled, TaskFolder, checked, refuse_twice

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.cache import CacheSettings

_ENDINGS = (".jpg", ".JPG", ".jpeg", ".png")
_CLASSES = {"0": "benign", "1": "malignant"}
_FOLDERS = ("JPEGImages", "Annotations", "ImageSets/Main")


class Tn5000:
    """`ImageSets/Main/{train,val,test}.txt`, a nodule's class in `Annotations/<id>.xml`.

    Objects are named 0 (benign) and 1 (malignant), or by word. An image whose nodules are of different classes, or that
    has none, gets no label. Which images are of one patient is not published.
    """

    name = "tn5000"
    wanted = "`JPEGImages/`, `Annotations/` and `ImageSets/Main/`."

    def fits(self, path: Path) -> bool:
        """Return whether a folder holds those of PASCAL VOC."""
        return all((path / name).is_dir() for name in _FOLDERS)

    def read(self, path: Path, settings: CacheSettings) -> list[TaskFolder]:
        """Return the task; raises UsageError where a listed image or annotation is missing or can't be read."""
        del settings
        lists = [path / "ImageSets" / "Main" / f"{split}.txt" for split in ("train", "val", "test")]
        lacking = [one.name for one in lists if one.stem != "val" and not one.is_file()]
        if lacking:
            raise UsageError(f"{path}: no ImageSets/Main/{lacking[0]}, which lists the images of its split.")
        files = [
            _annotated(path, line.split()[0], split)
            for split in lists
            if split.is_file()
            for line in split.read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
        refuse_twice(files, str(path))
        notes = ("The dataset does not say which images are of one patient: each counts as a group of its own.",)
        return [TaskFolder(self.name, "tn5000", path.resolve(), tuple(files), notes)]


def _annotated(root: Path, name: str, split: Path) -> Labelled:
    where = f"{split}, image {name}"
    found = [f"JPEGImages/{name}{end}" for end in _ENDINGS if (root / f"JPEGImages/{name}{end}").is_file()]
    path = checked(root, [*found, f"JPEGImages/{name}.jpg"][0], where)
    annotation = root / checked(root, f"Annotations/{name}.xml", where)
    return Labelled(path, _nodule(annotation), "", split.stem)


def _nodule(path: Path) -> str:
    """Return the one class of an annotation's objects, "" where they are of none or of several."""
    classes = {_CLASSES.get(name, name) for name in classes_of(path)}
    return classes.pop() if len(classes) == 1 else ""
