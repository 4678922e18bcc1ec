"""Read BUSI as published: breast images with masks beside them."""

from __future__ import annotations

import re

from usjepa.cache.sources.layouts.base import NO_PATIENTS, NO_SPLITS, Folder, Listed, Row

_CLASSES = ("benign", "malignant", "normal")
_IMAGE = re.compile(r"(benign|malignant|normal) ?\(\d+\)\.\w+")
_MASK = re.compile(r"(benign|malignant|normal) ?\(\d+\)_mask(_\d+)?\.\w+")


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
