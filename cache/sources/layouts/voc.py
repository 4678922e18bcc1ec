"""Read images that the lists of a PASCAL VOC folder name."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.formats.packed.members import open_list
from usjepa.cache.sources.layouts.base import NO_PATIENTS, Folder, Listed, Row, missing
from usjepa.cache.sources.layouts.tables import read_text
from usjepa.cache.sources.splits import TEST, TRAIN_VAL, split_named
from usjepa.cache.terminal.refusals import advice

_IMAGES, _LISTS = "JPEGImages", "ImageSets"
_LARGEST_XML = 1 << 20


class Voc:
    """`JPEGImages/` and `ImageSets/Main/{train,val,trainval,test}.txt`."""

    name = "voc"
    title = "PASCAL VOC"

    def recognises(self, folder: Folder) -> bool:
        """Return whether a folder holds images and lists."""
        return folder.below(_IMAGES) is not None and bool(_lists(folder))

    def rows(self, folder: Folder) -> Listed:
        """Return the listed images; the finer of two splits counts."""
        splits: dict[str, str] = {}
        for path, split in _lists(folder):
            for line in read_text(folder.path / path).splitlines():
                if line.strip():
                    name = line.split()[0]
                    splits[name] = _finer(splits.get(name, split), split, f"{folder.path / path}: {name}")
        images = folder.below(_IMAGES) or folder
        found = {name: images.find(name) for name in splits}
        rows = [
            Row(f"{images.name}/{path}", _label(folder, name), split=splits[name])
            for name, path in found.items()
            if path
        ]
        lost = [name for name, path in found.items() if path is None]
        return Listed(tuple(rows), f"{_LISTS}/", NO_PATIENTS, missing("the lists", lost))


def _lists(folder: Folder) -> list[tuple[str, str]]:
    """Return path and split of each list of images; lists of a class (`cat_train.txt`) say nothing more."""
    sets = folder.below(_LISTS)
    if sets is None:
        return []
    found = [path for path in sets.tree if path.lower().endswith(".txt")]
    known = [(f"{sets.name}/{path}", split_named(Path(path).stem)) for path in found]
    return [(path, split) for path, split in known if split]


def _finer(one: str, other: str, where: str) -> str:
    if one == other:
        return one
    if TEST in (one, other) or TRAIN_VAL not in (one, other):
        raise UsageError(f"{where}: the lists put it into {one!r} and {other!r}. Keep one of them.")
    return other if one == TRAIN_VAL else one


def _label(folder: Folder, name: str) -> str:
    """Return the one class of an image's objects, "" where they are of none or of several."""
    annotations = folder.below("Annotations")
    file = None if annotations is None else annotations.file(f"{name}.xml")
    classes = set() if file is None else classes_of(file)
    return classes.pop() if len(classes) == 1 else ""


def classes_of(annotation: Path) -> set[str]:
    """Return the names of an annotation's objects, lower case; UsageError where it is no such XML."""
    try:
        with open_list(annotation) as opened:
            data = opened.read(_LARGEST_XML + 1)
        if len(data) > _LARGEST_XML or b"<!ENTITY" in data:
            raise UsageError(f"{annotation}: not a PASCAL VOC annotation: too large, or it defines entities.")
        root = ElementTree.fromstring(data)
    except OSError as error:
        raise UsageError(f"{annotation}: can't be read ({error.strerror}). {advice(error)}") from error
    except ElementTree.ParseError as error:
        raise UsageError(f"{annotation}: can't be read as XML ({error}).") from error
    return {(found.text or "").strip().lower() for found in root.iterfind("object/name")}
