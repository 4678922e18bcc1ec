"""Add a segment for the sources that a store does not have yet.

A source is identified by (dataset, path, content), and keeps the group that the store has for it (`known_groups.py`).
Rows of built sources never move. A file whose content changed under a built path is refused: its rows show the old
content. A file that only moved keeps its rows. A file that was recorded as unreadable has no rows; once it can be read,
it is a new source.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from usjepa.cache.errors import SourceError
from usjepa.cache.places.digests import among
from usjepa.cache.scanning.changes import passed_over_told
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.known_groups import joined
from usjepa.cache.scanning.known_sources import IS_PARTIAL, Compared, KnownSources
from usjepa.cache.scanning.row_table import row_tables
from usjepa.cache.scanning.scan import scan_all, scan_told
from usjepa.cache.sources.base import packed_entries
from usjepa.cache.sources.grouping import describe_groups
from usjepa.cache.store.columns import as_file, batches, parquet_of
from usjepa.cache.store.origins.spacing import spacing_told
from usjepa.cache.store.tables import RowTable, SourceTable, tombstone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.scanning.scanned import Scanned
    from usjepa.cache.sources.base import Listing
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Segment
    from usjepa.cache.store.writer import StoreWriter

    Ints = NDArray[np.int64]

logger = logging.getLogger(__name__)


def grow(
    writer: StoreWriter,
    listing: Listing,
    settings: CacheSettings,
    journal: ScanJournal,
    on_error: Literal["stop", "skip"],
) -> int:
    """Scan a listing and append the sources that the store does not have yet; return the number of rows added.

    Raises:
        SourceError: a file is unreadable (unless on_error is "skip"), or was edited since it was built.
    """
    for line in (*listing.notes, *describe_groups(listing.entries)):
        logger.info(line)
    known = KnownSources(writer.storage, writer.state.segments, settings.min_change > 0)
    journal.learn(known)
    scanned = scan_told(listing, settings, journal, on_error)
    if scanned.imageless.all():
        raise SourceError(f"{listing.root}: none of its {len(listing.entries)} files holds an image.")
    compared = Compared.of(scanned, known)
    new = _new(scanned, compared, known)
    partial = compared.held_h[known.any_holding(compared.content_h, known.flags_n & IS_PARTIAL > 0)]
    if len(partial):
        partial = partial[among(partial, new)]
    told = _completed(scanned, partial, listing, settings, on_error)
    described, count = parquet_of(SourceTable, joined(known, told, compared, new, told.chosen(new)))
    if not count:
        return 0
    failed, reason = _failed(described)
    lines, rows = parquet_of(RowTable, row_tables(described, settings, told.hashes))
    if not rows:
        if not len(known):
            raise SourceError(f"{listing.root}: none of its {failed} files can be read; the first reason: {reason}")
        logger.warning(f"nothing is added: none of {failed} new sources can be read; the first reason: {reason}")
        return 0
    segment = writer.add_segment(described, lines, rows)
    logger.info(
        f"segment {segment.number}: {count - failed:,} sources, {rows:,} rows"
        + (f"; {failed:,} unreadable sources are recorded with their reason (see status)" if failed else "")
    )
    for line in passed_over_told(batches(SourceTable, as_file(described), ("passed_over", "frames"))):
        logger.info(f"segment {segment.number}: {line}")
    if not all(np.isnan(part).all() for part in _spacing(lines, rows)):
        earlier = "; rows of earlier segments stay as they are, without one" if known.unscaled else ""
        logger.info(f"segment {segment.number}: {spacing_told(_spacing(lines, rows))}{earlier}")
    return rows


def _failed(described: memoryview) -> tuple[int, str]:
    """Return how many sources of a table can't be read, and why the first one can't."""
    failed, reason = 0, ""
    for (error,) in batches(SourceTable, as_file(described), ("error",)):
        errors = error[error != ""]
        failed, reason = failed + len(errors), reason or str(next(iter(errors), ""))
    return failed, reason


def _spacing(lines: memoryview, rows: int) -> Iterator[NDArray[np.float64]]:
    """Yield the spacing of a table of rows, [n, 2] each."""
    for columns in batches(RowTable, as_file(lines), ("spacing_down", "spacing_across"), rows):
        yield np.stack(columns, axis=1)


def regrown(
    storage: Storage, listing: Listing, settings: CacheSettings, segments: Sequence[Segment], number: int
) -> list[dict[str, memoryview]]:
    """Return the tables (`sources`, `rows`) of the segment `number` that a listing gives beside a store's others.

    Equal to the segment's own when the sources are those of then; the caller compares hashes. First as they are made
    today, then as they were made before spacing was kept, where that makes a difference.
    """
    earlier = KnownSources(storage, [segment for segment in segments if segment.number < number])
    later = KnownSources(storage, [segment for segment in segments if segment.number > number])
    scanned = scan_told(listing, settings, ScanJournal(None), "skip", lambda: None)
    had = [np.empty(0, np.bool_)]
    for part in scanned.parts():
        in_later = (later.named(part.name_q) >= 0) | later.could_not_be_read(part.name_q)
        still_unread = earlier.could_not_be_read(part.name_q) & part.failed_q
        had.append(in_later | (earlier.named(part.name_q) >= 0) | still_unread)
    new = np.flatnonzero(~np.concatenate(had))
    others = KnownSources(storage, [segment for segment in segments if segment.number != number])
    compared = Compared.of(scanned, others)

    def described(kept: Callable[[SourceTable], SourceTable]) -> memoryview:
        tables = map(kept, joined(others, scanned, compared, new, scanned.chosen(new)))
        return parquet_of(SourceTable, tables)[0]

    today, before = described(lambda table: table), described(_without_spacing)
    return [
        {"sources": one, "rows": parquet_of(RowTable, row_tables(one, settings, scanned.hashes))[0]}
        for one in ((today,) if today == before else (today, before))
    ]


def _without_spacing(table: SourceTable) -> SourceTable:
    return replace(table, spacing_down=np.empty(0), spacing_across=np.empty(0))


def _completed(
    scanned: Scanned, images: Ints, listing: Listing, settings: CacheSettings, on_error: Literal["stop", "skip"]
) -> Scanned:
    """Return a scan in which these images say what no table of the store says of their content.

    They are sources whose content the store has under another name: their counts came from its tables, where
    neither spacing nor hashes of frames need be.
    """
    if not len(images):
        return scanned
    places = scanned.unhashed(images)
    if not len(places):
        return scanned
    entries = packed_entries(listing.entries[place] for place in places.tolist())
    again = scan_all(replace(listing, entries=entries), settings, None, on_error)
    return scanned.updated(places, again)


def _new(scanned: Scanned, compared: Compared, known: KnownSources) -> NDArray[np.int64]:
    """Return which images have no rows yet; SourceError when one that has was edited."""
    if compared.edited is not None:
        table = next(scanned.chosen(np.array([compared.edited])))
        raise SourceError(
            f"{table.path[0]} (dataset {table.dataset[0]}): its content changed since it was built and its rows show "
            "the old one. Restore the file, or give the edited one another name to add it as a new source."
        )
    gone_n = np.ones(len(known), np.bool_)
    gone_n[compared.built_L[compared.built_L >= 0]] = False
    is_new_L = (compared.built_L < 0) & ~compared.unread_L
    if known.withdrawn:
        left_out_L = np.array([tombstone(content) in known.withdrawn for content in scanned.contents()], np.bool_)
        if count := int((left_out_L & (compared.built_L < 0)).sum()):
            told = f"{count:,} files are left out: they were withdrawn from this store"
            logger.info(f"{told} (usjepa-cache remove)")
        is_new_L &= ~left_out_L
    is_new_L[compared.held_h[known.any_holding(compared.content_h, gone_n)]] = False  # moved
    return np.flatnonzero(is_new_L)
