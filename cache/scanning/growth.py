"""Add a segment for the sources that a store does not have yet.

A source is identified by (dataset, path, content), and keeps the group that the store has for it (`known_groups.py`).
Rows of built sources never move. A file whose content changed under a built path is refused: its rows show the old
content. A file that only moved keeps its rows. A file that was recorded as unreadable has no rows; once it can be read,
it is a new source.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from usjepa.cache.errors import SourceError
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.known_groups import KnownGroups, SourceKey
from usjepa.cache.scanning.row_table import row_table
from usjepa.cache.scanning.scan import scan
from usjepa.cache.sources.base import FileFacts
from usjepa.cache.sources.grouping import describe_groups
from usjepa.cache.sources.splits import TEST
from usjepa.cache.store.origins import read_tables
from usjepa.cache.store.tables import WITHDRAWN, tombstone

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Listing
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Segment
    from usjepa.cache.store.tables import SourceTable
    from usjepa.cache.store.writer import StoreWriter

logger = logging.getLogger(__name__)


_ENOUGH_LEVELS = 256
"""What is built was taken for an image; tables do not say how many grey levels it has."""


class _Known(NamedTuple):
    """Sources of segments, with the content hash of each."""

    built: dict[SourceKey, str]
    unreadable: dict[SourceKey, str]
    """Those that have no rows because they could not be read."""
    groups: KnownGroups
    withdrawn: set[str] = set()
    """Tombstones of contents that were removed from the store, and never join it again."""


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
    known = _known(writer.storage, writer.state.segments, journal)
    described = scan(listing, settings, journal, on_error)
    if not len(described):
        raise SourceError(f"{listing.root}: none of its {len(listing.entries)} files holds an image.")
    new = _new(described, known)
    fresh = known.groups.joined(described, new, _marked_test(listing)).take(new)
    if not len(fresh):
        return 0
    rows = row_table(fresh, settings)
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
    return len(rows)


def regrown(
    storage: Storage, listing: Listing, settings: CacheSettings, segments: Sequence[Segment], number: int
) -> dict[str, bytes]:
    """Return the tables (`sources`, `rows`) of the segment `number` that a listing gives beside a store's others.

    Equal to the segment's own when the sources are those of then; the caller compares hashes.
    """
    earlier = _known(storage, [segment for segment in segments if segment.number < number])
    later = _known(storage, [segment for segment in segments if segment.number > number])
    described = scan(listing, settings, ScanJournal(None), "skip", lambda: None)
    fresh = [
        i
        for i, key in enumerate(_keys(described))
        if key not in later.built | later.unreadable
        and key not in earlier.built
        and (key not in earlier.unreadable or not described.error[i])
    ]
    new = np.array(fresh, dtype=np.int64)
    others = KnownGroups.of(read_tables(storage, segment)[0] for segment in segments if segment.number != number)
    sources = others.joined(described, new, _marked_test(listing)).take(new)
    return {"sources": sources.to_parquet(), "rows": row_table(sources, settings).to_parquet()}


def _marked_test(listing: Listing) -> set[SourceKey]:
    """Return the sources that the data itself marks `test`."""
    return {(entry.dataset, entry.path) for entry in listing.entries if entry.split == TEST}


def _keys(table: SourceTable) -> Iterable[SourceKey]:
    return zip(table.dataset, table.path, strict=True)


def _known(storage: Storage, segments: Iterable[Segment], journal: ScanJournal | None = None) -> _Known:
    """Return the sources of segments; the journal learns their counts, so that no built source is decoded again."""
    tables = [read_tables(storage, segment)[0] for segment in segments]
    known = _Known({}, {}, KnownGroups.of(tables), set())
    for table in tables:
        known.withdrawn.update(table.content_hash[table.error == WITHDRAWN])
        for key, content, error in zip(_keys(table), table.content_hash, table.error, strict=True):
            (known.unreadable if error else known.built)[key] = content
        if journal is not None:
            _teach(journal, table)
    return known


def _teach(journal: ScanJournal, table: SourceTable) -> None:
    readable = table.take(table.error == "")
    columns = (readable.content_hash, readable.reader, readable.frames, readable.height, readable.width)
    for content, stamp, frames, height, width in zip(*(column.tolist() for column in columns), strict=True):
        name, _, version = stamp.partition(":")
        journal.learn(content, name, int(version or 1), FileFacts(frames, height, width, _ENOUGH_LEVELS))


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
