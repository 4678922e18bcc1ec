"""Derive dataset, label, split and group from a file's folder, and keep paths inside it.

| path under SOURCE           | dataset          | label   |
|-----------------------------|------------------|---------|
| `file`                      | SOURCE's name    | none    |
| `label/file`                | SOURCE's name    | `label` |
| `dataset/.../label/file`    | `dataset`        | `label` |

Folders named train, val, test and the like (see `splits.py`) set the split and count for nothing else: a test set that
lies in its own folder is never trained on by accident. An archive counts as the folder of its name. The group is the
path without its ending, so one clip: names restart in every folder. Where several files belong to one patient,
`cache.group` or a manifest says so.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.registry import folders_of, without_ending
from usjepa.cache.sources.splits import split_of_folder


@dataclass(frozen=True)
class Metadata:
    """Dataset, group, label and split of a file."""

    dataset: str
    group: str
    """Patient or clip, unique within its dataset."""
    label: str
    """Empty for none."""
    split: str
    """One of `train`, `val`, `test`, `train_val`; empty for none."""


def metadata_of(path: str, root_name: str, strict: bool = True) -> Metadata:
    """Return the metadata that a file's folders give.

    Args:
        path: POSIX, relative to the root.
        root_name: the root's name.
        strict: whether the folders decide the split, so that a doubtful name matters.

    Raises:
        UsageError: a folder's name may say that its files are for testing, or may not.
    """
    file = PurePosixPath(folders_of(path))
    splits = [_split_of(folder, path, strict) for folder in file.parts[:-1]]
    folders = [folder for folder, split in zip(file.parts[:-1], splits, strict=True) if not split]
    return Metadata(
        dataset=folders[0] if len(folders) > 1 else root_name,
        group=without_ending(file.as_posix()),
        label=folders[-1] if folders else "",
        split=next((split for split in reversed(splits) if split), ""),
    )


def split_of_file(path: str) -> str:
    """Return the split that the name of a file of many images says: `test.h5`, `X_train.npy`; "" where not clearly."""
    try:
        return _folder_split(without_ending(PurePosixPath(path).name))
    except ValueError:
        return ""


def folder_group(path: str) -> str:
    """Return the group of a file where folders are patients: its folder, without those that name splits.

    A patient's files in `train/p7` and `test/p7` are of one group, which is then wholly test.
    """
    folders = PurePosixPath(folders_of(path)).parts[:-1]
    return "/".join(folder for folder in folders if not _split_of(folder, path, False)) or "."


@lru_cache(maxsize=4096)
def _folder_split(folder: str) -> str:
    return split_of_folder(folder)


def _split_of(folder: str, path: str, strict: bool) -> str:
    try:
        return _folder_split(folder)
    except ValueError as error:
        if not strict:
            return ""
        raise UsageError(
            f"{path}: {error}. Rename it `test` or something without that word, or list the files in a manifest.csv "
            "with a column `split`."
        ) from error


def confined(root: Path, file: str, follow: bool = False) -> Path:
    """Return the absolute path of a file below a root; ValueError, with the reason, when it leads out of it.

    `follow` lets symbolic links lead out.
    """
    if PurePosixPath(file).is_absolute() or PureWindowsPath(file).is_absolute():
        raise ValueError("it is absolute; paths are relative to the folder")
    if ".." in file.replace("\\", "/").split("/"):
        raise ValueError("it climbs with '..'; paths stay inside the folder")
    if "\0" in file:
        raise ValueError("it contains a NUL character")
    if follow:
        return root / file
    try:
        inside = _is_inside(root, root / file)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"it can't be followed: {error}") from error
    if not inside:
        raise ValueError("a symbolic link leads it out of the folder; --follow-links follows such links")
    return root / file


_known_inside: dict[tuple[Path, Path], tuple[int, int]] = {}
"""(root, folder) -> device and inode of a folder that was found to lie in the root: a share's every look is slow."""
_MOST_KNOWN = 1 << 16


def _is_inside(root: Path, full: Path) -> bool:
    """Return whether a path leads into a root, links followed; raises OSError where that can't be told."""
    try:
        if stat.S_ISLNK(full.lstat().st_mode):
            return full.resolve().is_relative_to(root.resolve())
        folder = full.parent.stat()
    except (FileNotFoundError, NotADirectoryError):
        return full.resolve().is_relative_to(root.resolve())
    key, found = (root, full.parent), (folder.st_dev, folder.st_ino)
    if _known_inside.get(key) == found:  # the same folder as then, by whatever links the path leads to it now
        return True
    inside = full.parent.resolve().is_relative_to(root.resolve())
    if inside:
        if len(_known_inside) >= _MOST_KNOWN:
            _known_inside.clear()
        _known_inside[key] = found
    return inside
