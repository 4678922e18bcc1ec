"""Scan a listing into a table: hash every source and count its frames.

Each source is hashed, then looked up in the journal, then decoded; several files at once, by as many children as cores.
So a resumed scan notices a file that was edited in between, and decodes no counted file again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from typing import TYPE_CHECKING, Literal

from usjepa.cache.decoding.many import ManyChildren
from usjepa.cache.decoding.spare import spare_child
from usjepa.cache.errors import NoImageError, SourceError
from usjepa.cache.interrupt import safe_point
from usjepa.cache.places.packed import fields_of
from usjepa.cache.scanning.blank_frames import look_at
from usjepa.cache.scanning.changes import frames_of
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.label_maps import label_maps
from usjepa.cache.scanning.report import describe
from usjepa.cache.scanning.scanned import Line, Scanned, packed_lines
from usjepa.cache.scanning.splits import straddling_groups
from usjepa.cache.sources.base import PHANTOM, Contents, Entry, FileFacts, Listing
from usjepa.cache.sources.files.reader import SourceReader
from usjepa.cache.sources.files.stamps import version_of
from usjepa.cache.sources.listing import make_listing
from usjepa.cache.sources.registry import split_path
from usjepa.cache.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from usjepa.cache.decoding.child import DecodingProcess
    from usjepa.cache.places.packed import Packed
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.store.tables import SourceTable


logger = logging.getLogger(__name__)

_NAMED = 5
"""Files without an image that a build names; it counts the others."""


def list_source(source: str, settings: CacheSettings, groups: bool = True) -> Listing:
    """Return the sources of a folder, manifest or file; files are opened in child processes. See `make_listing`.

    Args:
        source: folder, manifest, file or `phantom`.
        settings: of the phantom, of groups, and whether paths are hidden.
        groups: whether groups are wanted; without, no file is opened to find its patient.
    """
    settings = settings if groups else settings.model_copy(update={"group": "file"})
    with ManyChildren(Listing(None, ()), settings) as children:

        def patients_in(files: Sequence[tuple[Path, str]]) -> list[str]:
            return list(children.each(_patient, files, len(files)))

        def images_in(files: Sequence[tuple[Path, str]]) -> list[Contents | None]:
            return list(children.each(_contents, files, len(files)))

        return make_listing(source, settings, images_in, patients_in)


def _patient(child: DecodingProcess, file: tuple[Path, str]) -> str:
    try:
        return child.patient_of(*file)
    except SourceError:
        return ""  # the scan finds out why, under its own policy


def _contents(child: DecodingProcess, file: tuple[Path, str]) -> Contents | None:
    try:
        return child.images_in(*file)
    except SourceError:
        return None  # likewise


def scan(
    listing: Listing,
    settings: CacheSettings,
    journal: ScanJournal | None,
    on_error: Literal["stop", "skip"],
    check: Callable[[], None] = safe_point,
) -> SourceTable:
    """Return the table of `scan_told`."""
    return scan_told(listing, settings, journal, on_error, check).images


def scan_told(
    listing: Listing,
    settings: CacheSettings,
    journal: ScanJournal | None,
    on_error: Literal["stop", "skip"],
    check: Callable[[], None] = safe_point,
) -> Scanned:
    """Hash and count every source of a listing, assign the splits, and report which hold no image; see `scan_all`."""
    scanned = scan_all(listing, settings, journal, on_error, check)
    if reasons := scanned.left_out:
        more = f"; and {len(reasons) - _NAMED:,} more" if len(reasons) > _NAMED else ""
        logger.info(f"left out, without an image: {len(reasons):,}: {'; '.join(reasons[:_NAMED])}{more}")
    return scanned


def scan_all(
    listing: Listing,
    settings: CacheSettings,
    journal: ScanJournal | None,
    on_error: Literal["stop", "skip"],
    check: Callable[[], None] = safe_point,
    children: ManyChildren | None = None,
) -> Scanned:
    """Hash and count every source of a listing, and assign the splits.

    Args:
        listing: what to scan.
        settings: of the phantom, and the share of test groups.
        journal: what an earlier scan has counted, closed however this one ends; None: count everything.
        on_error: an unreadable file ends the scan, or is kept in the table with its reason and no frames.
        check: called before every source; may raise to stop. What was counted is in the journal.
        children: processes that decode; None: they are started, and ended with the scan.

    Raises:
        SourceError: a file can't be read and `on_error` is "stop".
    """
    journal = ScanJournal(None) if journal is None else journal
    counter = _Counter(listing, settings, journal, on_error)
    lines = packed_lines()
    with (
        contextlib.closing(journal),
        contextlib.nullcontext(children) if children is not None else ManyChildren(listing, settings) as processes,
        contextlib.closing(
            processes.each(counter.count, _files(listing, check), len(listing.entries), counter.hash)
        ) as found,
        ProgressBar(len(listing.entries), "scan", unit="files") as progress,
    ):
        for counted in found:
            for line in counted:
                if line.fresh is not None:
                    journal.add(line.fresh, line.facts)
                lines.append(line)
            progress.update(len(counted))
    return Scanned(listing.entries, lines if listing.named else _without_label_maps(listing.entries, lines), settings)


def scan_report(source: str, recipe: Recipe) -> str:
    """Scan a source and return a report for the user; unreadable files are listed, not raised."""
    settings = recipe.cache
    with spare_child():
        listing = list_source(source, settings)
        with ManyChildren(listing, settings) as children:
            scanned = scan_all(listing, settings, None, "skip", children=children)
            table = scanned.images
            taken = frames_of(table, scanned.hashes, settings)
            looked = look_at(table, taken, children.first)
    rows = sum(map(len, taken)) * settings.views.count
    return describe(source, listing, table, rows, straddling_groups(listing.entries), scanned.left_out, looked)


def _files(listing: Listing, check: Callable[[], None]) -> Iterator[tuple[Entry, ...]]:
    """Yield the sources of each file: one child reads them, and their file is hashed once."""
    for _, entries in itertools.groupby(listing.entries, key=lambda entry: split_path(entry.path)[0]):
        together = tuple(entries)
        for _ in together:
            check()
        yield together


class _Counter:
    """Hash and count the sources of files, in any thread."""

    def __init__(
        self, listing: Listing, settings: CacheSettings, journal: ScanJournal, on_error: Literal["stop", "skip"]
    ) -> None:
        self._listing, self._settings, self._journal, self._on_error = listing, settings, journal, on_error
        self._own = threading.local()
        self._hashed: dict[str, str | SourceError] = {}
        """Of sources that wait for a child: the content hash, or why there is none."""

    def _reader(self) -> SourceReader:
        """Return this thread's reader."""
        if not hasattr(self._own, "reader"):
            self._own.reader = SourceReader.of(self._listing, self._settings)
        reader: SourceReader = self._own.reader
        return reader

    def hash(self, entries: Sequence[Entry]) -> None:
        """Hash the sources of a file, which needs no child; what goes wrong is raised by `count`."""
        for entry in entries:
            try:
                self._hashed[entry.path] = self._reader().content_hash(entry.path, entry.reader)
            except SourceError as error:
                self._hashed[entry.path] = error

    def _hash_of(self, entry: Entry) -> str:
        """Return what `hash` found, or hash now where a source is listed twice; SourceError as it was raised there."""
        hashed = self._hashed.pop(entry.path, None)
        if isinstance(hashed, SourceError):
            raise hashed
        return hashed if hashed is not None else self._reader().content_hash(entry.path, entry.reader)

    def count(self, child: DecodingProcess, entries: Sequence[Entry]) -> list[Line]:
        """Return a line per source, hashed before; SourceError where one can't be read and that stops the scan."""
        return [self._line(child, entry) for entry in entries]

    def _line(self, child: DecodingProcess, entry: Entry) -> Line:
        content_hash = ""
        try:
            content_hash = self._hash_of(entry)
            key = (entry.path, content_hash, entry.reader, version_of(entry.reader))
            facts = self._journal.find(key, self._settings.min_change > 0)
            if facts is not None:
                return Line(content_hash, facts, "")
            # The phantom parses nothing that could crash its parser.
            probe = self._reader().probe if entry.reader == PHANTOM else child.probe
            return Line(content_hash, probe(entry.path, entry.reader), "", fresh=key)
        except NoImageError as error:
            return Line(content_hash, FileFacts(0, 0, 0), str(error), imageless=True)
        except SourceError as error:
            if self._on_error == "stop":
                raise
            return Line(content_hash, FileFacts(0, 0, 0), str(error))


def _without_label_maps(entries: Sequence[Entry], lines: Packed[Line]) -> Packed[Line]:
    """Return what a scan found, label maps marked as holding no image."""
    found = label_maps(entries, lines)
    if not found:
        return lines

    def marked() -> Iterator[Line]:
        for place, (line, (path,)) in enumerate(zip(lines, fields_of(entries, "path"), strict=True)):
            if place in found:
                what = f"a label map of {line.facts.levels} levels, beside {entries[found[place]].path}"
                yield Line(line.content_hash, FileFacts(0, 0, 0), f"{path}: {what}", imageless=True)
            else:
                yield line

    return packed_lines(marked())
