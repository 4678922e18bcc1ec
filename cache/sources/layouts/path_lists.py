"""Read lists of paths, with a label behind each as V-JEPA's have, or alone."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.layouts.base import NO_PATIENTS, NO_SPLITS, Folder, Listed, Row, once
from usjepa.cache.sources.layouts.tables import head_of, read_text
from usjepa.cache.sources.registry import ending_of, readers
from usjepa.cache.sources.splits import split_within

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDINGS = (".csv", ".txt", ".lst", ".list")
_LINE = re.compile(r"""\s*(["']?)(?P<path>.+?)\1(?:(?:\s*,\s*|\s*;\s*|::|\s+)(?P<label>-?\d+))?\s*""")
_FEW = 50
"""More of them in one folder are notes on single files."""
_LOOKED_AT = 20
"""Lines that decide whether a file is such a list."""


class PathLists:
    """Files without a header, each line `path label` or a path; `train.csv` and the like name the split."""

    name = "paths"
    title = "lists of paths"

    def recognises(self, folder: Folder) -> bool:
        """Return whether a folder holds such a list."""
        return bool(_lists(folder))

    def rows(self, folder: Folder) -> Listed:
        """Return the files that the lists name."""
        rows = []
        for file in _lists(folder):
            split = split_within(file.stem)
            for number, text in _lines(file):
                found = _LINE.fullmatch(text)
                path = folder.find(found["path"], near=split) if found else None
                if found is None or path is None:
                    raise UsageError(
                        f"{file}, line {number}: {text.strip()!r} leads to no file below {folder.path}. Give the "
                        "folder of the files as SOURCE and put the lists into it."
                    )
                rows.append(Row(path, found["label"] or "", split=split))
        splits = "names of the lists" if any(row.split for row in rows) else NO_SPLITS
        return Listed(once(rows, str(folder.path)), splits, NO_PATIENTS)


def _lists(folder: Folder) -> list[Path]:
    """Return the lists in a folder, or in a folder below that holds lists alone (`splits/train.txt`)."""
    below = () if folder.is_one_list else folder.folders
    found: list[Path] = []
    for place in itertools.chain([folder], map(folder.child, below)):  # one at a time: they may be millions
        named = [place.path / name for name in place.files if name.lower().endswith(_ENDINGS)]
        if named and len(named) <= _FEW and (place is folder or not _holds_media(place)):
            found += [file for file in named if _is_list(folder, file)]
    return found


def _holds_media(folder: Folder) -> bool:
    return any(ending_of(name).lower() in _read_endings() for name in folder.files) or bool(folder.folders)


def _is_list(folder: Folder, file: Path) -> bool:
    """Return whether every line looked at begins with the name of a file of a kind that is read."""
    lines = [line for line in head_of(file).splitlines() if line.strip()][:_LOOKED_AT]
    paths = [found["path"] for text in lines if (found := _LINE.fullmatch(text))]
    if not paths or len(paths) < len(lines):
        return False
    if not all("," not in path and ending_of(Path(path).name).lower() in _read_endings() for path in paths):
        return False
    return any(folder.find(path) for path in paths)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    yield from (line for line in enumerate(read_text(file).splitlines(), start=1) if line[1].strip())


def _read_endings() -> set[str]:
    return {ending for reader in readers().values() for ending in reader.endings}
