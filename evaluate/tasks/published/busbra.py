"""Read BUS-BRA as its authors published it: breast masses with patients, masks and no split."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.evaluate.tasks.base import Labelled, TaskFolder, checked, refuse_twice

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.cache import CacheSettings

_TABLE = "bus_data.csv"


class BusBra:
    """`bus_data.csv` (ID, Case, Pathology), `Images/<ID>.png`, `Masks/mask_<number>.png`.

    Its publication gives folds for cross-validation and no test split, so patients are dealt by us. All of its 1,875
    images are taken; a table that counts 1,064 has counted its patients.
    """

    name = "busbra"
    wanted = f"`{_TABLE}` beside `Images/`."

    def fits(self, path: Path) -> bool:
        """Return whether table and images lie in a folder."""
        return (path / _TABLE).is_file() and (path / "Images").is_dir()

    def read(self, path: Path, settings: CacheSettings) -> list[TaskFolder]:
        """Return the task; raises UsageError, naming the line, where a column or an image is missing."""
        del settings
        files = [
            _image(path, line, f"{path / _TABLE}, line {number}")
            for number, line in _table(path / _TABLE, ("id", "case", "pathology"))
        ]
        refuse_twice(files, str(path))
        return [TaskFolder(self.name, "busbra", path.resolve(), tuple(files))]


def _image(root: Path, line: dict[str, str], where: str) -> Labelled:
    name = line["id"]
    mask = f"Masks/mask_{name.removeprefix('bus_')}.png"
    masks = {"tumor_mask": checked(root, mask, where)} if (root / mask).is_file() else {}
    return Labelled(checked(root, f"Images/{name}.png", where), line["pathology"].lower(), line["case"], "", masks)


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
