"""Read what was measured of files: a number each, from a column of their list.

| list                                               | column           | unit                                 |
|----------------------------------------------------|------------------|--------------------------------------|
| a manifest CSV (`path`, ...)                       | `label`, or NAME | in brackets behind it, or `unit`     |
| `FileList.csv` of EchoNet-Dynamic and -Pediatric   | `EF`, or NAME    | EF in %, ESV and EDV in mL           |

Nothing is guessed: a cell that is no number is refused with its line, and an empty one has no number.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.columns import MISSING, plain
from usjepa.cache.sources.layouts.tables import Line, Table, read_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LABEL = "label"
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
_NO_NUMBER = MISSING | {"-", "?", "none"}
_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_WITH_UNIT = re.compile(r"(.*?)\s*[(\[]\s*([^()\[\]]{1,16}?)\s*[)\]]")
_SMALLEST, _LARGEST = 1e-12, 1e12
"""Of a measurement but 0: what lies outside has another unit, and its square no sum."""
_LIST, _VIEWS = "filelist.csv", ("a4c", "psax")
_ECHONET = {"ef": ("EF", "%"), "esv": ("ESV", "mL"), "edv": ("EDV", "mL")}
_NAMES = ("filename", "hashedfilename")


@dataclass(frozen=True)
class Cell:
    """What a list says of a file."""

    text: str
    file: str
    """The list, as a path."""
    place: str
    """Line and column within it."""

    @property
    def where(self) -> str:
        """List, line and column."""
        return f"{self.file}, {self.place}"

    @property
    def told(self) -> str:
        """The same without folders, for reports that are sent on."""
        return f"{PurePath(self.file).name}, {self.place}"


@dataclass(frozen=True)
class Measured:
    """A quantity of files, as their list has it."""

    quantity: str
    unit: str
    """As "mm"; empty where the list does not say."""
    _cells: Mapping[str, Cell]
    """Path of a file, or `PART/CLIP`, -> what is said of it."""
    _parts: tuple[str, ...] = ()
    """Folders that have a list each; "" for the root. Empty: files are named by their paths."""

    def cell(self, path: str) -> Cell | None:
        """Return what is said of a file, by its path relative to the task's root; None where nothing is."""
        if self._parts:
            first = PurePosixPath(path).parts[0]
            return self._cells.get(f"{first if first in self._parts else ''}/{_stem(path)}")
        return self._cells.get(path, self._cells.get(path.partition("::")[0]))  # a list may name a container's file


def number(text: str) -> float | None:
    """Return the number that a cell holds, None where it holds nothing; ValueError, with the reason, for all else."""
    text = text.strip()
    if text.lower() in _NO_NUMBER:
        return None
    if not _NUMBER.fullmatch(text):
        hint = f"; write {text.replace(',', '.')}" if _COMMA.fullmatch(text) else ""
        raise ValueError(f"{text!r} is no number{hint}")
    value = float(text)
    if not math.isfinite(value) or (value and not _SMALLEST <= abs(value) <= _LARGEST):
        raise ValueError(f"{text} is not within 1e-12 to 1e12; choose another unit")
    return value


def measured(path: Path, wanted: str | None) -> Measured | None:
    """Return the quantity that a task's list has in a column; None where there is no such list.

    Args:
        path: a folder, or a CSV.
        wanted: name of the column, in any case, with or without its unit; None: `label`, of EchoNet `EF`.

    Raises:
        UsageError: the list has no such column, or its units differ.
    """
    manifest = manifest_of(path)
    if manifest is not None:
        table = read_table(manifest)
        if "path" in table.columns:
            column = _column(table, wanted or LABEL)
            return Measured(*_named(table, column), _cells(table, column, [_posix(line) for line in table.lines]))
    lists = _echonet(path)
    return _of_echonet(lists, wanted or "ef") if lists else None


def _of_echonet(lists: Mapping[str, Path], wanted: str) -> Measured:
    """Return the quantity that each clip of EchoNet has in a column of its list."""
    cells: dict[str, Cell] = {}
    quantity = unit = ""
    for part, file in lists.items():
        table = read_table(file)
        column, name = _column(table, wanted), table.column(*_NAMES)
        if name is None:
            raise UsageError(f"{file}: no column FileName.")
        quantity, unit = _ECHONET.get(column) or _named(table, column)
        cells |= _cells(table, column, [f"{part}/{_stem(line.cells[name])}" for line in table.lines])
    return Measured(quantity, unit, cells, tuple(lists))


def _cells(table: Table, column: str, keys: Sequence[str]) -> dict[str, Cell]:
    """Return the cells of a column; UsageError where two lines say different things of one file."""
    cells: dict[str, Cell] = {}
    for key, line in zip(keys, table.lines, strict=True):
        text = line.cells[column]
        if cells.setdefault(key, Cell(text, str(table.file), f"line {line.number}, {column}")).text != text:
            raise table.wrong(
                line, f"{column} is {text!r}, where another line says {cells[key].text!r} of the same file"
            )
    return cells


def manifest_of(path: Path) -> Path | None:
    """Return the manifest at a path, by the names that stage one takes: the file itself, or the one in a folder."""
    if path.is_file():
        return path if path.suffix.lower() in (".csv", ".tsv") else None
    if not path.is_dir():
        return None
    named = [one for one in sorted(path.iterdir()) if one.name.lower() in ("manifest.csv", "manifest.tsv")]
    return next((one for one in named if one.is_file()), None)


def _echonet(path: Path) -> dict[str, Path]:
    """Return the lists of EchoNet at a path: of the folder itself under "", or of Pediatric's views by their names."""
    if path.is_file():
        return {"": path} if path.name.lower() == _LIST else {}
    own = _list_in(path)
    if own is not None:
        return {"": own}
    views = (
        [one for one in sorted(path.iterdir()) if one.name.lower() in _VIEWS and one.is_dir()] if path.is_dir() else []
    )
    return {view.name: found for view in views if (found := _list_in(view)) is not None}


def _list_in(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    return next((one for one in sorted(folder.iterdir()) if one.name.lower() == _LIST and one.is_file()), None)


def _column(table: Table, wanted: str) -> str:
    """Return the column that is called so, with or without its unit."""
    found = [one for one in table.columns if one and plain(wanted) in (plain(one), plain(_parted(one)[0]))]
    exact = [one for one in found if one == wanted.strip().lower()]
    if len(exact or found) == 1:
        return (exact or found)[0]
    columns = ", ".join(f"`{one}`" for one in table.columns if one)
    what = f"several columns are called {wanted!r}" if found else f"no column {wanted!r}"
    raise UsageError(
        f"{table.file}: {what}; it has {columns}. Name the one that holds the numbers: --regress PATH#COLUMN."
    )


def _named(table: Table, column: str) -> tuple[str, str]:
    """Return the name of a quantity and its unit; UsageError where lines have different units."""
    name, unit = _parted(column)
    beside = table.column("unit", "units")
    for line in table.lines if beside is not None and beside != column else ():
        said = line.cells[beside or ""]
        if said and unit and said != unit:
            raise table.wrong(
                line, f"its unit is {said!r} where others have {unit!r}; numbers of one unit can be compared"
            )
        unit = unit or said
    return name, unit


def _parted(column: str) -> tuple[str, str]:
    """Return name and unit of a column: `head circumference (mm)`."""
    found = _WITH_UNIT.fullmatch(column)
    return (found[1], found[2]) if found and found[1] else (column, "")


def _posix(line: Line) -> str:
    """Return the path of a manifest's line as listings have it."""
    return PurePosixPath(line.cells["path"]).as_posix()


def _stem(name: str) -> str:
    """Return the name of a clip, with or without the ending of a film."""
    return re.sub(r"\.(?:avi|mp4|mkv|mov|webm)$", "", PurePosixPath(name).name, flags=re.IGNORECASE)
