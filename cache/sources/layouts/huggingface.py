"""Read folders of images or clips with the `metadata.csv` of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.columns import LABEL_COLUMNS
from usjepa.cache.sources.layouts.base import NO_PATIENTS, NO_SPLITS, Folder, Listed, Row, once
from usjepa.cache.sources.layouts.tables import Line, Table, objects, read_table, read_text
from usjepa.cache.sources.splits import split_within

if TYPE_CHECKING:
    from collections.abc import Iterator

_LISTS = ("metadata.csv", "metadata.jsonl")
_NAMES = ("filename", "imagefilename", "videofilename")


class HuggingFace:
    """`metadata.csv` or `metadata.jsonl` with a column `file_name`, in the folder or in each split's."""

    name = "huggingface"
    title = "a Hugging Face folder"

    def recognises(self, folder: Folder) -> bool:
        """Return whether a folder or its splits hold such a table."""
        return any(_table(part).column(*_NAMES) for part, _ in _parts(folder))

    def rows(self, folder: Folder) -> Listed:
        """Return the files that the tables name."""
        rows, groups, splits = [], set(), set()
        for part, before in _parts(folder):
            table = _table(part)
            name, label, group, split = (
                table.column(*_NAMES),
                table.column(*LABEL_COLUMNS),
                table.group_column(),
                table.split_column(),
            )
            for line in table.lines if name else ():
                path = part.find(line.cells[name or ""])
                if path is None:
                    raise table.wrong(line, f"{line.cells[name or '']!r} is not there. Is the folder complete?")
                own = table.split_of(line, split) or split_within((before + path).rpartition("/")[0])
                rows.append(
                    Row(
                        before + path,
                        line.cells[label] if label else "",
                        line.cells[group] if group else "",
                        own,
                    )
                )
            groups |= {f"column `{group}`"} if group else set()
            splits |= {f"column `{split}`"} if split else {"folders"} if any(row.split for row in rows) else set()
        where = ", ".join(sorted(splits)) or NO_SPLITS
        return Listed(once(rows, str(folder.path)), where, ", ".join(sorted(groups)) or NO_PATIENTS)


def _parts(folder: Folder) -> Iterator[tuple[Folder, str]]:
    """Yield the folders with a table, each with its path and a slash."""
    if folder.file(*_LISTS) is not None:
        yield folder, ""
        return
    for name in folder.folders:
        if split_within(name) and folder.child(name).file(*_LISTS) is not None:
            yield folder.child(name), f"{name}/"


def _table(folder: Folder) -> Table:
    file = folder.file(*_LISTS) or Path()
    return read_table(file) if file.suffix.lower() == ".csv" else _lines_of_json(file)


def _lines_of_json(file: Path) -> Table:
    """Return a file of one JSON object a line as the table that it is."""
    found: list[tuple[int, dict[str, Any]]] = []
    for number, text in enumerate(read_text(file).splitlines(), start=1):
        if text.strip():
            try:
                found.append((number, objects([json.loads(text)], f"{file}, line {number}")[0]))
            except ValueError as error:
                raise UsageError(f"{file}, line {number}: not JSON ({error}).") from error
    columns = tuple(dict.fromkeys(key.lower() for _, one in found for key in one))
    lines = []
    for number, one in found:
        cells = {key.lower(): "" if value is None else str(value) for key, value in one.items()}
        lines.append(Line(number, {column: cells.get(column, "") for column in columns}))
    return Table(file, columns, tuple(lines))
