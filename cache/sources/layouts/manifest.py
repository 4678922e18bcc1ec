"""Read a manifest: a CSV that names the sources and describes each.

Columns, in any order: `path` (relative to the manifest's folder), and optionally `dataset`, `label`, `group`, `split`
and `region` (an image that masks the scan, of the frames' size). The group is also taken from a column called
patient_id, subject, mrn, video_id and the like; splits from the one column whose cells are names of splits. Other
columns are ignored. Where a column is missing, or a dataset or group cell is empty, the file's folder decides (see
`folders.py`). Cells are parted by commas, semicolons, tabs or bars. A path may name one of several images in a file,
`file.h5::name`; a plain `file.h5` stands for all of them.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.folders import confined, metadata_of
from usjepa.cache.sources.formats.packed.members import is_there
from usjepa.cache.sources.layouts.base import NO_PATIENTS, NO_SPLITS, Folder, Listed, Row
from usjepa.cache.sources.layouts.tables import Line, Table, read_table
from usjepa.cache.sources.registry import accepted, join_path, reader_of_file, split_path
from usjepa.cache.sources.tree import is_folder_of_array

_NAME = "manifest"
_ENDINGS = (".csv", ".tsv")


class Manifest:
    """`manifest.csv`, however it is spelt, or a CSV with a column `path` that is named as SOURCE."""

    name = "manifest"
    title = "a manifest"

    def recognises(self, folder: Folder) -> bool:
        """Return whether a folder holds a manifest."""
        return _found(folder) is not None

    def rows(self, folder: Folder) -> Listed:
        """Return the files that the manifest names."""
        table = read_table(_found(folder) or folder.path)
        group, split = table.group_column(), table.split_column()
        rows = tuple(read_manifest(table.file, folder.follows_links))
        unused = [f"`{name}`" for name in table.columns if name and name not in (*_COLUMNS, group, split)]
        notes = (f"columns {', '.join(unused)} are not used.",) if unused else ()
        placed = "folders" if any(row.split for row in rows) else NO_SPLITS
        groups = f"column `{group}`" if group else NO_PATIENTS
        return Listed(rows, f"column `{split}`" if split else placed, groups, notes, is_complete=True)


_COLUMNS = ("path", "dataset", "label", "region")


def _found(folder: Folder) -> Path | None:
    """Return the manifest of a folder; UsageError where there are several."""
    named = [name for name in folder.files if Path(name).suffix.lower() in _ENDINGS]
    found = [name for name in named if Path(name).stem.lower() == _NAME]
    if not found and folder.is_one_list and named and "path" in read_table(folder.path / named[0]).columns:
        found = named
    if len(found) > 1:
        both = " and ".join(found)
        raise UsageError(f"{folder.path}: it holds {both}. Keep one of them, or name it as SOURCE.")
    return folder.path / found[0] if found else None


def read_manifest(manifest: Path, follow_links: bool = False) -> list[Row]:
    """Return the manifest's rows in its own order, paths checked and normalised; groups only where it names them.

    Raises:
        UsageError: naming the line: a column is missing, a split is not known, or a path is absolute, leaves the
            folder, does not exist, is of a kind that is not read, or stands there twice.
    """
    table = read_table(manifest)
    if "path" not in table.columns:
        found = ", ".join(table.columns) or "none"
        raise UsageError(f"{manifest}: it has no column `path`; its columns are: {found}.")
    group, split = table.group_column(), table.split_column()
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for line in table.lines:
        row = _row(table, line, group, split, follow_links)
        if row.path in seen:
            raise table.wrong(line, f"path {row.path!r} stands in line {seen[row.path]} already")
        seen[row.path] = line.number
        rows.append(row)
    if not rows:
        raise UsageError(f"{manifest}: it lists no files.")
    return rows


def _row(table: Table, line: Line, group: str | None, split: str | None, follow: bool) -> Row:
    """Return the row that a line describes."""
    folder, cells = table.file.parent, line.cells
    if not cells["path"]:
        raise table.wrong(line, "its path is empty")
    file, image = split_path(cells["path"])
    try:
        full = confined(folder, file, follow)
    except ValueError as error:
        raise table.wrong(line, f"path {file!r} is refused: {error}") from error
    is_folder = full.is_dir() and not is_folder_of_array(full.name)
    # A pipe or a device is recorded as unreadable, as it is in a folder.
    if is_folder or not (full.exists() or is_there(full)):
        reason = "is a folder" if is_folder else "does not exist"
        slashes = "; write paths with / and not with \\" if "\\" in file else ""
        raise table.wrong(line, f"{file!r} {reason} in {folder}{slashes}")
    if reader_of_file(full) is None:
        raise table.wrong(line, f"{file!r} is of a kind that is not read. Read are: {accepted()}")
    path = PurePosixPath(file).as_posix()
    placed = metadata_of(path, folder.resolve().name, strict=split is None)
    return Row(
        path=join_path(path, image),
        dataset=cells.get("dataset") or placed.dataset,
        group=cells[group] if group else "",
        label=cells.get("label", placed.label),
        split=table.split_of(line, split) if split else placed.split,
        region=_mask(table, line, cells["region"], follow) if cells.get("region") else "",
    )


def _mask(table: Table, line: Line, named: str, follow: bool) -> str:
    """Return the path of a mask of the scan, checked and normalised."""
    folder = table.file.parent
    try:
        full = confined(folder, named, follow)
    except ValueError as error:
        raise table.wrong(line, f"region {named!r} is refused: {error}") from error
    if not is_there(full):
        raise table.wrong(line, f"region {named!r} does not exist in {folder}")
    if reader_of_file(full) is None:
        raise table.wrong(line, f"region {named!r} is of a kind that is not read")
    return PurePosixPath(named).as_posix()
