"""Scan a listing into a table: hash every source and count its frames.

Each source is hashed, then looked up in the journal, then decoded. So a resumed scan notices a file that was edited in
between, and decodes no counted file again.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.decoding.many import ManyChildren
from usjepa.cache.errors import NoImageError, SourceError
from usjepa.cache.interrupt import safe_point
from usjepa.cache.scanning.blank_frames import look_at
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.label_maps import label_maps
from usjepa.cache.scanning.report import describe
from usjepa.cache.scanning.row_table import chosen_frames
from usjepa.cache.scanning.splits import assign_splits, straddling_groups
from usjepa.cache.sources.base import PHANTOM, Entry, FileFacts, Listing
from usjepa.cache.sources.listing import make_listing
from usjepa.cache.sources.reader import SourceReader, stamp_of, version_of
from usjepa.cache.store.tables import SourceTable
from usjepa.cache.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.recipes.recipe import Recipe


logger = logging.getLogger(__name__)

_NAMED = 5
"""Files without an image that a build names; it counts the others."""
_STORED = [name for name in Entry.__dataclass_fields__ if name != "grouped_by"]
"""Fields of an entry that are columns of the table."""


class _Line(NamedTuple):
    """What a scan finds of one source."""

    content_hash: str
    """Empty where the file can't even be hashed."""
    facts: FileFacts
    error: str
    """Why it can't be read; empty where it can."""
    imageless: bool = False
    """Whether it can be read, and holds no image."""


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

        return make_listing(source, settings, children.first.images_in, patients_in)


def _patient(child: DecodingProcess, file: tuple[Path, str]) -> str:
    try:
        return child.patient_of(*file)
    except SourceError:
        return ""  # the scan finds out why, under its own policy


class Scanned(NamedTuple):
    """Every source of a listing, also those that hold no image."""

    table: SourceTable
    """A line per entry; one that holds no image has no frames, and the reason as its error."""
    imageless: NDArray[np.bool_]
    """Which lines these are."""

    @property
    def images(self) -> SourceTable:
        """The table without them."""
        return self.table.take(~self.imageless)

    @property
    def left_out(self) -> list[str]:
        """Why each of them is left out."""
        return [str(error) for error in self.table.error[self.imageless]]


def scan(
    listing: Listing,
    settings: CacheSettings,
    journal: ScanJournal | None,
    on_error: Literal["stop", "skip"],
    check: Callable[[], None] = safe_point,
) -> SourceTable:
    """Hash and count every source of a listing that holds an image, and assign the splits; see `scan_all`."""
    scanned = scan_all(listing, settings, journal, on_error, check)
    if reasons := scanned.left_out:
        more = f"; and {len(reasons) - _NAMED:,} more" if len(reasons) > _NAMED else ""
        logger.info(f"left out, without an image: {len(reasons):,}: {'; '.join(reasons[:_NAMED])}{more}")
    return scanned.images


def scan_all(
    listing: Listing,
    settings: CacheSettings,
    journal: ScanJournal | None,
    on_error: Literal["stop", "skip"],
    check: Callable[[], None] = safe_point,
    child: DecodingProcess | None = None,
) -> Scanned:
    """Hash and count every source of a listing, and assign the splits.

    Args:
        listing: what to scan.
        settings: of the phantom, and the share of test groups.
        journal: what an earlier scan has counted, closed however this one ends; None: count everything.
        on_error: an unreadable file ends the scan, or is kept in the table with its reason and no frames.
        check: called before every source; may raise to stop. What was counted is in the journal.
        child: a process that decodes; None: one is started, and ended with the scan.

    Raises:
        SourceError: a file can't be read and `on_error` is "stop".
    """
    reader = SourceReader.of(listing, settings)
    journal = ScanJournal(None) if journal is None else journal
    lines: list[_Line] = []
    with (
        contextlib.closing(journal),
        contextlib.nullcontext(child) if child is not None else DecodingProcess(listing, settings) as process,
        ProgressBar(len(listing.entries), "scan", unit="files") as progress,
    ):
        for entry in listing.entries:
            check()
            lines.append(_line(entry, reader, process, journal, on_error))
            progress.update(1)
    if not listing.named:
        lines = _without_label_maps(listing.entries, lines)
    table = assign_splits(_source_table(listing.entries, lines), settings.test_fraction)
    return Scanned(table, np.array([line.imageless for line in lines], dtype=np.bool_))


def scan_report(source: str, recipe: Recipe) -> str:
    """Scan a source and return a report for the user; unreadable files are listed, not raised."""
    settings = recipe.cache
    listing = list_source(source, settings)
    with DecodingProcess(listing, settings) as child:
        scanned = scan_all(listing, settings, None, "skip", child=child)
        table = scanned.images
        looked = look_at(table, settings, child)
    taken = (len(chosen_frames(int(count), settings.max_frames_per_source)) for count in table.frames)
    rows = sum(taken) * settings.views.count
    return describe(source, listing, table, rows, straddling_groups(listing.entries), scanned.left_out, looked)


def _line(
    entry: Entry,
    reader: SourceReader,
    child: DecodingProcess,
    journal: ScanJournal,
    on_error: Literal["stop", "skip"],
) -> _Line:
    content_hash = ""
    try:
        content_hash = reader.content_hash(entry.path, entry.reader)
        key = (entry.path, content_hash, entry.reader, version_of(entry.reader))
        facts = journal.find(key)
        if facts is None:
            # The phantom parses nothing that could crash its parser.
            probe = reader.probe if entry.reader == PHANTOM else child.probe
            facts = probe(entry.path, entry.reader)
            journal.add(key, facts)
        return _Line(content_hash, facts, "")
    except NoImageError as error:
        return _Line(content_hash, FileFacts(0, 0, 0), str(error), imageless=True)
    except SourceError as error:
        if on_error == "stop":
            raise
        return _Line(content_hash, FileFacts(0, 0, 0), str(error))


def _without_label_maps(entries: Sequence[Entry], lines: Sequence[_Line]) -> list[_Line]:
    """Return what a scan found, label maps marked as holding no image."""
    lines = list(lines)
    for place, image in label_maps(entries, [line.facts for line in lines]).items():
        what = f"a label map of {lines[place].facts.levels} levels, beside {entries[image].path}"
        error = f"{entries[place].path}: {what}"
        lines[place] = lines[place]._replace(facts=FileFacts(0, 0, 0), error=error, imageless=True)
    return lines


def _source_table(entries: Sequence[Entry], lines: Sequence[_Line]) -> SourceTable:
    described = {name: _strings(getattr(entry, name) for entry in entries) for name in _STORED}
    described["reader"] = _strings(stamp_of(entry.reader) for entry in entries)
    return SourceTable(
        **described,
        content_hash=_strings(line.content_hash for line in lines),
        frames=np.array([line.facts.frames for line in lines], dtype=np.int32),
        height=np.array([line.facts.height for line in lines], dtype=np.int32),
        width=np.array([line.facts.width for line in lines], dtype=np.int32),
        error=_strings(line.error for line in lines),
    )


def _strings(values: Iterable[str]) -> NDArray[np.object_]:
    return np.array(list(values), dtype=object)
