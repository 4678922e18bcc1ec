"""List the sources of a folder, manifest or file in a fixed order.

Nothing is decoded. SOURCE is a folder, a list of files such as a manifest, a single file, or `phantom`. Folders of
known layouts are read through their lists (`layouts/`), others by their names (`folders.py`). Sources are ordered by
the code points of their POSIX paths, not by the file system or a list, so the same files give the same rows on every
machine.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.aliases import with_aliases
from usjepa.cache.sources.base import PHANTOM, Entry, Listing, packed_entries
from usjepa.cache.sources.containers import Expansion, ImagesIn
from usjepa.cache.sources.formats.packed.archive import ArchiveReader
from usjepa.cache.sources.formats.packed.members import is_archive
from usjepa.cache.sources.found import LISTS, Found, find_rows, rows_of_list
from usjepa.cache.sources.grouping import PatientsIn, with_groups
from usjepa.cache.sources.layouts.base import Folder
from usjepa.cache.sources.not_images import notes_on
from usjepa.cache.sources.registry import accepted, reader_of_file, split_path
from usjepa.cache.sources.tree import Tree, is_folder_of_array
from usjepa.cache.storage.urls import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usjepa.cache.places.packed import Packed
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.folders import Metadata


def make_listing(source: str, settings: CacheSettings, images_in: ImagesIn, patients_in: PatientsIn) -> Listing:
    """Return the sources of a folder, manifest or file, or those of the phantom.

    Args:
        source: folder, manifest, file or `phantom`.
        settings: of the phantom, of groups, and whether paths are hidden.
        images_in: opens containers; a parser of hostile files, so one that works in a child process.
        patients_in: opens files of formats that tell their patient; likewise.

    Raises:
        UsageError: the source does not exist, contains nothing that is read, its manifest is wrong, or a file has no
            group.
    """
    listing = _listed(source, settings, images_in)
    if listing.root is not None:
        listing = replace(listing, entries=with_groups(listing.root, listing.entries, settings.group, patients_in))
    return with_aliases(listing) if settings.hash_paths else listing


def list_files(root: Path | None, files: Iterable[tuple[str, Metadata]], settings: CacheSettings) -> Listing:
    """Return a listing of chosen files, in the given order.

    Args:
        root: folder that the paths are relative to; None for the phantom.
        files: POSIX path and metadata of each.
        settings: whether paths are hidden.

    Raises:
        UsageError: no reader takes a file.
    """
    entries = (
        _entry(path, known, PHANTOM if root is None else _reader_of(root / split_path(path)[0]))
        for path, known in files
    )
    listing = Listing(root, packed_entries(entries), named=True)
    return with_aliases(listing) if settings.hash_paths else listing


def _reader_of(file: Path) -> str:
    reader = reader_of_file(file)
    if reader is None:
        raise UsageError(f"{file}: not a kind of file that is read. Read are: {accepted()}.")
    return reader.name


def _entry(path: str, known: Metadata, reader: str) -> Entry:
    return Entry(path, known.dataset, known.group, known.label, known.split, reader)


def _listed(source: str, settings: CacheSettings, images_in: ImagesIn) -> Listing:
    if source == PHANTOM:
        return _phantom(settings)
    path = Path(source)
    if not path.exists():
        raise UsageError(
            f"{shown(source)}: no such file or folder. SOURCE is a folder, a file, a manifest CSV, or `phantom`."
        )
    path = path.resolve()
    _require_utf8(path.name, f"{path}: the name of this folder or file")
    expand = Expansion(images_in, settings.hdf5)
    if path.is_dir() and is_folder_of_array(path.name):
        return _file(path, expand)
    if path.is_dir():
        tree = Tree(path, lambda archive: images_in([(archive, ArchiveReader.name)])[0], settings.follow_links)
        found, root = find_rows(Folder(tree), settings.layout), path
    elif is_archive(path.name):
        tree = Tree(path.parent, lambda archive: images_in([(archive, ArchiveReader.name)])[0], settings.follow_links)
        tree.only(path.name)
        if not tree.names_in("")[1]:
            return _file(path, expand)
        found, root = find_rows(Folder(tree), settings.layout), path.parent
    elif reader_of_file(path) is None and path.suffix.lower() in LISTS:
        found, root = rows_of_list(path, settings.layout, settings.follow_links), path.parent
    else:
        return _file(path, expand)
    return _listing(root, found, expand, settings.hash_paths)


def _phantom(settings: CacheSettings) -> Listing:
    from usjepa.cache.sources.phantom.source import Phantom

    patients = Phantom(settings.phantom).patients()
    entries = [Entry(p.path, p.dataset, p.group, p.label, p.split, PHANTOM, "the phantom") for p in patients]
    return Listing(None, _ordered(packed_entries(entries)))


def _file(file: Path, expand: Expansion) -> Listing:
    entry = Entry(file.name, file.parent.name, "", "", "", _reader_of(file))
    entries = _ordered(expand(file.parent, packed_entries([entry])))
    return Listing(file.parent, entries, notes=tuple(expand.notes()), named=True)


def _listing(root: Path, found: Found, expand: Expansion, hidden: bool) -> Listing:
    """Return what layouts and folders gave as a listing; notes name no file where names are hidden."""
    left_out = found.beside_images()
    entries = packed_entries(
        replace(entry, reader=_reader_of(root / split_path(entry.path)[0]))
        for entry in found.entries
        if entry.path not in left_out
    )
    if not entries:
        raise UsageError(f"{root}: no file in it is of a kind that is read. Read are: {accepted()}.")
    notes = [f"{len(found.notes):,} remarks on layouts name files and are left out."] if hidden and found.notes else []
    notes += [] if hidden else found.notes
    notes += notes_on(left_out, Counter(found.system), hidden)
    if found.linked:
        which = "" if hidden else f" (such as {found.linked[0]})"
        notes.append(f"links to folders are not followed: {len(found.linked):,}{which}. --follow-links follows them.")
    if found.ignored:
        counts = ", ".join(f"{count:,} {ending}" for ending, count in sorted(found.ignored.items()))
        notes.append(f"files of kinds that are not read were ignored: {counts}.")
    ordered = _ordered(expand(root, entries))
    paths = (path for (path,) in ordered.fields("path"))
    twice = next((one for one, other in itertools.pairwise(paths) if one == other), None)
    if twice is not None:
        raise UsageError(f"{root}: {twice!r} is listed by name and again through its whole file; keep one of them.")
    return Listing(root, ordered, found.ignored.total(), (*notes, *expand.notes()), named=not found.by_folders)


def _require_utf8(name: str, what: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not UTF-8. Rename it.") from error


def _ordered(entries: Packed[Entry]) -> Packed[Entry]:
    return entries.in_order(attrgetter("path"))
