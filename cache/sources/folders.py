"""What a file's place in its folder says about it, and the wall around that folder.

| place under SOURCE          | dataset          | label   |
|-----------------------------|------------------|---------|
| `file`                      | SOURCE's name    | none    |
| `label/file`                | SOURCE's name    | `label` |
| `dataset/.../label/file`    | `dataset`        | `label` |

Folders named train, val, validation, test and the like set the split and count for nothing else: a test set that lies
in its own folder is never trained on by accident. The group is the file's name without its ending: a clip. Where
several files belong to one patient, only a manifest can say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from usjepa.cache.sources.inside import split_inside

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Place:
    """What a path says."""

    dataset: str
    group: str
    label: str
    split: str


def place_of(path: str, root_name: str) -> Place:
    """Return what the POSIX path, relative to a root of that name, says about its file."""
    file = PurePosixPath(split_inside(path)[0])
    folders = file.parts[:-1]
    splits = [SPLIT_FOLDERS[folder.lower()] for folder in folders if folder.lower() in SPLIT_FOLDERS]
    folders = tuple(folder for folder in folders if folder.lower() not in SPLIT_FOLDERS)
    return Place(
        dataset=folders[0] if len(folders) > 1 else root_name,
        group=file.stem,
        label=folders[-1] if folders else "",
        split=splits[-1] if splits else "",
    )


def confined(root: Path, path: str) -> Path:
    """Return the absolute place of a relative path; ValueError, with the reason, when it leaves the root."""
    file = split_inside(path)[0]
    if PurePosixPath(file).is_absolute() or PureWindowsPath(file).is_absolute():
        raise ValueError("it is absolute; paths are relative to the folder")
    if ".." in file.replace("\\", "/").split("/"):
        raise ValueError("it climbs with '..'; paths stay inside the folder")
    if "\0" in file:
        raise ValueError("it holds a NUL character")
    try:
        inside = (root / file).resolve().is_relative_to(root.resolve())
        (root / file).is_file()  # a name that is too long is only noticed here
    except (OSError, RuntimeError) as error:
        raise ValueError(f"it can't be followed: {error}") from error
    if not inside:
        raise ValueError("a symbolic link leads it out of the folder")
    return root / path
