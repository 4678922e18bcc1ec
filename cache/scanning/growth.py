"""Turns what a source holds into a new segment: the first one, or what was added since.

A source is known by (dataset, path, content). Rows of known sources never move. A file whose content changed under a
known path is refused: its rows show the old content. A file that only moved keeps its rows.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np

from usjepa.cache.errors import SourceError
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.scan import rows_of, scan
from usjepa.cache.store.origins import read_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Listing
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Segment
    from usjepa.cache.store.tables import SourceTable
    from usjepa.cache.store.writer import StoreWriter

logger = logging.getLogger(__name__)


def grow(
    writer: StoreWriter,
    listing: Listing,
    settings: CacheSettings,
    journal: ScanJournal,
    on_error: Literal["stop", "skip"],
    check: Callable[[], None],
) -> int:
    """Scan a listing and append what the store does not hold yet; return the number of rows added.

    Raises:
        SourceError: a file is unreadable (unless on_error is "skip"), or was edited since it was built.
    """
    described = scan(listing, settings, journal, on_error, check)
    fresh = described.take(_unknown(writer, described))
    if not len(fresh):
        return 0
    rows = rows_of(fresh, settings)
    if not len(rows):
        _refuse_empty(fresh, listing)
    segment = writer.add_segment(fresh.to_parquet(), rows.to_parquet(), len(rows))
    failed = int((fresh.error != "").sum())
    logger.info(
        f"segment {segment.number}: {len(fresh) - failed:,} sources, {len(rows):,} rows"
        + (f"; {failed:,} unreadable sources are recorded with their reason (see status)" if failed else "")
    )
    return len(rows)


def regrown(storage: Storage, listing: Listing, settings: CacheSettings, others: Sequence[Segment]) -> dict[str, bytes]:
    """Return the tables (`sources`, `rows`) of the segment that a listing gives beside other segments.

    Equal to the segment's own when the sources are those of then; the caller compares hashes.
    """
    known: set[tuple[str, str]] = set()
    for segment in others:
        table, _ = read_tables(storage, segment)
        known |= set(zip(table.dataset, table.path, strict=True))
    described = scan(listing, settings, ScanJournal(None), "skip", lambda: None)
    keys = zip(described.dataset, described.path, strict=True)
    fresh = described.take(np.array([i for i, key in enumerate(keys) if key not in known], dtype=np.int64))
    return {"sources": fresh.to_parquet(), "rows": rows_of(fresh, settings).to_parquet()}


def _unknown(writer: StoreWriter, described: SourceTable) -> NDArray[np.int64]:
    """Return the indices of sources that no segment holds; raise when a known one was edited."""
    known: dict[tuple[str, str], str] = {}
    for segment in writer.state.segments:
        table, _ = read_tables(writer.storage, segment)
        known.update(zip(zip(table.dataset, table.path, strict=True), table.content_hash, strict=True))
    if not known:
        return np.arange(len(described), dtype=np.int64)
    here = set(zip(described.dataset, described.path, strict=True))
    moved = {content for key, content in known.items() if key not in here}
    fresh = []
    for i in range(len(described)):
        key, content = (described.dataset[i], described.path[i]), described.content_hash[i]
        if key not in known and content not in moved:
            fresh.append(i)
        elif key in known and known[key] != content:
            raise SourceError(
                f"{key[1]} (dataset {key[0]}): its content changed since it was built and its rows show the old one. "
                "Restore the file, or give the edited one another name to add it as a new source."
            )
    return np.array(fresh, dtype=np.int64)


def _refuse_empty(fresh: SourceTable, listing: Listing) -> None:
    reasons = sorted({str(error) for error in fresh.error if error})
    raise SourceError(f"{listing.root}: none of its {len(fresh)} files can be read; the first reason: {reasons[0]}")
