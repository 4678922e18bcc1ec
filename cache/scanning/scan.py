"""Scan: from a listing to the tables of a segment. Every file is hashed, and decoded once to count its frames.

Order: hash, then look the file up in the journal, then decode. So a resumed scan notices a file that was edited in
between, and decodes no counted file again.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import xxhash

from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.errors import SourceError
from usjepa.cache.progress import Progress
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.report import describe
from usjepa.cache.sources.base import PHANTOM, Entry, FileFacts, Listing
from usjepa.cache.sources.listing import make_listing
from usjepa.cache.sources.reader import SourceReader, version_of
from usjepa.cache.store.tables import RowTable, SourceTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.recipes.recipe import Recipe

__all__ = ["ScanJournal", "assign_splits", "chosen_frames", "rows_of", "scan", "scan_report", "straddling_groups"]

TEST = "test"


def list_source(source: str, settings: CacheSettings) -> Listing:
    """Return the sources of a folder, manifest or file, containers opened in a child process; see `make_listing`."""
    with DecodingProcess(Listing(None, ()), settings) as child:
        return make_listing(source, settings, child.images_in)


def scan(
    listing: Listing,
    settings: CacheSettings,
    journal: ScanJournal | None,
    on_error: Literal["stop", "skip"],
    check: Callable[[], None] | None = None,
    child: DecodingProcess | None = None,
) -> SourceTable:
    """Hash and count every entry of a listing.

    Args:
        listing: what to scan.
        settings: of the phantom, and the share of test groups.
        journal: what an earlier scan has counted, closed however this one ends; None: count everything.
        on_error: an unreadable file ends the scan, or is kept in the table with its reason and no frames.
        check: called for every file; may raise to stop. What was counted is in the journal.
        child: a process that decodes already; none: one is started, and ended with the scan.

    Raises:
        SourceError: a file can't be read and `on_error` is "stop".
    """
    reader = SourceReader.of(listing, settings)
    journal = ScanJournal(None) if journal is None else journal
    lines: list[tuple[str, FileFacts, str]] = []
    with (
        contextlib.closing(journal),
        contextlib.nullcontext(child) if child is not None else DecodingProcess(listing, settings) as process,
        Progress(len(listing.entries), "scan", unit="files") as progress,
    ):
        for entry in listing.entries:
            if check is not None:
                check()
            lines.append(_line(entry, reader, process, journal, on_error))
            progress.update(1)
    return assign_splits(_source_table(listing.entries, lines), settings.test_fraction)


def scan_report(source: str, recipe: Recipe, check: Callable[[], None] | None = None) -> str:
    """Scan a source and return what a person wants to know of it; unreadable files are listed, not raised."""
    settings = recipe.cache
    listing = list_source(source, settings)
    table = scan(listing, settings, None, "skip", check)
    taken = (len(chosen_frames(int(count), settings.max_frames_per_source)) for count in table.frames)
    return describe(source, listing, table, sum(taken) * settings.views.count, straddling_groups(listing.entries))


def _line(
    entry: Entry,
    reader: SourceReader,
    child: DecodingProcess,
    journal: ScanJournal,
    on_error: Literal["stop", "skip"],
) -> tuple[str, FileFacts, str]:
    """Return an entry's (content hash, facts, why it can't be read)."""
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
        return content_hash, facts, ""
    except SourceError as error:
        if on_error == "stop":
            raise
        return content_hash, FileFacts(0, 0, 0), str(error)


def _source_table(entries: Iterable[Entry], lines: list[tuple[str, FileFacts, str]]) -> SourceTable:
    entries = list(entries)
    facts = [line[1] for line in lines]
    return SourceTable(
        path=_strings(entry.path for entry in entries),
        dataset=_strings(entry.dataset for entry in entries),
        group=_strings(entry.group for entry in entries),
        label=_strings(entry.label for entry in entries),
        split=_strings(entry.split for entry in entries),
        reader=_strings(entry.reader for entry in entries),
        content_hash=_strings(line[0] for line in lines),
        frames=np.array([fact.frames for fact in facts], dtype=np.int32),
        height=np.array([fact.height for fact in facts], dtype=np.int32),
        width=np.array([fact.width for fact in facts], dtype=np.int32),
        error=_strings(line[2] for line in lines),
    )


def _strings(values: Iterable[str]) -> NDArray[np.object_]:
    listed = list(values)
    column = np.empty(len(listed), dtype=object)
    column[:] = listed
    return column


def assign_splits(table: SourceTable, test_fraction: float) -> SourceTable:
    """Return the table with test groups marked; a group is test as a whole or not at all.

    A group with any source marked `test` becomes wholly test. In datasets where no source is marked, the groups whose
    hash lies under `test_fraction` are; the hash depends on dataset and group alone, so growth moves no group.
    """
    keys = list(zip(table.dataset, table.group, strict=True))
    marked = {key for key, split in zip(keys, table.split, strict=True) if split == TEST}
    settled = {dataset for dataset, _ in marked}
    drawn = {key for key in set(keys) if key[0] not in settled and _share(*key) < test_fraction}
    test = marked | drawn
    split = [TEST if key in test else own for key, own in zip(keys, table.split, strict=True)]
    return replace(table, split=_strings(split))


def straddling_groups(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    """Return the (dataset, group) pairs that a listing has in test and elsewhere; `assign_splits` makes them test."""
    splits: dict[tuple[str, str], set[bool]] = {}
    for entry in entries:
        splits.setdefault((entry.dataset, entry.group), set()).add(entry.split == TEST)
    return sorted(key for key, found in splits.items() if len(found) == 2)


def _share(dataset: str, group: str) -> float:
    """Return a group's place in [0, 1): the xxh3-64 of its dataset and name; NUL keeps the two apart."""
    return xxhash.xxh3_64_intdigest(f"{dataset}\0{group}".encode()) / 2**64


def chosen_frames(count: int, most: int | None) -> NDArray[np.int32]:
    """Return which frames of a source are taken: all, or `most` of them evenly spaced, the first and last included.

    These are the whole numbers nearest to `np.linspace(0, count - 1, most)`, halves rounded up, computed in integers.
    """
    if most is None or count <= most:
        return np.arange(count, dtype=np.int32)
    if most == 1:
        return np.zeros(1, dtype=np.int32)
    steps = np.arange(most, dtype=np.int64)
    return ((2 * steps * (count - 1) + most - 1) // (2 * (most - 1))).astype(np.int32)


def rows_of(sources: SourceTable, settings: CacheSettings) -> RowTable:
    """Return a row per (source, frame, view), in that order; view 0 is the whole frame, the others are drawn."""
    from usjepa.cache.frames.views import draw_view

    views = settings.views.count
    frames = [chosen_frames(int(count), settings.max_frames_per_source) for count in sources.frames]
    counts = np.array([len(chosen) for chosen in frames], dtype=np.int64)
    source = np.repeat(np.arange(len(sources), dtype=np.int32), counts * views)
    frame = np.repeat(np.concatenate([np.empty(0, np.int32), *frames]), views)
    view = np.tile(np.arange(views, dtype=np.int32), int(counts.sum()))
    boxes = np.zeros((len(source), 4), dtype=np.int32)
    boxes[:, 2], boxes[:, 3] = sources.height[source], sources.width[source]
    flips = np.zeros((len(source), 2), dtype=bool)
    for row in np.flatnonzero(view > 0):
        i = source[row]
        drawn = draw_view(
            settings.seed,
            sources.content_hash[i],
            int(frame[row]),
            int(view[row]),
            (int(sources.height[i]), int(sources.width[i])),
            settings.views,
        )
        boxes[row] = drawn.top, drawn.left, drawn.height, drawn.width
        flips[row] = drawn.flip_horizontal, drawn.flip_vertical
    top, left, height, width = boxes.T
    return RowTable(source, frame, view, top, left, height, width, flips[:, 0], flips[:, 1])
