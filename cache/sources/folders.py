"""Derive dataset, label, split and group from a file's folder, and keep paths inside it.

| path under SOURCE           | dataset          | label   |
|-----------------------------|------------------|---------|
| `file`                      | SOURCE's name    | none    |
| `label/file`                | SOURCE's name    | `label` |
| `dataset/.../label/file`    | `dataset`        | `label` |

Folders named train, val, validation, test and the like set the split and count for nothing else: a test set that lies
in its own folder is never trained on by accident. The group is the file's name without its ending, so one clip. Where
several files belong to one patient, name the patient in a manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from usjepa.cache.sources.registry import ending_of, split_path

_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Metadata:
    """Dataset, group, label and split of a file."""

    dataset: str
    group: str
    """Patient or clip, unique within its dataset."""
    label: str
    """Empty for none."""
    split: str
    """Lower case, empty for none."""


def metadata_of(path: str, root_name: str) -> Metadata:
    """Return the metadata that a file's folders give; its path is POSIX, relative to a root of that name."""
    file = PurePosixPath(split_path(path)[0])
    folders = file.parts[:-1]
    splits = [_SPLIT_FOLDERS[folder.lower()] for folder in folders if folder.lower() in _SPLIT_FOLDERS]
    folders = tuple(folder for folder in folders if folder.lower() not in _SPLIT_FOLDERS)
    return Metadata(
        dataset=folders[0] if len(folders) > 1 else root_name,
        group=file.name.removesuffix(ending_of(file.name)),
        label=folders[-1] if folders else "",
        split=splits[-1] if splits else "",
    )


def confined(root: Path, file: str) -> Path:
    """Return the absolute path of a file below a root; ValueError, with the reason, when it leads out of it."""
    if PurePosixPath(file).is_absolute() or PureWindowsPath(file).is_absolute():
        raise ValueError("it is absolute; paths are relative to the folder")
    if ".." in file.replace("\\", "/").split("/"):
        raise ValueError("it climbs with '..'; paths stay inside the folder")
    if "\0" in file:
        raise ValueError("it contains a NUL character")
    try:
        inside = (root / file).resolve().is_relative_to(root.resolve())
        (root / file).is_file()  # a name that is too long is only noticed here
    except (OSError, RuntimeError) as error:
        raise ValueError(f"it can't be followed: {error}") from error
    if not inside:
        raise ValueError("a symbolic link leads it out of the folder")
    return root / file
