"""BUS-BRA and TN5000 as their authors published them: the two tasks that US-JEPA adds to UltraBench."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.evaluate.tasks.layouts import Labelled, TaskFolder, checked, refuse_twice

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST_XML = 1 << 20
_ENDINGS = (".jpg", ".JPG", ".jpeg", ".png")
_TN5000_CLASSES = {"0": "benign", "1": "malignant"}


def read_busbra(root: Path) -> TaskFolder:
    """Return BUS-BRA: `bus_data.csv` (ID, Case, Pathology), `Images/<ID>.png`, `Masks/mask_<number>.png`.

    Its publication gives folds for cross-validation and no test split, so patients are dealt by us. All of its 1,875
    images are taken; a table that counts 1,064 has counted its patients.

    Raises:
        UsageError: a column or an image is missing; the line is named.
    """
    files = []
    for number, line in _table(root / "bus_data.csv", ("id", "case", "pathology")):
        where = f"{root / 'bus_data.csv'}, line {number}"
        name = line["id"]
        mask = f"Masks/mask_{name.removeprefix('bus_')}.png"
        files.append(
            Labelled(
                checked(root, f"Images/{name}.png", where),
                line["pathology"].lower(),
                line["case"],
                "",
                {"tumor_mask": checked(root, mask, where)} if (root / mask).is_file() else {},
            )
        )
    refuse_twice(files, str(root))
    return TaskFolder("busbra", "busbra", root.resolve(), tuple(files))


def _table(path: Path, needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Return (line number, lower-case column -> cell) of a CSV; UsageError where a needed column is missing."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = {name: (name or "").strip().lower() for name in reader.fieldnames or ()}
            lacking = [name for name in needed if name not in columns.values()]
            if lacking:
                raise UsageError(
                    f"{path}: no column {', '.join(lacking)}; it has {', '.join(columns.values()) or 'none'}."
                )
            return [
                (reader.line_num, {columns[key]: (cell or "").strip() for key, cell in line.items() if key in columns})
                for line in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: can't be read as CSV ({error}).") from error


def read_tn5000(root: Path) -> TaskFolder:
    """Return TN5000: PASCAL VOC, `ImageSets/Main/{train,val,test}.txt`, a nodule's class in `Annotations/<id>.xml`.

    Objects are named 0 (benign) and 1 (malignant), or by word. An image whose nodules are of different classes, or that
    has none, gets no label. Which images are of one patient is not published.

    Raises:
        UsageError: a listed image or annotation is missing or can't be read.
    """
    lists = [root / "ImageSets" / "Main" / f"{split}.txt" for split in ("train", "val", "test")]
    lacking = [path.name for path in lists if path.stem != "val" and not path.is_file()]
    if lacking:
        raise UsageError(f"{root}: no ImageSets/Main/{lacking[0]}, which says what its split holds.")
    files = [
        _annotated(root, line.split()[0], split)
        for split in lists
        if split.is_file()
        for line in split.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    refuse_twice(files, str(root))
    notes = ["The dataset does not say which images are of one patient: each counts as a group of its own."]
    return TaskFolder("tn5000", "tn5000", root.resolve(), tuple(files), tuple(notes))


def _annotated(root: Path, name: str, split: Path) -> Labelled:
    where = f"{split}, image {name}"
    found = [f"JPEGImages/{name}{end}" for end in _ENDINGS if (root / f"JPEGImages/{name}{end}").is_file()]
    path = checked(root, [*found, f"JPEGImages/{name}.jpg"][0], where)
    annotation = root / checked(root, f"Annotations/{name}.xml", where)
    return Labelled(path, _nodule(annotation), "", split.stem)


def _nodule(path: Path) -> str:
    """Return the one class of an annotation's objects, "" where they are of none or of several."""
    data = path.read_bytes()
    if len(data) > _LARGEST_XML or b"<!ENTITY" in data:
        raise UsageError(f"{path}: not a PASCAL VOC annotation: too large, or it defines entities.")
    try:
        names = {(found.text or "").strip().lower() for found in ElementTree.fromstring(data).iterfind("object/name")}
    except ElementTree.ParseError as error:
        raise UsageError(f"{path}: can't be read as XML ({error}).") from error
    classes = {_TN5000_CLASSES.get(name, name) for name in names}
    return classes.pop() if len(classes) == 1 else ""
