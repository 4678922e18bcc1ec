"""List the sources of a folder, manifest or file in a fixed order.

Nothing is decoded. SOURCE is a folder, a manifest (CSV), a single file, or `phantom`. A folder that contains a
`manifest.csv` is read through it. Sources are ordered by the code points of their POSIX paths, not by the file system
or the manifest, so the same files give the same rows on every machine.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.errors import SourceError, UsageError
from usjepa.cache.sources.aliases import with_aliases
from usjepa.cache.sources.base import PHANTOM, Entry, Listing
from usjepa.cache.sources.containers import Expansion, ImagesIn
from usjepa.cache.sources.folders import Metadata, confined, metadata_of
from usjepa.cache.sources.grouping import PatientsIn, with_groups
from usjepa.cache.sources.manifest_csv import find_manifest, read_manifest
from usjepa.cache.sources.not_images import beside_images, is_system_folder, notes_on
from usjepa.cache.sources.registry import accepted, reader_of_file, split_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from usjepa.cache.recipes.cache import CacheSettings


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
    entries = [
        _entry(path, known, PHANTOM if root is None else _reader_of(root / split_path(path)[0]))
        for path, known in files
    ]
    listing = Listing(root, tuple(entries), named=True)
    return with_aliases(listing) if settings.hash_paths else listing


def _reader_of(file: Path) -> str:
    reader = reader_of_file(file)
    if reader is None:
        raise UsageError(f"{file}: not a kind of file that is read. Read are: {accepted()}.")
    return reader.name


def _entry(path: str, known: Metadata, reader: str) -> Entry:
    return Entry(path, known.dataset, known.group, known.label, known.split, reader)


def _ungrouped(path: str, known: Metadata, reader: str) -> Entry:
    return _entry(path, replace(known, group=""), reader)


def _listed(source: str, settings: CacheSettings, images_in: ImagesIn) -> Listing:
    if source == PHANTOM:
        return _phantom(settings)
    path = Path(source)
    if not path.exists():
        raise UsageError(f"{source}: no such file or folder. SOURCE is a folder, a file, a manifest CSV, or `phantom`.")
    path = path.resolve()
    _require_utf8(path.name, f"{path}: the name of this folder or file")
    expand = Expansion(images_in, settings.hdf5)
    if path.is_dir():
        manifest = find_manifest(path, [entry.name for entry in os.scandir(path) if not entry.is_dir()])
        if manifest is not None:
            return _from_manifest(manifest, expand)
        return _folder(path, expand, settings.hash_paths)
    return _from_manifest(path, expand) if path.suffix.lower() in (".csv", ".tsv") else _file(path, expand)


def _phantom(settings: CacheSettings) -> Listing:
    from usjepa.cache.sources.phantom.source import Phantom

    patients = Phantom(settings.phantom).patients()
    entries = [Entry(p.path, p.dataset, p.group, p.label, p.split, PHANTOM, "the phantom") for p in patients]
    return Listing(None, _ordered(entries))


def _from_manifest(manifest: Path, expand: Expansion) -> Listing:
    listed = read_manifest(manifest)
    entries = list(expand(manifest.parent, listed))
    paths = Counter(entry.path for entry in entries)
    twice = next((path for path, count in paths.items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{manifest}: {twice!r} is listed by name and again through its whole file; keep one of them.")
    note = f"{manifest.name} is used; it names {len(listed):,} files."
    return Listing(manifest.parent, _ordered(entries), notes=(note, *expand.notes()), named=True)


def _file(file: Path, expand: Expansion) -> Listing:
    entry = Entry(file.name, file.parent.name, "", "", "", _reader_of(file))
    entries = _ordered(expand(file.parent, [entry]))
    return Listing(file.parent, entries, notes=tuple(expand.notes()), named=True)


def _folder(root: Path, expand: Expansion, hidden: bool) -> Listing:
    entries = []
    ignored: Counter[str] = Counter()
    system: Counter[str] = Counter()
    for file in _walk(root, system):
        path = file.relative_to(root).as_posix()
        _require_inside(root, file, path)
        reader = reader_of_file(file)
        if reader is None:
            ignored[file.suffix.lower() or file.name] += 1
            continue
        entries.append(_ungrouped(path, metadata_of(path, root.name), reader.name))
    if not entries:
        raise UsageError(f"{root}: no file in it is of a kind that is read. Read are: {accepted()}.")
    left_out = beside_images([entry.path for entry in entries])
    entries = [entry for entry in entries if entry.path not in left_out]
    notes = notes_on(left_out, system, hidden)
    if ignored:
        counts = ", ".join(f"{count:,} {ending}" for ending, count in sorted(ignored.items()))
        notes.append(f"files of kinds that are not read were ignored: {counts}.")
    ordered = _ordered(expand(root, entries))
    return Listing(root, ordered, ignored.total(), (*notes, *expand.notes()))


def _walk(root: Path, system: Counter[str]) -> Iterator[Path]:
    """Yield the files under a folder, hidden ones left out; links to folders are not followed but yielded.

    Folders that systems make are left out, and counted in `system`.
    """
    for folder, folders, files in os.walk(root, onerror=_refuse_folder):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in links)
        system.update(name for name in folders if is_system_folder(name))
        folders[:] = [name for name in folders if not is_system_folder(name)]
        yield from (Path(folder, name) for name in sorted(files + links) if not name.startswith("."))


def _refuse_folder(error: OSError) -> None:
    raise SourceError(f"{error.filename}: this folder can't be listed ({error.strerror}).") from error


def _require_inside(root: Path, file: Path, path: str) -> None:
    """Refuse names that no table can hold, and links that lead out of the source."""
    _require_utf8(path, f"{root}: the file name {path!r}")
    if file.is_symlink():
        try:
            confined(root, path)
        except ValueError as error:
            raise UsageError(f"{file}: refused: {error}. Copy the files in, or name their own folder.") from error


def _require_utf8(name: str, what: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not UTF-8. Rename it.") from error


def _ordered(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.path))
