"""Walk a folder once, when it is asked for: its files, folders and links."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from usjepa.cache.errors import SourceError, UsageError
from usjepa.cache.places.packed import Packed
from usjepa.cache.places.siblings import Siblings, in_order
from usjepa.cache.sources.folders import confined
from usjepa.cache.sources.formats.packed.members import INSIDE, is_archive
from usjepa.cache.sources.not_images import is_system_folder
from usjepa.cache.terminal.refusals import advice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from usjepa.cache.places.siblings import Names
    from usjepa.cache.sources.base import Contents

    MembersOf = Callable[[Path], Contents | None]
    """An archive -> its members; those that no reader takes are its doubts."""


_MARKS_OF_ARRAYS = (".zarray", ".zgroup", ".zattrs", "zarr.json")


def joined(folder: str, name: str) -> str:
    """Return the path of a name in a folder; "" is the root, and `x.zip::` an archive."""
    return folder + name if not folder or folder.endswith(INSIDE) else f"{folder}/{name}"


def is_folder_of_array(name: str) -> bool:
    """Return whether a folder's name says that a reader takes it as one file."""
    return name.lower().endswith(".zarr")


class Tree:
    """What lies in a folder and below it; hidden files are left out. An archive is a folder, called `x.zip::`.

    Each folder is listed once, until it is to be forgotten: on a share every further look at a file costs a journey.
    Raises SourceError where a folder can't be listed.
    """

    def __init__(self, root: Path, members_of: MembersOf | None = None, follow: bool = False) -> None:
        """Describe a tree.

        Args:
            root: the folder.
            members_of: opens archives, which are then folders `x.zip::` of their members; None: they are files.
            follow: whether links to folders are followed, and links may lead out of the root.
        """
        self.root, self._members_of, self.follows_links = root, members_of, follow
        self.unread: set[str] = set()
        """Members of archives that no reader takes."""
        self._linked: dict[str, None] = {}
        """Links to folders that are not followed, as far as the walk has come."""
        self._folders: dict[str, Names] = {}
        self._below: dict[str, Siblings] = {}
        """Folder -> what lies in those directly in it, but for those that `_folders` has."""
        self._links: set[str] = set()
        self.stores: set[str] = set()
        """Folders that hold an array and not files: nothing in them is listed."""
        self._system: dict[str, str] = {}
        """Path -> name of the folders that systems make, as far as the walk has come; they are left out."""

    @property
    def linked(self) -> list[str]:
        """Links to folders that are not followed, as far as the walk has come."""
        return list(self._linked)

    @property
    def system(self) -> list[str]:
        """Names of the folders that systems make, as far as the walk has come."""
        return list(self._system.values())

    def forget(self, folder: str) -> None:
        """Hold the names below a folder no longer; but those in archives, which would have to be opened again.

        Its own stay until the folder that it lies in is forgotten, but for very many.
        """
        self._below.pop(folder, None)
        if folder in self._folders and not _holds_archives(folder, self._folders[folder]):
            del self._folders[folder]

    def only(self, name: str) -> None:
        """Take one archive of the root for all that lies there."""
        self._folders[""] = ((name,), ())
        if self._members_of is not None:
            self._open("", name)

    def names_in(self, folder: str) -> Names:
        """Return the names of files and of folders directly in a folder, sorted; its path is POSIX, "" for the root."""
        if folder in self._folders:
            return self._folders[folder]
        above, _, name = folder.rpartition("/")
        siblings = self._below.setdefault(above, Siblings()) if folder else Siblings()
        found = siblings.find(name)
        if found is not None:
            return found
        self._folders[folder] = self._list(folder)
        for file in self._folders[folder][0] if self._members_of is not None else ():
            if is_archive(file) and INSIDE not in folder:
                self._open(folder, file)
        found = self._folders[folder]
        if folder and not _holds_archives(folder, found) and siblings.add(name, found):
            del self._folders[folder]
        return found

    def _open(self, folder: str, name: str) -> None:
        """Put a folder of its members in the place of an archive; one that can't be opened stays a file."""
        archive = joined(folder, name)
        self.require_usable(archive)
        contents = self._members_of(self.root / archive) if self._members_of is not None else None
        if contents is None or not contents.images:
            return
        root = f"{archive}{INSIDE}"
        self.unread |= {root + member for member in contents.doubts}
        listed: dict[str, tuple[set[str], set[str]]] = {root: (set(), set())}
        for member in contents.images:
            self._place(listed, root, member.split("/"))
        for place, (files, folders) in listed.items():
            self._folders[place] = (tuple(sorted(files)), tuple(sorted(folders)))
        beside, below = self._folders[folder]
        kept = tuple(one for one in beside if one != name)
        self._folders[folder] = (kept, tuple(sorted((*below, f"{name}{INSIDE}"))))

    def _place(self, listed: dict[str, tuple[set[str], set[str]]], root: str, steps: list[str]) -> None:
        """Add a member to the folders that it lies in; hidden ones and those of systems are left out."""
        place = root
        for step in steps[:-1]:
            if step.startswith("."):
                return
            if is_system_folder(step):
                self._system[root + "/".join(steps)] = step
                return
            listed[place][1].add(step)
            place = joined(place, step)
            listed.setdefault(place, (set(), set()))
        if steps[-1] in _MARKS_OF_ARRAYS:
            self.stores.add(place)
        if not steps[-1].startswith("."):
            listed[place][0].add(steps[-1])

    def files_below(self, folder: str = "") -> Iterator[str]:
        """Yield the paths of all files in a folder and below, relative to the root, folder by folder."""
        files, folders = self.names_in(folder)
        yield from (joined(folder, name) for name in files)
        for name in folders:
            yield from self.files_below(joined(folder, name))

    def require_usable(self, path: str) -> None:
        """Refuse a file whose name no table can hold, or that is a link out of the root; raises UsageError."""
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{self.root}: the file name {path!r} is not UTF-8. Rename the file.") from error
        if path in self._links and not self.follows_links:
            try:
                confined(self.root, path)
            except ValueError as error:
                raise UsageError(
                    f"{self.root / path}: refused: {error}. Or copy the files in, or name their own folder."
                ) from error

    def _require_no_circle(self, folder: str, name: str) -> None:
        """Refuse a link to a folder that it lies in: following it would never end."""
        target, place = (self.root / folder / name).resolve(), (self.root / folder).resolve()
        if place == target or place.is_relative_to(target):
            raise UsageError(
                f"{self.root / joined(folder, name)}: a link to a folder that it lies in, which --follow-links would "
                "follow for ever. Remove the link."
            )

    def _list(self, folder: str) -> Names:
        files, folders = Packed(str), Packed(str)
        try:
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    if entry.name in _MARKS_OF_ARRAYS:
                        self.stores.add(folder)
                        return (), ()
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink() and not is_folder_of_array(entry.name) and entry.is_dir():
                        if not self.follows_links:
                            path = joined(folder, entry.name)
                            if (self.root / path).resolve().is_relative_to(self.root.resolve()):
                                self._linked[path] = None
                            else:  # refused, as a link to a file is
                                files.append(entry.name)
                                self._links.add(path)
                            continue
                        self._require_no_circle(folder, entry.name)
                        folders.append(entry.name)
                        continue
                    if entry.is_dir(follow_symlinks=False) and not is_folder_of_array(entry.name):
                        if is_system_folder(entry.name):
                            self._system[joined(folder, entry.name)] = entry.name
                        else:
                            folders.append(entry.name)
                        continue
                    files.append(entry.name)
                    if entry.is_symlink():
                        self._links.add(joined(folder, entry.name))
        except OSError as error:
            raise SourceError(
                f"{error.filename}: this folder can't be listed ({error.strerror}). {advice(error)}"
            ) from error
        return in_order(files), in_order(folders)


def _holds_archives(folder: str, names: Names) -> bool:
    return INSIDE in folder or any(name.endswith(INSIDE) for name in names[1])
