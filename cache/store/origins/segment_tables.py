"""Open a segment's tables, proven to be those that were written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

from usjepa.cache.errors import DamageError
from usjepa.cache.identity import hash_of
from usjepa.cache.storage.local import unreadable
from usjepa.cache.storage.protocol import TABLE_LIMIT, Storage
from usjepa.cache.store.columns import batches
from usjepa.cache.store.tables import RowTable, SourceTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usjepa.cache.store.generations import Segment


def read_tables(storage: Storage, segment: Segment) -> tuple[SourceTable, RowTable]:
    """Return a segment's tables; raises DamageError when they are not the ones that were written."""
    with open_sources(storage, segment) as described, open_rows(storage, segment) as lines:
        sources = SourceTable.from_parquet(described.read())
        rows = RowTable.from_parquet(lines.read(), most=segment.rows)
    source = rows.source
    if len(source) != segment.rows or (len(source) and not 0 <= source.min() <= source.max() < len(sources)):
        raise not_of_its_sources(storage, segment)
    return sources, rows


def open_sources(storage: Storage, segment: Segment) -> BinaryIO:
    """Return a segment's table of sources as an open file; raises DamageError as `read_tables`."""
    return _open_table(storage, f"{segment.folder}/sources.parquet", segment.sources_hash)


def open_rows(storage: Storage, segment: Segment) -> BinaryIO:
    """Return a segment's table of rows as an open file; raises DamageError as `read_tables`."""
    return _open_table(storage, f"{segment.folder}/rows.parquet", segment.rows_hash)


def _open_table(storage: Storage, name: str, expected: str) -> BinaryIO:
    """Open a table, or from a bucket a copy without a name: it may be too large to be held in memory."""
    try:
        file = storage.open_file(name, TABLE_LIMIT)
    except FileNotFoundError as error:
        raise DamageError(f"{storage.url}/{name}: missing, though the segment is finished.") from error
    try:
        found = hash_of(file)
        file.seek(0)
    except OSError as error:
        raise unreadable(f"{storage.url}/{name}", error) from error
    if found != expected:
        file.close()
        raise DamageError(f"{storage.url}/{name}: not the table that was written: damaged or replaced.")
    return file


def sources_in_batches(storage: Storage, segment: Segment, *names: str) -> Iterator[list[list[Any]]]:
    """Yield columns of a segment's table of sources, a list a name; raises DamageError as `read_tables`."""
    with open_sources(storage, segment) as file:
        yield from lists_of(file, names)


def lists_of(file: BinaryIO, names: Sequence[str]) -> Iterator[list[list[Any]]]:
    """Yield columns of an open table of sources, a list a name, batch after batch."""
    for columns in batches(SourceTable, file, names):
        yield [column.tolist() for column in columns]


def not_of_its_sources(storage: Storage, segment: Segment) -> DamageError:
    """Return the error of a segment whose tables do not fit each other."""
    return DamageError(f"{storage.url}/{segment.folder}: its tables do not hold {segment.rows:,} rows of its sources.")
