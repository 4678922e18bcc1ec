"""Go through a source's folders: known layouts by their lists, others by names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.places.packed import Packed
from usjepa.cache.sources.base import Entry, packed_entries
from usjepa.cache.sources.columns import is_missing
from usjepa.cache.sources.folders import metadata_of, split_of_file
from usjepa.cache.sources.formats.arrays.numpy_files import NpyReader
from usjepa.cache.sources.layouts.base import Folder, SourceLayout
from usjepa.cache.sources.layouts.manifest import read_manifest
from usjepa.cache.sources.layouts.registry import AUTO, listed, recognise
from usjepa.cache.sources.layouts.unread import patient_tables, refuse_unread
from usjepa.cache.sources.not_images import beside_images
from usjepa.cache.sources.registry import accepted, reader_of_file, reader_of_member
from usjepa.cache.sources.tree import Tree, joined

if TYPE_CHECKING:
    from pathlib import Path

LISTS = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".lst", ".list")
"""Endings of lists that may be named as SOURCE."""

_HEADERS = (".mhd", ".nhdr")
"""Endings of files whose samples lie in another one."""


@dataclass
class Found:
    """Sources without readers, in no order, and what the user is told."""

    entries: Packed[Entry] = field(default_factory=packed_entries)
    notes: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    """Endings (or names) of files that no reader takes, outside of layouts."""
    by_folders: Packed[str] = field(default_factory=lambda: Packed(str))
    """Paths of the files that folders alone describe."""
    linked: list[str] = field(default_factory=list)
    """Links to folders that are not followed."""
    system: list[str] = field(default_factory=list)
    """Names of the folders that systems make; nothing in them counts."""

    def beside_images(self) -> dict[str, str]:
        """Return the masks and thumbnails among the files that no list names: path -> kind."""
        return beside_images(self.by_folders)


def find_rows(root: Folder, wanted: str) -> Found:
    """Return the sources of a folder.

    Args:
        root: the source.
        wanted: `cache.layout`.

    Raises:
        UsageError: a layout's list is wrong, a list that may hold splits is not understood, a name may be that of a
            test split, or no folder is of the layout that is insisted on.
    """
    found = Found()
    recognised = _add(found, root, wanted, root.name)
    found.system, found.linked = root.system, root.linked
    if not recognised and wanted not in (AUTO, "folders"):
        raise UsageError(f"{root.path}: no folder in it is of the layout {wanted!r} that cache.layout insists on.")
    return found


def rows_of_list(file: Path, wanted: str, follow: bool = False) -> Found:
    """Return the sources that a list names which the user gave as SOURCE.

    Raises:
        UsageError: as `find_rows`, or it is no list of a known layout.
    """
    folder = Folder(Tree(file.parent, follow=follow), only=file.name)
    layout = recognise(folder, AUTO if wanted == "folders" else wanted)
    if layout is None:
        if file.suffix.lower() in (".csv", ".tsv"):
            read_manifest(file)  # says what it lacks
        raise UsageError(f"{file}: not a kind of file that is read, nor a list that is known. Read are: {accepted()}.")
    found = Found()
    _add_rows(found, folder, layout, folder.name)
    return found


def _add(found: Found, folder: Folder, wanted: str, root_name: str) -> bool:
    """Add the sources of a folder and those below; return whether a layout was recognised."""
    if folder.is_array:
        found.notes.append(f"{folder.place} is an array of Zarr and is left out: call it {folder.name}.zarr.")
        return False
    layout = recognise(folder, wanted)
    if layout is not None:
        _add_rows(found, folder, layout, root_name)
        return True
    if wanted == AUTO:
        refuse_unread(folder)
        found.notes += patient_tables(folder)
    for name in folder.files:
        _add_file(found, folder, name, root_name)
    recognised = False
    for name in folder.folders:
        child = folder.child(name)
        recognised |= _add(found, child, wanted, root_name)
        child.forget()
    return recognised


def _add_file(found: Found, folder: Folder, name: str, root_name: str) -> None:
    file = folder.path / name
    folder.require_usable(name)
    if folder.is_unread(name) or (reader_of_file(file) is None and not folder.is_member()):
        if _is_samples(folder, file):
            return
        found.ignored[file.suffix.lower() or file.name] += 1
        return
    path = joined(folder.place, name)
    known = metadata_of(path, root_name)
    found.by_folders.append(path)
    split = known.split or (split_of_file(name) if reader_of_member(name) is NpyReader else "")
    found.entries.append(Entry(path, known.dataset, "", known.label, split, ""))


def _is_samples(folder: Folder, file: Path) -> bool:
    """Return whether a file holds the samples of a header beside it, by their names."""
    return any(folder.file(f"{file.name.partition('.')[0]}{header}") is not None for header in _HEADERS)


def _add_rows(found: Found, folder: Folder, layout: SourceLayout, root_name: str) -> None:
    """Add what a layout lists; folders above it may name a split where it names none."""
    listing = listed(layout, folder)
    found.notes += listing.notes
    before = joined(folder.place, "")
    inside = metadata_of(f"{before}x", root_name, strict=any(not row.split for row in listing.rows))
    unknown = Counter(row.group for row in listing.rows if row.group and is_missing(row.group))
    if unknown:
        found.notes.append(
            f"{unknown.total():,} files name no patient but {' or '.join(map(repr, sorted(unknown)))}: each is grouped "
            "as if nothing stood there. If that is a patient's name, write it otherwise."
        )
    for row in listing.rows:
        folder.require_usable(row.path)
        group = "" if row.group in unknown else row.group
        source = f"{listing.groups} of {layout.title}" if group else ""
        dataset = row.dataset or inside.label or root_name
        region = before + row.region if row.region else ""
        found.entries.append(
            Entry(before + row.path, dataset, group, row.label, row.split or inside.split, "", source, region)
        )
