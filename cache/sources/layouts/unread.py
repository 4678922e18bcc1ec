"""Stop a scan at lists of splits that no layout understands."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.folders import split_of_file
from usjepa.cache.sources.formats.packed.members import is_there
from usjepa.cache.sources.layouts.tables import head_of, read_json, table_as_far_as_it_goes
from usjepa.cache.sources.registry import reader_of_file, without_ending
from usjepa.cache.sources.splits import KNOWN, names_split, split_named, split_of_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usjepa.cache.sources.layouts.base import Folder

_TABLES = (".csv", ".tsv")
_JSON = (".json", ".jsonl")
_OTHERS = (
    *(".txt", ".lst", ".list", ".xlsx", ".xls", ".ods", ".pkl", ".pickle", ".yaml", ".yml"),
    *(".mat", ".npy", ".npz", ".h5", ".hdf5"),
)
"""Lists whose names alone are looked at; the last ones may hold images as well, and Parquet is looked into anyway."""
_FEW = 50
"""More lists in one folder are notes on single files, and not opened."""
_DEEPEST, _LOOKED_AT, _MOST_KEYS = 4, 20, 1000
"""Objects within each other, items of a list and keys of an object that are looked at."""


def refuse_unread(folder: Folder) -> None:
    """Refuse lists that may hold splits of the source's files, wherever they lie; UsageError says what to write."""
    lists = [name for name in folder.files if name.lower().endswith((*_TABLES, *_JSON, *_OTHERS))]
    few = len(lists) <= _FEW
    beside = Counter(without_ending(name) for name in folder.files if without_ending(name) != name) if lists else {}
    for name in lists:
        stem = without_ending(name)
        may_hold_images = stem != name
        if not name.lower().endswith(_TABLES) and _is_note(stem, beside, may_hold_images):
            continue
        if may_hold_images and (not few or split_of_file(name)):
            continue  # a clip of many, or images that are of this split
        reason = _reason(folder.path / name, few)
        first = _first_image(folder) if reason and is_there(folder.path / name) else None  # a pipe lists nothing
        if first is not None:
            raise UsageError(
                f"{folder.path / name}: {reason}, and no layout that is known has such a list. Test frames could be "
                f"trained on. Write {folder.root}/manifest.csv that lists the files, for example:\n"
                f"path,label,group,split\n{first},,patient-1,train\n"
                f"(splits are {KNOWN}), or go by folders alone: --set cache.layout=folders"
            )


def _is_note(stem: str, beside: Mapping[str, int], may_hold_images: bool) -> bool:
    """Return whether a list bears the name of a file that is read, and so is a note on that one."""
    if may_hold_images:
        return beside[stem] > 1
    return PurePosixPath(stem).stem in beside


def _first_image(folder: Folder) -> str | None:
    """Return a file that is read, one that is no list if there is any; None where there is none at all."""
    read = (path for path in folder.anywhere() if reader_of_file(folder.root / path) is not None)
    found = list(itertools.islice(read, _FEW))
    return next((path for path in found if not path.lower().endswith(_OTHERS)), found[0] if found else None)


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
    return _reason_of_json(file) if ending in _JSON else ""


def _reason_of_table(file: Path) -> str:
    table = table_as_far_as_it_goes(file)  # what is torn, or in another encoding, may hold splits too
    try:
        column = None if table is None else table.split_column()
    except UsageError:
        return "some of its columns look like splits"
    return f"its column `{column}` holds splits" if column else ""


def _reason_of_json(file: Path) -> str:
    try:
        found = read_json(file) if file.suffix.lower() == ".json" else _lines(file)
    except UsageError:
        return ""
    if isinstance(found, dict):
        keys = [key for key in found if names_split(key) and isinstance(found[key], list | dict)]
        if keys:
            return f"its key {json.dumps(keys[0])} looks like a split"
    if isinstance(found, list) and found and isinstance(found[0], dict):
        keys = [key for key in found[0] if names_split(key)]
        if keys:
            return f"the key {json.dumps(keys[0])} of its items looks like a split"
    return _reason_within(found, _DEEPEST)


def _lines(file: Path) -> list[Any]:
    """Return the first items of a file of one JSON object a line."""
    found = []
    for line in head_of(file).splitlines()[:_LOOKED_AT]:
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return found


def _reason_within(value: Any, levels: int) -> str:
    """Return which key of some object within others has splits for values, or lists of a split's name; "" for none."""
    if isinstance(value, list):
        inner = value[:_LOOKED_AT]
    elif isinstance(value, dict):
        items = list(value.items())[:_MOST_KEYS]
        for key, one in items:
            if (names_split(key) and isinstance(one, str) and split_named(one)) or (
                isinstance(one, list) and len(one) > 1 and _is_split(key)
            ):
                return f"the key {json.dumps(key)} of objects in it looks like a split"
        texts = {one for _, one in items if isinstance(one, str)}
        if len(items) > 1 and len(texts) > 1 and all(map(split_named, texts)):
            return f"its keys, such as {json.dumps(items[0][0])}, have names of splits for values"
        inner = [one for _, one in items]
    else:
        return ""
    reasons = (_reason_within(one, levels - 1) for one in inner if levels)
    return next((reason for reason in reasons if reason), "")


def _is_split(key: str) -> bool:
    try:
        return bool(split_of_folder(key))
    except ValueError:
        return True


def _quietly(file: Path) -> str | None:
    table = table_as_far_as_it_goes(file)
    return None if table is None else table.group_column()
