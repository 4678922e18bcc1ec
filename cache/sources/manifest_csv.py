"""Read a manifest: a CSV that names the sources and describes each.

Columns, in any order: `path` (relative to the manifest's folder), and optionally `dataset`, `label`, `group` and
`split`. The group is also taken from a column called patient_id, subject, mrn, video_id and the like; splits from the
one column whose cells are names of splits. Other columns are ignored. Where a column is missing, or a dataset or group
cell is empty, the file's folder decides (see `folders.py`). Cells are parted by commas, semicolons, tabs or bars. A
path may name one of several images in a file, `file.h5::name`; a plain `file.h5` stands for all of them.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.base import Entry
from usjepa.cache.sources.csv_tables import Line, Table, read_table
from usjepa.cache.sources.folders import confined, metadata_of
from usjepa.cache.sources.registry import accepted, join_path, reader_of_file, split_path

_NAME = "manifest"
_ENDINGS = (".csv", ".tsv")


def find_manifest(folder: Path, names: list[str]) -> Path | None:
    """Return the manifest among the files of a folder, however it is spelt; UsageError where there are several."""
    found = [name for name in names if Path(name).stem.lower() == _NAME and Path(name).suffix.lower() in _ENDINGS]
    if len(found) > 1:
        raise UsageError(f"{folder}: it holds {' and '.join(sorted(found))}. Keep one of them, or name it as SOURCE.")
    return folder / found[0] if found else None


def read_manifest(manifest: Path) -> list[Entry]:
    """Return the manifest's entries in its own order, paths checked and normalised; groups only where it names them.

    Raises:
        UsageError: naming the line: a column is missing, a split is not known, or a path is absolute, leaves the
            folder, does not exist, is of a kind that is not read, or stands there twice.
    """
    table = read_table(manifest)
    if "path" not in table.columns:
        found = ", ".join(table.columns) or "none"
        raise UsageError(f"{manifest}: it has no column `path`; its columns are: {found}.")
    group, split = table.group_column(), table.split_column()
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    for line in table.lines:
        entry = _entry(table, line, group, split)
        if entry.path in seen:
            raise table.wrong(line, f"path {entry.path!r} stands in line {seen[entry.path]} already")
        seen[entry.path] = line.number
        entries.append(entry)
    if not entries:
        raise UsageError(f"{manifest}: it lists no files.")
    return entries


def _entry(table: Table, line: Line, group: str | None, split: str | None) -> Entry:
    """Return the entry that a line describes."""
    folder, cells = table.file.parent, line.cells
    if not cells["path"]:
        raise table.wrong(line, "its path is empty")
    file, image = split_path(cells["path"])
    try:
        full = confined(folder, file)
    except ValueError as error:
        raise table.wrong(line, f"path {file!r} is refused: {error}") from error
    if full.is_dir() or not full.exists():  # a pipe or a device is recorded as unreadable, as it is in a folder
        reason = "is a folder" if full.is_dir() else "does not exist"
        slashes = "; write paths with / and not with \\" if "\\" in file else ""
        raise table.wrong(line, f"{file!r} {reason} in {folder}{slashes}")
    reader = reader_of_file(full)
    if reader is None:
        raise table.wrong(line, f"{file!r} is of a kind that is not read. Read are: {accepted()}")
    path = PurePosixPath(file).as_posix()
    placed = metadata_of(path, folder.resolve().name, strict=split is None)
    named = cells[group] if group else ""
    return Entry(
        path=join_path(path, image),
        dataset=cells.get("dataset") or placed.dataset,
        group=named,
        label=cells.get("label", placed.label),
        split=table.split_of(line, split) if split else placed.split,
        reader=reader.name,
        grouped_by=f"column `{group}` of {table.file.name}" if named else "",
    )
