"""Find where each row of a store comes from: its source, frame and view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash

from usjepa.cache.errors import DamageError
from usjepa.cache.lazy import lazy
from usjepa.cache.storage.protocol import TABLE_LIMIT, Storage
from usjepa.cache.store.tables import Places, RowTable, SourceTable, read_spacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.store.generations import Segment


@dataclass(frozen=True)
class Source:
    """One file, HDF5 data set or phantom patient."""

    path: str
    dataset: str
    group: str
    label: str
    split: str
    content_hash: str
    frames: int
    error: str


class Origin(NamedTuple):
    """What a row shows: a view of a frame of a source."""

    source: Source
    frame: int
    """Number within the source, from 0."""
    view: int
    """0 is the plain frame."""

    def __str__(self) -> str:
        return f"{self.source.path}, frame {self.frame}, view {self.view}"


@dataclass(frozen=True)
class Table:
    """Where each row comes from: arrays aligned with `Store.rows`."""

    sources: tuple[Source, ...]
    source: NDArray[np.int32]
    """[R'] index into `sources`."""
    frame: NDArray[np.int32]
    """[R'] frame number within the source."""
    view: NDArray[np.int16]
    """[R'] 0 is the plain frame."""

    def origin(self, position: int) -> Origin:
        """Return the origin of the row at a position of `Store.rows`."""
        source = self.sources[int(self.source[position])]
        return Origin(source, int(self.frame[position]), int(self.view[position]))

    def _column(self, name: str) -> NDArray[np.object_]:
        values = np.empty(len(self.sources), dtype=object)
        values[:] = [getattr(source, name) for source in self.sources]
        return values[self.source]

    @lazy
    def dataset(self) -> NDArray[np.object_]:
        """[R'] dataset names."""
        return self._column("dataset")

    @lazy
    def group(self) -> NDArray[np.object_]:
        """[R'] groups (patients, clips): never to straddle a split."""
        return self._column("group")

    @lazy
    def label(self) -> NDArray[np.object_]:
        """[R'] labels, "" for none."""
        return self._column("label")

    @lazy
    def split(self) -> NDArray[np.object_]:
        """[R'] splits, "" for none."""
        return self._column("split")


def table_of(storage: Storage, segments: Sequence[Segment], rows: NDArray[np.int64]) -> Table:
    """Return the table of the rows that exist, ascending [R'], of all segments; raises DamageError as `read_tables`."""
    sources: list[Source] = []
    parts: list[tuple[NDArray[Any], ...]] = []
    for segment in segments:
        described, (source, frame, view) = _read_places(storage, segment)
        source += np.int32(len(sources))
        parts.append((source, frame, view))
        sources += _sources_of(described)
    columns = [column[0] if len(column) == 1 else np.concatenate(column) for column in zip(*parts, strict=True)]
    if len(columns[0]) != len(rows):
        keep = _positions(segments, rows)
        columns = [column[keep] for column in columns]
    return Table(tuple(sources), *columns)


def spacing_of(storage: Storage, segments: Sequence[Segment], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the millimetres per stored pixel, down and across [R', 2], of the rows that exist, ascending.

    NaN where that is not known. Raises DamageError as `read_tables`.
    """
    parts = [read_spacing(_content(storage, segment, "rows"), segment.rows) for segment in segments]
    found = np.concatenate([np.empty((0, 2)), *parts])
    return found if len(found) == len(rows) else found[_positions(segments, rows)]


def spacing_text(spacing: NDArray[np.float64]) -> str:
    """Return how many rows of a spacing [R, 2] have one, and its range."""
    known = spacing[~np.isnan(spacing).any(axis=1)]
    if not len(known):
        return f"spacing: known of none of {len(spacing):,} rows"
    span = f"{known.min():.4g} to {known.max():.4g} mm per stored pixel"
    return f"spacing: known of {len(known):,} of {len(spacing):,} rows, {span}"


def origin_of(storage: Storage, segments: Sequence[Segment], row: int) -> Origin:
    """Return the origin of one row; raises DamageError as `read_tables`, StopIteration where no segment has the row."""
    segment = next(s for s in segments if s.first_row <= row < s.first_row + s.rows)
    every_row = np.arange(segment.first_row, segment.first_row + segment.rows)
    return table_of(storage, [segment], every_row).origin(row - segment.first_row)


def _positions(segments: Sequence[Segment], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where in the joined row tables each existing row stands."""
    starts = np.array([segment.first_row for segment in segments], dtype=np.int64)
    counts = np.array([segment.rows for segment in segments], dtype=np.int64)
    before = np.concatenate(([0], np.cumsum(counts)[:-1]))
    segment = np.searchsorted(starts, rows, side="right") - 1
    return rows - starts[segment] + before[segment]


def _sources_of(described: SourceTable) -> list[Source]:
    """Return a segment's sources, one object each."""
    columns = [getattr(described, name) for name in Source.__dataclass_fields__]
    return [Source(*[v.item() if hasattr(v, "item") else v for v in values]) for values in zip(*columns, strict=True)]


def read_tables(storage: Storage, segment: Segment) -> tuple[SourceTable, RowTable]:
    """Return a segment's tables; raises DamageError when they are not the ones that were written."""
    described, lines = _contents(storage, segment)
    sources, rows = SourceTable.from_parquet(described), RowTable.from_parquet(lines, most=segment.rows)
    _check_sources(storage, segment, rows.source, len(sources))
    return sources, rows


def _read_places(storage: Storage, segment: Segment) -> tuple[SourceTable, Places]:
    """Return a segment's sources and each row's source, frame and view; raises DamageError as `read_tables` does."""
    described, lines = _contents(storage, segment)
    sources, places = SourceTable.from_parquet(described), Places.from_parquet(lines, most=segment.rows)
    _check_sources(storage, segment, places.source, len(sources))
    return sources, places


def _contents(storage: Storage, segment: Segment) -> list[bytes]:
    return [_content(storage, segment, name) for name in ("sources", "rows")]


def _content(storage: Storage, segment: Segment, name: str) -> bytes:
    """Return the bytes of a segment's table `sources` or `rows`."""
    file = f"{segment.folder}/{name}.parquet"
    try:
        content = storage.read(file, TABLE_LIMIT)
    except FileNotFoundError as error:
        raise DamageError(f"{storage.url}/{file}: missing, though the segment is finished.") from error
    if xxhash.xxh3_128_hexdigest(content) != (segment.sources_hash if name == "sources" else segment.rows_hash):
        raise DamageError(f"{storage.url}/{file}: not the table that was written: damaged or replaced.")
    return content


def _check_sources(storage: Storage, segment: Segment, source: NDArray[np.int32], sources: int) -> None:
    if len(source) != segment.rows or (len(source) and not 0 <= source.min() <= source.max() < sources):
        raise DamageError(
            f"{storage.url}/{segment.folder}: its tables do not hold {segment.rows:,} rows of its sources."
        )
