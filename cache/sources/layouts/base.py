"""Define what recognises a folder as a layout, and which rows it then gives."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.formats.packed.members import INSIDE
from usjepa.cache.sources.registry import without_ending
from usjepa.cache.sources.tree import Tree, joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

NO_PATIENTS = "each file, since the data names no patients"
"""Where groups come from, in the line about a layout."""
NO_SPLITS = "none given"


@dataclass(frozen=True)
class Row:
    """One source that a layout lists."""

    path: str
    """POSIX, relative to the layout's folder; `FILE::IMAGE` for one of several images in a file."""
    label: str = ""
    group: str = ""
    """Patient or clip; empty where the layout knows none: `cache.group` then decides."""
    split: str = ""
    """One of `train`, `val`, `test`, `train_val`; empty for none."""
    dataset: str = ""
    """Empty: the folder's name."""
    region: str = ""
    """A mask of the scan that comes with the data, as `path`; empty for none."""


@dataclass(frozen=True)
class Listed:
    """What a layout found in a folder, and what the user is told of it."""

    rows: tuple[Row, ...]
    splits: str
    """Where the splits come from, in a few words."""
    groups: str
    """Where the groups come from, in a few words."""
    notes: tuple[str, ...] = ()
    is_complete: bool = False
    """Whether the user wrote the list, so that files beside it are no news."""


class Folder:
    """A folder of a source's tree: names alone, nothing is opened."""

    def __init__(self, tree: Tree, place: str = "", only: str | None = None) -> None:
        """Describe a folder.

        Args:
            tree: of the whole source.
            place: of the folder, relative to the tree's root.
            only: the one list that counts, where the user named it as SOURCE.
        """
        self._tree, self.place = tree, place
        self.files: Sequence[str]
        self.folders: Sequence[str]
        self.files, self.folders = tree.names_in(place)
        self.is_one_list = only is not None
        if only is not None:
            self.files = (only,)

    @property
    def is_array(self) -> bool:
        """Whether the folder holds an array of Zarr and no files."""
        return self.place in self._tree.stores

    @property
    def system(self) -> list[str]:
        """Names of the folders of the whole tree that systems make, as far as the walk has come."""
        return self._tree.system

    def require_usable(self, path: str) -> None:
        """Refuse a file of this folder whose name no table can hold, or that is a link out of the source."""
        self._tree.require_usable(joined(self.place, path))

    def is_unread(self, name: str) -> bool:
        """Return whether a file is a member of an archive that no reader takes."""
        return joined(self.place, name) in self._tree.unread

    def is_member(self) -> bool:
        """Return whether the folder lies in an archive."""
        return INSIDE in self.place

    @property
    def follows_links(self) -> bool:
        """Whether links may lead out of the source."""
        return self._tree.follows_links

    @property
    def linked(self) -> list[str]:
        """Links to folders in the whole tree that are not followed, as far as the walk has come."""
        return self._tree.linked

    @property
    def root(self) -> Path:
        """The source that the folder lies in."""
        return self._tree.root

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self._tree.root / self.place

    @property
    def name(self) -> str:
        """Its name."""
        return self.path.name

    def file(self, *names: str) -> Path | None:
        """Return a file directly in the folder by its name in any case: the first name that is there."""
        wanted = {name.lower(): "" for name in names}
        for own in self.files:
            if wanted.get(own.lower()) == "":
                wanted[own.lower()] = own
        return next((self.path / own for own in wanted.values() if own), None)

    def below(self, name: str) -> Folder | None:
        """Return a folder directly in this one by its name in any case; None where there is none."""
        found = next((own for own in self.folders if own.lower() == name.lower()), None)
        return None if found is None else self.child(found)

    def child(self, name: str) -> Folder:
        """Return a folder directly in this one by its name."""
        return Folder(self._tree, joined(self.place, name))

    def forget(self) -> None:
        """Hold no names below this folder any longer, now that all of it is listed; who asks has them read again."""
        self._tree.forget(self.place)

    def anywhere(self) -> Iterator[str]:
        """Yield the paths of all files of the source, relative to its root: those of this folder first."""
        yield from self._tree.files_below(self.place)
        if self.place:
            yield from self._tree.files_below()

    @cached_property
    def tree(self) -> tuple[str, ...]:
        """Paths of all files in the folder and below, relative to it, sorted."""
        cut = len(joined(self.place, ""))
        return tuple(sorted(path[cut:] for path in self._tree.files_below(self.place)))

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for path in self.tree:
            name = PurePosixPath(path).name
            found[name].append(path)
            if (stem := without_ending(name)) != name:
                found[stem].append(path)
        return found

    def find(self, name: str, near: str = "") -> str | None:
        """Return the path of the file that a list calls by a name, with folders or an ending or without.

        Args:
            name: as the list has it; of an absolute path the longest part counts that leads to one file.
            near: a word that the path contains where several files are called so, such as a split's.

        Raises:
            UsageError: several files are called so.
        """
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if not parts:
            return None
        called = self._by_name.get(parts[-1], []) or self._by_name.get(without_ending(parts[-1]), [])
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            found = [p for p in called if _ends(p, end) or _ends(without_ending(p), without_ending(end))]
            if len(found) > 1 and near:
                found = [path for path in found if near in path.lower()] or found
            if len(found) > 1 and end in found:
                found = [end]
            if len(found) == 1:
                return found[0]
            if found:
                such = " and ".join(found[:2])
                raise UsageError(f"{self.path}: a list names {name!r}, and {len(found)} files are called so: {such}.")
        return None


class SourceLayout(Protocol):
    """How a data set lies on disk. Added for every process by an entry point of the group `usjepa.source_layouts`."""

    @property
    def name(self) -> str:
        """Lower case, unique: what `cache.layout` insists on."""
        ...

    @property
    def title(self) -> str:
        """What the user is told that this is."""
        ...

    def recognises(self, folder: Folder) -> bool:
        """Return whether a folder is of this layout; called for every folder of a source, so names come first."""
        ...

    def rows(self, folder: Folder) -> Listed:
        """Return the sources of a folder that was recognised.

        Raises:
            UsageError: what it lists is wrong; file and line or item are named.
        """
        ...


def _ends(path: str, end: str) -> bool:
    return path == end or path.endswith(f"/{end}")


def missing(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return a note about files that a list names and that are not there; none where all are."""
    if not names:
        return ()
    return (f"{len(names):,} files that {what} names are not there, such as {names[0]}: they are left out.",)


def once(rows: Iterable[Row], where: str) -> tuple[Row, ...]:
    """Return rows, each path once; UsageError where lists put a file into `test` and elsewhere, or label it twice."""
    kept: dict[str, Row] = {}
    for row in rows:
        other = kept.setdefault(row.path, row)
        if other != row:
            raise UsageError(
                f"{where}: {row.path} is listed twice and differently (split {other.split!r}, label {other.label!r}; "
                f"split {row.split!r}, label {row.label!r}). Keep one of them."
            )
    return tuple(kept.values())
