"""Walk a folder once, when it is asked for: its files, folders and links."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from usjepa.cache.errors import SourceError, UsageError
from usjepa.cache.sources.folders import confined
from usjepa.cache.sources.not_images import is_system_folder
from usjepa.cache.terminal.refusals import advice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_MARKS_OF_ARRAYS = (".zarray", ".zgroup", ".zattrs", "zarr.json")


def is_folder_of_array(name: str) -> bool:
    """Return whether a folder's name says that a reader takes it as one file."""
    return name.lower().endswith(".zarr")


class Tree:
    """What lies in a folder and below it; hidden files are left out, links to folders are not followed.

    Each folder is listed once: on a share every further look at a file costs a journey. Raises SourceError where a
    folder can't be listed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._links: set[str] = set()
        self.stores: set[str] = set()
        """Folders that hold an array and not files: nothing in them is listed."""
        self.system: list[str] = []
        """Names of the folders that systems make, as far as the walk has come; they are left out."""

    def names_in(self, folder: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of files and of folders directly in a folder, sorted; its path is POSIX, "" for the root."""
        if folder not in self._folders:
            self._folders[folder] = self._list(folder)
        return self._folders[folder]

    def files_below(self, folder: str = "") -> Iterator[str]:
        """Yield the paths of all files in a folder and below, relative to the root, folder by folder."""
        files, folders = self.names_in(folder)
        before = f"{folder}/" if folder else ""
        yield from (before + name for name in files)
        for name in folders:
            yield from self.files_below(before + name)

    @cached_property
    def files(self) -> frozenset[str]:
        """Return the paths of all files."""
        return frozenset(self.files_below())

    def require_usable(self, path: str) -> None:
        """Refuse a file whose name no table can hold, or that is a link out of the root; raises UsageError."""
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{self.root}: the file name {path!r} is not UTF-8. Rename the file.") from error
        if path in self._links:
            try:
                confined(self.root, path)
            except ValueError as error:
                raise UsageError(
                    f"{self.root / path}: refused: {error}. Copy the files in, or name their own folder."
                ) from error

    def _list(self, folder: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        files: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    if entry.name in _MARKS_OF_ARRAYS:
                        self.stores.add(folder)
                        return (), ()
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False) and not is_folder_of_array(entry.name):
                        (self.system if is_system_folder(entry.name) else folders).append(entry.name)
                        continue
                    files.append(entry.name)
                    if entry.is_symlink():
                        self._links.add(f"{folder}/{entry.name}" if folder else entry.name)
        except OSError as error:
            raise SourceError(
                f"{error.filename}: this folder can't be listed ({error.strerror}). {advice(error)}"
            ) from error
        return tuple(sorted(files)), tuple(sorted(folders))
