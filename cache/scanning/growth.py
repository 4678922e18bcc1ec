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
from usjepa.cache.scanning.changes import passed_over_lines
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.known_groups import joined
from usjepa.cache.scanning.known_sources import IS_PARTIAL, Compared, KnownSources
from usjepa.cache.scanning.row_table import row_table
from usjepa.cache.scanning.scan import scan_all, scan_told
from usjepa.cache.sources.grouping import describe_groups
from usjepa.cache.store.origins.spacing import spacing_text
from usjepa.cache.store.tables import tombstone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.scanning.scanned import Scanned
    from usjepa.cache.sources.base import Listing
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Segment
    from usjepa.cache.store.tables import SourceTable
    from usjepa.cache.store.writer import StoreWriter

logger = logging.getLogger(__name__)


_FOUND = ("content_hash", "frames", "height", "width", "error", "spacing_down", "spacing_across", "passed_over")
"""Columns that a scan fills from the file itself."""


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
    compared, hashes = Compared.of(scanned, known), dict(scanned.hashes)
    new = _new(scanned, compared, known)
    partial = known.any_holding(compared.content(new), known.flags_n & IS_PARTIAL > 0)
    found = _completed(scanned.chosen(new), np.flatnonzero(partial), listing, settings, on_error, hashes)
    fresh = joined(known, scanned, compared, new, found)
    if not len(fresh):
        return 0
    rows = row_table(fresh, settings, hashes)
    failed = int((fresh.error != "").sum())
    if not len(rows):
        reason = next(str(error) for error in fresh.error if error)
        if not len(known):
            raise SourceError(f"{listing.root}: none of its {failed} files can be read; the first reason: {reason}")
        logger.warning(f"nothing is added: none of {failed} new sources can be read; the first reason: {reason}")
        return 0
    segment = writer.add_segment(fresh.to_parquet(), rows.to_parquet(), len(rows))
    logger.info(
        f"segment {segment.number}: {len(fresh) - failed:,} sources, {len(rows):,} rows"
        + (f"; {failed:,} unreadable sources are recorded with their reason (see status)" if failed else "")
    )
    for line in passed_over_lines([fresh]):
        logger.info(f"segment {segment.number}: {line}")
    spacing = np.stack([rows.spacing_down, rows.spacing_across], axis=1)
    if not np.isnan(spacing).all():
        earlier = "; rows of earlier segments stay as they are, without one" if known.unscaled else ""
        logger.info(f"segment {segment.number}: {spacing_text(spacing)}{earlier}")
    return len(rows)


def regrown(
    storage: Storage, listing: Listing, settings: CacheSettings, segments: Sequence[Segment], number: int
) -> list[dict[str, bytes]]:
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
    sources = joined(others, scanned, Compared.of(scanned, others), new, scanned.chosen(new))
    bare = replace(sources, spacing_down=np.empty(0), spacing_across=np.empty(0))
    variants = [sources] if bare == sources else [sources, bare]
    tables = ((one, row_table(one, settings, scanned.hashes)) for one in variants)
    return [{"sources": one.to_parquet(), "rows": rows.to_parquet()} for one, rows in tables]


def _completed(
    table: SourceTable,
    lines: NDArray[np.int64],
    listing: Listing,
    settings: CacheSettings,
    on_error: Literal["stop", "skip"],
    hashes: dict[tuple[str, str], bytes],
) -> SourceTable:
    """Return a table of new sources, in which these lines say what no table of the store says of their content.

    They are sources whose content the store has under another name: their counts came from its tables, where
    neither spacing nor `hashes`, which are added to, need be.
    """
    wanted = {
        (table.dataset[i], table.path[i]): i
        for i in lines.tolist()
        if not table.error[i] and (table.content_hash[i], table.reader[i]) not in hashes
    }
    if not wanted:
        return table
    entries = tuple(entry for entry in listing.entries if (entry.dataset, entry.path) in wanted)
    again = scan_all(replace(listing, entries=entries), settings, None, on_error)
    hashes.update(again.hashes)
    columns = {name: getattr(table, name).copy() for name in _FOUND}
    for place, key in enumerate(zip(again.table.dataset, again.table.path, strict=True)):
        for name, column in columns.items():
            column[wanted[key]] = getattr(again.table, name)[place]
    return replace(table, **columns)


def _new(scanned: Scanned, compared: Compared, known: KnownSources) -> NDArray[np.int64]:
    """Return which images have no rows yet; SourceError when one that has was edited."""
    if compared.edited is not None:
        table = scanned.chosen(np.array([compared.edited]))
        raise SourceError(
            f"{table.path[0]} (dataset {table.dataset[0]}): its content changed since it was built and its rows show "
            "the old one. Restore the file, or give the edited one another name to add it as a new source."
        )
    gone_n = np.ones(len(known), np.bool_)
    gone_n[compared.built_L[compared.built_L >= 0]] = False
    moved_u = known.any_holding(compared.content_u, gone_n)
    left_out_u = np.zeros(len(compared.other_u), np.bool_)
    if known.withdrawn:
        left_out = np.array([tombstone(content) in known.withdrawn for content in scanned.contents()], np.bool_)
        left_out_u = left_out[compared.other_u]
    if left_out_u.any():
        told = f"{left_out_u.sum():,} files are left out: they were withdrawn from this store"
        logger.info(f"{told} (usjepa-cache remove)")
    return compared.other_u[~(moved_u | left_out_u | compared.unread_L[compared.other_u])]
