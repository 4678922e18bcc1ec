"""Give rows of a segment, with their sources, from its packed tables.

A build asks for shard after shard: the tables are unpacked once, from their beginning to their end, and a few batches
stay unpacked. Asked for rows before those, it begins again.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Generic, TypeVar

import numpy as np

from usjepa.cache.errors import DamageError
from usjepa.cache.frames.rows import RowBlock
from usjepa.cache.store.columns import batches, lines_of
from usjepa.cache.store.origins.segment_tables import open_rows, open_sources
from usjepa.cache.store.tables import RowTable, SourceTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.columns import Columns
    from usjepa.cache.store.generations import Segment

TableT = TypeVar("TableT", bound="Columns")
_BATCH, _KEPT = 1 << 14, 4
"""Lines that are unpacked at a time, and batches that stay so: shards that are cut at once may lie beside a seam."""


class _Unpacking(Generic[TableT]):
    """Lines of a packed table."""

    def __init__(self, kind: type[TableT], file: BinaryIO) -> None:
        self._kind, self._file = kind, file
        self.lines = lines_of(kind, file)
        self._upcoming: Iterator[TableT] = iter(())
        self._kept: deque[tuple[int, TableT]] = deque()
        """(number of its first line, batch), neighbours."""
        self._next = self.lines

    def take(self, start: int, stop: int) -> TableT:
        """Return lines from `start` to before `stop`."""
        if not self._kept or start < self._kept[0][0]:
            self._kept.clear()
            self._upcoming, self._next = self._tables(), 0
        while self._next < stop:
            batch = next(self._upcoming)
            self._kept.append((self._next, batch))
            self._next += len(batch)
        while len(self._kept) > _KEPT and self._kept[0][0] + len(self._kept[0][1]) <= start:
            self._kept.popleft()
        parts = [(first, batch) for first, batch in self._kept if first < stop and first + len(batch) > start]
        return self._kind.joined([batch.take(slice(max(0, start - first), stop - first)) for first, batch in parts])

    def _tables(self) -> Iterator[TableT]:
        names = tuple(self._kind.__dataclass_fields__)
        for columns in batches(self._kind, self._file, names, lines=_BATCH):
            yield self._kind(**dict(zip(names, columns, strict=True)))


class SegmentRows:
    """The rows of one segment; threads may share it."""

    def __init__(self, storage: Storage, segment: Segment) -> None:
        """Read the tables; raises DamageError when they are not the ones that were written."""
        self._files: list[BinaryIO] = []
        described = self._own(open_sources(storage, segment))
        lines = self._own(open_rows(storage, segment))
        self._sources, self._rows = _Unpacking(SourceTable, described), _Unpacking(RowTable, lines)
        self._where, self._first_row, self._lock = (
            f"{storage.url}/{segment.folder}",
            segment.first_row,
            threading.Lock(),
        )
        readers: set[str] = set()
        for (names,) in batches(SourceTable, described, ("reader",)):
            readers.update(names.tolist())
        self.readers = frozenset(readers)
        """Stamps of the readers of its sources."""
        if self._rows.lines != segment.rows:
            raise self._damaged()

    def _own(self, file: BinaryIO) -> BinaryIO:
        weakref.finalize(self, file.close)
        self._files.append(file)
        return file

    def close(self) -> None:
        """Close the tables. A build that failed may be held by its traceback, in a notebook for long."""
        with self._lock:
            for file in self._files:
                file.close()

    def block(self, numbers: range) -> RowBlock:
        """Return rows, by their numbers in the store; raises DamageError where they show no source of the table."""
        with self._lock:
            rows = self._rows.take(numbers.start - self._first_row, numbers.stop - self._first_row)
            first, last = int(rows.source.min()), int(rows.source.max())
            if not 0 <= first <= last < self._sources.lines:
                raise self._damaged()
            sources = self._sources.take(first, last + 1)
        shifted = replace(rows, source=rows.source - np.int32(first))
        return RowBlock.of(sources, shifted, numbers.start, numbers)

    def go_beyond(self, numbers: range) -> tuple[bool, bool]:
        """Return whether the source of the first of these rows has rows before them, and that of the last behind."""
        start, stop = numbers.start - self._first_row, numbers.stop - self._first_row
        with self._lock:
            begin, end = max(0, start - 1), min(self._rows.lines, stop + 1)
            source = self._rows.take(begin, end).source
        before = begin < start and source[0] == source[1]
        behind = end > stop and source[-1] == source[-2]
        return bool(before), bool(behind)

    def _damaged(self) -> DamageError:
        return DamageError(f"{self._where}: its tables do not hold its rows, each with a source of it.")
