"""Read a manifest: a CSV that names the sources and describes each.

Columns, in any order: `path` (relative to the manifest's folder), and optionally `dataset`, `label`, `group` and
`split`. The group is also taken from a column called patient_or_video_id, patient_id, patient, subject, video_id or
clip_id. Other columns are ignored. Where a column is missing, or a dataset or group cell is empty, the file's folder
decides (see `folders.py`). A path may name one of several images in a file, `file.h5::name`; a plain `file.h5` stands
for all of them.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path, PurePosixPath

from usjepa.cache.errors import UsageError
from usjepa.cache.plain_files import open_plain
from usjepa.cache.sources.base import Entry
from usjepa.cache.sources.folders import confined, metadata_of
from usjepa.cache.sources.registry import accepted, join_path, reader_of_file, split_path

_GROUP_COLUMNS = ("group", "patient_or_video_id", "patient_id", "patient", "subject", "video_id", "clip_id")


def read_manifest(manifest: Path) -> list[Entry]:
    """Return the manifest's entries in its own order, paths checked and normalised.

    Raises:
        UsageError: naming the line: a column is missing, or a path is absolute, leaves the folder, does not exist, is
            of a kind that is not read, or stands there twice.
    """
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    for number, cells in _table(manifest):
        entry = _entry(manifest, number, cells)
        if entry.path in seen:
            raise _wrong(manifest, number, f"path {entry.path!r} stands in line {seen[entry.path]} already")
        seen[entry.path] = number
        entries.append(entry)
    if not entries:
        raise UsageError(f"{manifest}: it lists no files.")
    return entries


def _table(manifest: Path) -> list[tuple[int, dict[str, str]]]:
    """Return (line number, column -> cell) of every line that is not empty."""
    try:
        with io.TextIOWrapper(io.BufferedReader(open_plain(manifest)), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip().lower() for name in next(reader, [])]
            _require_columns(manifest, columns)
            table = []
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(columns):
                    reason = f"{len(cells)} cells where there are {len(columns)} columns; quote cells that hold commas"
                    raise _wrong(manifest, reader.line_num, reason)
                table.append((reader.line_num, dict(zip(columns, map(str.strip, cells), strict=True))))
    except UnicodeDecodeError as error:
        raise UsageError(f"{manifest}: not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from error
    except csv.Error as error:
        raise UsageError(f"{manifest}, line {reader.line_num}: not CSV ({error}).") from error
    except OSError as error:
        raise UsageError(f"{manifest}: can't be read ({error.strerror}).") from error
    return table


def _require_columns(manifest: Path, columns: list[str]) -> None:
    if "path" not in columns:
        found = ", ".join(columns) or "none"
        raise UsageError(f"{manifest}: it has no column `path`; its columns are: {found}.")
    twice = sorted({name for name in columns if columns.count(name) > 1 and name})
    if twice:
        raise UsageError(f"{manifest}: column `{twice[0]}` stands there twice.")


def _entry(manifest: Path, number: int, cells: dict[str, str]) -> Entry:
    """Return the entry that a line describes."""
    if not cells["path"]:
        raise _wrong(manifest, number, "its path is empty")
    file, image = split_path(cells["path"])
    try:
        full = confined(manifest.parent, file)
    except ValueError as error:
        raise _wrong(manifest, number, f"path {file!r} is refused: {error}") from error
    if full.is_dir() or not full.exists():  # a pipe or a device is recorded as unreadable, as it is in a folder
        reason = "is a folder" if full.is_dir() else "does not exist"
        raise _wrong(manifest, number, f"{file!r} {reason} in {manifest.parent}")
    reader = reader_of_file(full)
    if reader is None:
        raise _wrong(manifest, number, f"{file!r} is of a kind that is not read. Read are: {accepted()}")
    path = PurePosixPath(file).as_posix()
    folder = metadata_of(path, manifest.parent.resolve().name)
    return Entry(
        path=join_path(path, image),
        dataset=cells.get("dataset") or folder.dataset,
        group=next((cells[name] for name in _GROUP_COLUMNS if cells.get(name)), folder.group),
        label=cells.get("label", folder.label),
        split=cells.get("split", folder.split).lower(),
        reader=reader.name,
    )


def _wrong(manifest: Path, number: int, reason: str) -> UsageError:
    return UsageError(f"{manifest}, line {number}: {reason}.")
