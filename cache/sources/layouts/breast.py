"""Read breast images as published: BUSI with masks beside images, BUS-BRA with its table."""

from __future__ import annotations

import re

from usjepa.cache.sources.layouts.base import NO_PATIENTS, NO_SPLITS, Folder, Listed, Row, missing, once
from usjepa.cache.sources.layouts.tables import read_table

_CLASSES = ("benign", "malignant", "normal")
_IMAGE = re.compile(r"(benign|malignant|normal) ?\(\d+\)\.\w+")
_MASK = re.compile(r"(benign|malignant|normal) ?\(\d+\)_mask(_\d+)?\.\w+")
_TABLE = "bus_data.csv"


class Busi:
    """Folders `benign/`, `malignant/`, `normal/` with `benign (1).png` and `benign (1)_mask.png`."""

    name = "busi"
    title = "BUSI"

    def recognises(self, folder: Folder) -> bool:
        """Return whether a folder holds two classes at least, with masks."""
        classes = _classes(folder)
        return len(classes) > 1 and any(_MASK.fullmatch(name) for one in classes for name in one.files)

    def rows(self, folder: Folder) -> Listed:
        """Return the images; masks are left out."""
        rows = [
            Row(f"{one.name}/{name}", one.name.lower())
            for one in _classes(folder)
            for name in one.files
            if _IMAGE.fullmatch(name)
        ]
        return Listed(tuple(rows), NO_SPLITS, NO_PATIENTS)


def _classes(folder: Folder) -> list[Folder]:
    return [one for name in _CLASSES if (one := folder.below(name)) is not None]


class BusBra:
    """`bus_data.csv` (ID, Case, Pathology) beside `Images/`; its folds are for cross-validation and no split."""

    name = "busbra"
    title = "BUS-BRA"

    def recognises(self, folder: Folder) -> bool:
        """Return whether table and images lie in a folder, with the columns of BUS-BRA."""
        file = folder.file(_TABLE)
        if file is None or folder.below("Images") is None:
            return False
        table = read_table(file)
        return table.column("id") is not None and table.column("case") is not None

    def rows(self, folder: Folder) -> Listed:
        """Return the images of the table, by patient; masks are left out."""
        table, images = read_table(folder.file(_TABLE) or folder.path), folder.below("Images") or folder
        name, case, pathology = table.column("id") or "", table.column("case") or "", table.column("pathology")
        found = [(line, images.find(line.cells[name])) for line in table.lines]
        rows = [
            Row(f"{images.name}/{path}", line.cells[pathology].lower() if pathology else "", line.cells[case])
            for line, path in found
            if path is not None
        ]
        lost = [line.cells[name] for line, path in found if path is None]
        notes = missing("the table", lost)
        return Listed(once(rows, str(folder.path)), "none given, folds only", f"column `{case}`", notes)
