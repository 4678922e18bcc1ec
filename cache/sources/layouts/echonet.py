"""Read EchoNet-Dynamic, EchoNet-Pediatric and EchoNet-LVH as they are published."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.layouts.base import Folder, Listed, Row, missing, once
from usjepa.cache.sources.layouts.tables import Table, read_table
from usjepa.cache.sources.splits import TEST, TRAIN, VAL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usjepa.cache.sources.layouts.tables import Line

_LISTS = ("FileList.csv", "MeasurementsList.csv")
_NAMES = ("filename", "hashedfilename")
_VIEWS = ("A4C", "PSAX")
_FOLDS = {str(number): TRAIN for number in range(8)} | {"8": VAL, "9": TEST}
"""The ten folds of EchoNet-Pediatric as one split of 80 : 10 : 10; the data itself names none of them."""
_PEDIATRIC = re.compile(r"(CR\w+)-CR\w+-\d+")
"""Patient, study and number of a clip."""


class EchoNet:
    """`FileList.csv` (of LVH: `MeasurementsList.csv`) beside folders of clips; or Pediatric's `A4C/` and `PSAX/`."""

    name = "echonet"
    title = "EchoNet"

    def recognises(self, folder: Folder) -> bool:
        """Return whether a folder holds such a list, with a column of names, or views that do."""
        if folder.file(*_LISTS) is None:
            return any(self.recognises(view) for view in _views(folder))
        return read_table(_list_of(folder)).column(*_NAMES) is not None

    def rows(self, folder: Folder) -> Listed:
        """Return the clips that the lists name."""
        parts = [folder] if folder.file(*_LISTS) is not None else _views(folder)
        rows: list[Row] = []
        lost: list[str] = []
        splits = groups = ""
        for part in parts:
            table = read_table(_list_of(part))
            before = f"{part.name}/" if part is not folder else ""
            clips, split, patients = _Clips(part, table), _split_column(table), 0
            for line, path in clips:
                if path is None:
                    lost.append(line.cells[clips.column])
                    continue
                group, patient = _group(table, line, PurePosixPath(path).stem)
                patients += patient
                rows.append(Row(before + path, _label(part), group, _split(table, line, split), folder.name))
            splits = splits or _described(table, split)
            groups = "patients, by the clips' names or a column" if patients else "each clip, one a patient"
        return Listed(once(rows, str(folder.path)), splits, groups, missing("the list", sorted(set(lost))))


class _Clips:
    """The lines of a list, with the path of each one's clip or None where it is not there."""

    def __init__(self, folder: Folder, table: Table) -> None:
        self._folder, self._table = folder, table
        self.column = table.column(*_NAMES) or ""

    def __iter__(self) -> Iterator[tuple[Line, str | None]]:
        for line in self._table.lines:
            yield line, self._folder.find(line.cells[self.column], near="videos")


def _views(folder: Folder) -> list[Folder]:
    found = [view for name in _VIEWS if (view := folder.below(name)) is not None]
    return [view for view in found if view.file(*_LISTS) is not None]


def _list_of(folder: Folder) -> Path:
    found = folder.file(*_LISTS)
    if found is None:
        raise UsageError(f"{folder.path}: no {' or '.join(_LISTS)}.")
    return found


def _label(folder: Folder) -> str:
    return folder.name if folder.name.upper() in _VIEWS else ""


def _group(table: Table, line: Line, stem: str) -> tuple[str, bool]:
    """Return a clip's group, and whether it is a patient who may have several."""
    column = table.group_column()
    if column and line.cells[column]:
        return line.cells[column], True
    clip = _PEDIATRIC.fullmatch(stem)
    return (clip[1], True) if clip else (stem, False)


def _split_column(table: Table) -> tuple[str | None, bool]:
    """Return the column of splits, and whether it holds the numbers of ten folds."""
    column = table.column("split", "fold")
    if column is not None and {line.cells[column] for line in table.lines} <= set(_FOLDS):
        return column, True
    return table.split_column(), False


def _split(table: Table, line: Line, column: tuple[str | None, bool]) -> str:
    name, folds = column
    return _FOLDS[line.cells[name]] if folds and name else table.split_of(line, name)


def _described(table: Table, column: tuple[str | None, bool]) -> str:
    name, folds = column
    if name is None:
        return "none given"
    where = f"column `{name}` of {table.file.name}"
    return f"{where}, folds 0 to 7 for training, 8 for validation, 9 for test" if folds else where
