"""Turns SOURCE into an ordered list of entries, without decoding anything.

SOURCE is a folder, a manifest (CSV), a single file, or `phantom`. A folder that holds a `manifest.csv` is read through
it. The order is that of the code points of the POSIX paths, whatever the file system or the manifest says, so the same
files give the same rows on every machine.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.errors import SourceError, UsageError
from usjepa.cache.sources.aliases import hide
from usjepa.cache.sources.base import Entry
from usjepa.cache.sources.folders import confined, place_of
from usjepa.cache.sources.inside import join_inside, split_inside
from usjepa.cache.sources.manifest_csv import read_manifest
from usjepa.cache.sources.registry import ACCEPTED, PHANTOM, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from usjepa.cache.recipes.cache import CacheSettings

MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Listing:
    """What SOURCE holds, in order."""

    root: Path | None
    """Folder that the entries' paths are relative to; None for the phantom."""
    entries: tuple[Entry, ...]
    ignored: int = 0
    """Files of kinds that are not read; hidden files are not counted."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the list came about."""
    real: Mapping[str, str] = field(default_factory=dict)
    """Alias -> path, where `cache.hash_paths` hides the paths; never stored."""


def list_source(source: str, settings: CacheSettings) -> Listing:
    """Return the entries of a source.

    Raises:
        UsageError: it does not exist, holds nothing that is read, or its manifest is wrong.
    """
    listing = _listed(source, settings)
    return hide(listing) if settings.hash_paths else listing


def _listed(source: str, settings: CacheSettings) -> Listing:
    if source == PHANTOM:
        return _phantom(settings)
    path = Path(source)
    if not path.exists():
        raise UsageError(f"{source}: no such file or folder. SOURCE is a folder, a file, a manifest CSV, or `phantom`.")
    path = path.resolve()
    if path.is_dir():
        return _manifest(path / MANIFEST) if (path / MANIFEST).is_file() else _folder(path)
    return _manifest(path) if path.suffix.lower() == ".csv" else _file(path)


def _phantom(settings: CacheSettings) -> Listing:
    from usjepa.cache.sources.phantom.source import Phantom

    patients = Phantom(settings.phantom).patients()
    entries = [Entry(p.path, p.dataset, p.group, p.label, p.split, PHANTOM) for p in patients]
    return Listing(None, _ordered(entries))


def _manifest(manifest: Path) -> Listing:
    listed = read_manifest(manifest)
    entries = list(_expanded(manifest.parent, listed))
    paths = Counter(entry.path for entry in entries)
    twice = next((path for path, count in paths.items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{manifest}: {twice!r} is listed by name and again through its whole file; keep one of them.")
    note = f"{manifest.name} is used; it names {len(listed):,} files."
    return Listing(manifest.parent, _ordered(entries), notes=(note,))


def _file(file: Path) -> Listing:
    kind = kind_of(file)
    if kind is None:
        raise UsageError(f"{file}: not a kind of file that is read. Read are: {ACCEPTED}.")
    entry = Entry(file.name, file.parent.name, file.stem, "", "", kind)
    return Listing(file.parent, _ordered(_expanded(file.parent, [entry])))


def _folder(root: Path) -> Listing:
    entries = []
    ignored: Counter[str] = Counter()
    for file in _walk(root):
        path = file.relative_to(root).as_posix()
        _require_inside(root, file, path)
        kind = kind_of(file)
        if kind is None:
            ignored[file.suffix.lower() or file.name] += 1
            continue
        place = place_of(path, root.name)
        entries.append(Entry(path, place.dataset, place.group, place.label, place.split, kind))
    if not entries:
        raise UsageError(f"{root}: no file in it is of a kind that is read. Read are: {ACCEPTED}.")
    notes = []
    if ignored:
        told = ", ".join(f"{count:,} {ending}" for ending, count in sorted(ignored.items()))
        notes.append(f"files of kinds that are not read were ignored: {told}.")
    return Listing(root, _ordered(_expanded(root, entries)), ignored.total(), tuple(notes))


def _walk(root: Path) -> Iterator[Path]:
    """Yield the files under a folder, hidden ones left out; links to folders are not followed but yielded."""
    for folder, folders, files in os.walk(root, onerror=_refuse_folder):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in links)
        yield from (Path(folder, name) for name in sorted(files + links) if not name.startswith("."))


def _refuse_folder(error: OSError) -> None:
    raise SourceError(f"{error.filename}: this folder can't be listed ({error.strerror}).") from error


def _require_inside(root: Path, file: Path, path: str) -> None:
    """Refuse names that no table can hold, and links that lead out of the source."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{root}: the file name {path!r} is not UTF-8. Rename the file.") from error
    if file.is_symlink():
        try:
            confined(root, path)
        except ValueError as error:
            raise UsageError(f"{file}: refused: {error}. Copy the files in, or name their own folder.") from error


def _expanded(root: Path, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield entries, an HDF5 file replaced by its image datasets; one that holds none, or can't be opened, stays.

    Whoever probes such a file raises with the reason, under the same policy as for any other unreadable file.
    """
    # Imported here: the child reads through this package's readers, and so imports it.
    from usjepa.cache.decoding.child import decoding
    from usjepa.cache.recipes.cache import CacheSettings

    with decoding(Listing(root, ()), CacheSettings()) as child:
        for entry in entries:
            file, inside = split_inside(entry.path)
            if entry.reader != "hdf5" or inside:
                yield entry
                continue
            try:
                names = child.datasets(entry.path, root / file)
            except SourceError:
                names = []
            yield from [replace(entry, path=join_inside(file, name)) for name in names] or [entry]


def _ordered(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.path))
