"""Add a segment for the sources that a store does not have yet.

A source is identified by (dataset, path, content), and keeps the group that the store has for it (`known_groups.py`).
Rows of built sources never move. A file whose content changed under a built path is refused: its rows show the old
content. A file that only moved keeps its rows. A file that was recorded as unreadable has no rows; once it can be read,
it is a new source.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from usjepa.cache.errors import SourceError
from usjepa.cache.scanning.changes import passed_over_lines
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.known_groups import KnownGroups, SourceKey
from usjepa.cache.scanning.row_table import row_table
from usjepa.cache.scanning.scan import scan_all, scan_told
from usjepa.cache.sources.base import FileFacts, Spacing
from usjepa.cache.sources.grouping import describe_groups
from usjepa.cache.sources.splits import TEST
from usjepa.cache.store.origins import open_sources, spacing_text
from usjepa.cache.store.tables import WITHDRAWN, SourceTable, batches, tombstone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Listing
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Segment
    from usjepa.cache.store.writer import StoreWriter

logger = logging.getLogger(__name__)


_FOUND = ("content_hash", "frames", "height", "width", "error", "spacing_down", "spacing_across", "passed_over")
"""Columns that a scan fills from the file itself."""
_REPEATED = {"dataset", "group", "label", "split", "reader"}
"""Columns in which many sources have the same text."""
_ENOUGH_LEVELS = 256
"""What is built was taken for an image; tables do not say how many grey levels it has."""


class _Known(NamedTuple):
    """Sources of segments, with the content hash of each."""

    built: dict[SourceKey, str]
    unreadable: dict[SourceKey, str]
    """Those that have no rows because they could not be read."""
    groups: KnownGroups
    withdrawn: set[str]
    """Tombstones of contents that were removed from the store, and never join it again."""
    partial: set[str]
    """Contents of tables that do not tell all that a scan finds of a new source: built before spacing was kept, or any
    where frames are compared."""
    unscaled: bool
    """Whether there are segments of which no source has a spacing."""


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
    known = _known(writer.storage, writer.state.segments, journal, settings.min_change > 0)
    scanned = scan_told(listing, settings, journal, on_error)
    described, hashes = scanned.images, dict(scanned.hashes)
    if not len(described):
        raise SourceError(f"{listing.root}: none of its {len(listing.entries)} files holds an image.")
    new = _new(described, known)
    lacking = [i for i in new.tolist() if described.content_hash[i] in known.partial]
    described = _completed(described, lacking, listing, settings, on_error, hashes)
    fresh = known.groups.joined(described, new, _marked_test(listing)).take(new)
    if not len(fresh):
        return 0
    rows = row_table(fresh, settings, hashes)
    failed = int((fresh.error != "").sum())
    if not len(rows):
        reason = next(str(error) for error in fresh.error if error)
        if not known.built:
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
    earlier = _known(storage, [segment for segment in segments if segment.number < number])
    later = _known(storage, [segment for segment in segments if segment.number > number])
    scanned = scan_told(listing, settings, ScanJournal(None), "skip", lambda: None)
    described = scanned.images
    fresh = [
        i
        for i, key in enumerate(_keys(described))
        if key not in later.built | later.unreadable
        and key not in earlier.built
        and (key not in earlier.unreadable or not described.error[i])
    ]
    new = np.array(fresh, dtype=np.int64)
    rest = [segment for segment in segments if segment.number != number]
    others = KnownGroups.of(table for segment in rest for table in _tables(storage, segment))
    sources = others.joined(described, new, _marked_test(listing)).take(new)
    bare = replace(sources, spacing_down=np.empty(0), spacing_across=np.empty(0))
    variants = [sources] if bare == sources else [sources, bare]
    tables = ((one, row_table(one, settings, scanned.hashes)) for one in variants)
    return [{"sources": one.to_parquet(), "rows": rows.to_parquet()} for one, rows in tables]


def _completed(
    table: SourceTable,
    lines: Sequence[int],
    listing: Listing,
    settings: CacheSettings,
    on_error: Literal["stop", "skip"],
    hashes: dict[tuple[str, str], bytes],
) -> SourceTable:
    """Return a scan's table, in which these lines say what no table of the store says of their content.

    They are new sources whose content the store has under another name: their counts came from its tables, where
    neither spacing nor `hashes`, which are added to, need be.
    """
    wanted = {
        (table.dataset[i], table.path[i]): i
        for i in lines
        if not table.error[i] and (table.content_hash[i], table.reader[i]) not in hashes
    }
    entries = tuple(entry for entry in listing.entries if (entry.dataset, entry.path) in wanted)
    if not entries:
        return table
    again = scan_all(replace(listing, entries=entries), settings, None, on_error)
    hashes.update(again.hashes)
    columns = {name: getattr(table, name).copy() for name in _FOUND}
    for place, key in enumerate(_keys(again.table)):
        for name, column in columns.items():
            column[wanted[key]] = getattr(again.table, name)[place]
    return replace(table, **columns)


def _marked_test(listing: Listing) -> set[SourceKey]:
    """Return the sources that the data itself marks `test`."""
    return {(entry.dataset, entry.path) for entry in listing.entries if entry.split == TEST}


def _keys(table: SourceTable) -> Iterable[SourceKey]:
    return zip(table.dataset, table.path, strict=True)


def _known(
    storage: Storage, segments: Sequence[Segment], journal: ScanJournal | None = None, hashed: bool = False
) -> _Known:
    """Return the sources of segments; the journal learns their counts, so that no built source is decoded again.

    With `hashed`, a scan wants of new clips what no table has.
    """
    bare = {segment.number for segment in segments if _is_unscaled(storage, segment)}
    known = _Known({}, {}, KnownGroups(), set(), set(), bool(bare))
    for segment in segments:
        for table in _tables(storage, segment):
            known.groups.add(table)
            known.withdrawn.update(table.content_hash[table.error == WITHDRAWN])
            for key, content, error in zip(_keys(table), table.content_hash, table.error, strict=True):
                (known.unreadable if error else known.built)[key] = content
            if hashed or segment.number in bare:
                known.partial.update(table.content_hash)
            if journal is not None:
                _teach(journal, table)
    return known


def _tables(storage: Storage, segment: Segment) -> Iterator[SourceTable]:
    """Yield a segment's table of sources in parts: a large one is not unpacked at once. Equal texts are one object."""
    names = tuple(SourceTable.__dataclass_fields__)
    one: dict[object, object] = {}
    with open_sources(storage, segment) as file:
        for columns in batches(SourceTable, file, names):
            for name, column in zip(names, columns, strict=True):
                if name in _REPEATED:
                    column[:] = [one.setdefault(text, text) for text in column.tolist()]
            yield SourceTable(**dict(zip(names, columns, strict=True)))


def _is_unscaled(storage: Storage, segment: Segment) -> bool:
    """Return whether no source of a segment has a spacing."""
    with open_sources(storage, segment) as file:
        return all(np.isnan(down).all() for (down,) in batches(SourceTable, file, ("spacing_down",)))


def _teach(journal: ScanJournal, table: SourceTable) -> None:
    readable = table.take(table.error == "")
    columns = (readable.content_hash, readable.reader, readable.frames, readable.height, readable.width)
    lengths = (readable.spacing_down, readable.spacing_across)
    same: dict[FileFacts, FileFacts] = {}
    for content, stamp, frames, height, width, *spacing in zip(
        *(column.tolist() for column in (*columns, *lengths)), strict=True
    ):
        name, _, version = stamp.partition(":")
        known = None if np.isnan(spacing).any() else Spacing(*spacing)
        facts = FileFacts(frames, height, width, _ENOUGH_LEVELS, known)
        journal.learn(content, name, int(version or 1), same.setdefault(facts, facts))


def _new(described: SourceTable, known: _Known) -> NDArray[np.int64]:
    """Return the indices of sources that have no rows yet; SourceError when one that has was edited."""
    here = set(_keys(described))
    moved = {content for key, content in known.built.items() if key not in here}
    fresh, left_out = [], 0
    for i, key in enumerate(_keys(described)):
        content = described.content_hash[i]
        if key in known.built:
            if content != known.built[key]:
                raise SourceError(
                    f"{key[1]} (dataset {key[0]}): its content changed since it was built and its rows show the old "
                    "one. Restore the file, or give the edited one another name to add it as a new source."
                )
        elif tombstone(content) in known.withdrawn:
            left_out += 1
        elif content not in moved and not (described.error[i] and key in known.unreadable):
            fresh.append(i)
    if left_out:
        logger.info(f"{left_out:,} files are left out: they were withdrawn from this store (usjepa-cache remove)")
    return np.array(fresh, dtype=np.int64)
