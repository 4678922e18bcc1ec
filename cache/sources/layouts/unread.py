"""Stop a scan at lists of splits that no layout understands."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.formats.packed.members import is_there
from usjepa.cache.sources.layouts.tables import read_json, read_table
from usjepa.cache.sources.registry import reader_of_file, without_ending
from usjepa.cache.sources.splits import KNOWN, names_split

if TYPE_CHECKING:
    from usjepa.cache.sources.layouts.base import Folder

_TABLES = (".csv", ".tsv")
_JSON = (".json", ".jsonl")
_OTHERS = (
    ".txt",
    ".lst",
    ".list",
    ".xlsx",
    ".xls",
    ".ods",
    ".parquet",
    ".pkl",
    ".pickle",
    ".yaml",
    ".yml",
    ".mat",
    ".npy",
)
"""Lists whose names alone are looked at."""
_FEW = 50
"""More lists in one folder are notes on single files, and not opened."""


def refuse_unread(folder: Folder) -> None:
    """Refuse lists that may hold splits of the source's files, wherever they lie; UsageError says what to write."""
    lists = [name for name in folder.files if name.lower().endswith((*_TABLES, *_JSON, *_OTHERS))]
    if not lists:
        return
    first = next((path for path in folder.anywhere() if reader_of_file(folder.root / path)), None)
    if first is None:
        return
    beside = {without_ending(name) for name in folder.files if without_ending(name) != name}
    for name in lists:
        if PurePosixPath(name).stem in beside and not name.lower().endswith(_TABLES):
            continue  # a note on one file
        reason = _reason(folder.path / name, len(lists) <= _FEW)
        if reason and is_there(folder.path / name):  # a pipe lists nothing
            raise UsageError(
                f"{folder.path / name}: {reason}, and no layout that is known has such a list. Test frames could be "
                f"trained on. Write {folder.root}/manifest.csv that lists the files, for example:\n"
                f"path,label,group,split\n{first},,patient-1,train\n"
                f"(splits are {KNOWN}), or go by folders alone: --set cache.layout=folders"
            )


def patient_tables(folder: Folder) -> list[str]:
    """Return notes on tables that name patients and are not used."""
    notes = []
    for name in folder.files:
        if name.lower().endswith(_TABLES):
            column = _quietly(folder.path / name)
            if column is not None:
                notes.append(
                    f"{name} has a column `{column}`, which may name patients, and is not used: if it tells whose the "
                    "files are, write a manifest.csv with a column `group`."
                )
    return notes


def _reason(file: Path, is_opened: bool) -> str:
    """Return why a file may hold splits, by its name or also by what it holds; "" where it does not look so."""
    ending = file.suffix.lower()
    if names_split(file.stem):
        return "its name is that of a list of a split"
    if not is_opened:
        return ""
    if ending in _TABLES:
        return _reason_of_table(file)
    return _reason_of_json(file) if ending == ".json" else ""


def _reason_of_table(file: Path) -> str:
    try:
        table = read_table(file)
    except UsageError:
        return ""  # no table with a header: it names no columns
    try:
        column = table.split_column()
    except UsageError:
        return "some of its columns look like splits"
    return f"its column `{column}` holds splits" if column else ""


def _reason_of_json(file: Path) -> str:
    try:
        found = read_json(file)
    except UsageError:
        return ""
    if isinstance(found, dict):
        keys = [key for key in found if names_split(key) and isinstance(found[key], list | dict)]
        return f"its key {json.dumps(keys[0])} looks like a split" if keys else ""
    if isinstance(found, list) and found and isinstance(found[0], dict):
        keys = [key for key in found[0] if names_split(key)]
        return f"the key {json.dumps(keys[0])} of its items looks like a split" if keys else ""
    return ""


def _quietly(file: Path) -> str | None:
    try:
        return read_table(file).group_column()
    except UsageError:
        return None
