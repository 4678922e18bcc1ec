"""Find where each row of a store comes from: its source, frame and view."""

from __future__ import annotations

import itertools
import operator
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, overload

import numpy as np

from usjepa.cache.errors import DamageError
from usjepa.cache.identity import hash_of
from usjepa.cache.lazy import lazy
from usjepa.cache.places.runs import Runs
from usjepa.cache.places.stretches import Stretches
from usjepa.cache.storage.local import unreadable
from usjepa.cache.storage.protocol import TABLE_LIMIT, Storage
from usjepa.cache.store.tables import BATCH, RowTable, SourceTable, batches, lines_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.places.stretches import Chunk
    from usjepa.cache.store.generations import Segment

_KEPT_BATCHES = 2
"""Batches of sources that stay unpacked."""


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


SOURCE_FIELDS = tuple(Source.__dataclass_fields__)


class PackedSources(Sequence[Source]):
    """Sources that are made when they are asked for. Of many, ask for columns, or in ascending order."""

    def __iter__(self) -> Iterator[Source]:
        for columns in self.columns(*SOURCE_FIELDS):
            yield from map(Source, *columns)

    @overload
    def __getitem__(self, number: int) -> Source: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Source, ...]: ...
    def __getitem__(self, number: int | slice) -> Source | tuple[Source, ...]:
        if isinstance(number, slice):
            return tuple(itertools.islice(self, *number.indices(len(self))))
        wanted = number + len(self) if number < 0 else number
        if not 0 <= wanted < len(self):
            raise IndexError(f"there are {len(self):,} sources, and none of number {number}")
        return self.at(wanted)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    @abstractmethod
    def at(self, number: int) -> Source:
        """Return the source of a number that there is."""

    @abstractmethod
    def columns(self, *names: str) -> Iterator[list[list[Any]]]:
        """Yield columns, a list a name, batch after batch."""


class Sources(PackedSources):
    """The sources of segments. They stay packed; a batch of neighbours is unpacked when one of them is asked for."""

    def __init__(self, storage: Storage, segments: Sequence[Segment]) -> None:
        self._storage, self._segments = storage, segments
        self._batches: dict[int, tuple[Source, ...]] = {}
        """First number of a batch -> its sources, those asked for last."""
        lines: list[int] = []
        held: list[list[list[Any]]] = []
        for segment in segments:
            with open_sources(storage, segment) as file:
                lines.append(lines_of(SourceTable, file))
                held = [*held, *_lists(file, SOURCE_FIELDS)] if sum(lines) <= BATCH else []
        if sum(lines) <= BATCH:
            self._keep(0, held)
        self.firsts = np.cumsum([0, *lines])
        """Number of the first source of each segment, and how many there are."""

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def at(self, number: int) -> Source:
        """Return one, from the batch that it lies in."""
        for first, batch in list(self._batches.items()):
            if first <= number < first + len(batch):
                return batch[number - first]
        first = 0
        for columns in self.columns(*SOURCE_FIELDS):
            if number < first + len(columns[0]):
                return self._keep(first, [columns])[number - first]
            first += len(columns[0])
        raise DamageError(f"{self._storage.url}: its tables of sources changed while they were read.")

    def _keep(self, first: int, columns: list[list[list[Any]]]) -> tuple[Source, ...]:
        batch = tuple(source for lists in columns for source in map(Source, *lists))
        while len(self._batches) >= _KEPT_BATCHES:
            self._batches.pop(next(iter(self._batches)), None)
        self._batches[first] = batch
        return batch

    def columns(self, *names: str) -> Iterator[list[list[Any]]]:
        """Yield columns, a list a name, batch after batch."""
        if len(self._batches) == 1 and len(self._batches.get(0, ())) == len(self):
            yield [[getattr(source, name) for source in self._batches[0]] for name in names]
            return
        for segment in self._segments:
            yield from sources_in_batches(self._storage, segment, *names)


class Table:
    """Where each row comes from: arrays aligned with `Store.rows`, made when they are first asked for.

    Attributes:
        sources: what `source` counts.
    """

    def __init__(
        self, sources: Sequence[Source], source: NDArray[np.int32], frame: NDArray[np.int32], view: NDArray[np.int16]
    ) -> None:
        """Hold the arrays, [R'] each."""
        self.sources = sources
        self._view: NDArray[Any] = view
        vars(self).update(source=source, frame=frame, view=view)

    @classmethod
    def packed(cls, sources: Sequence[Source], stretches: Stretches, view: NDArray[np.integer[Any]]) -> Table:
        """Return a table that holds no array but the views, in any integer type."""
        made = cls.__new__(cls)
        made.sources, made._view = sources, view
        vars(made)["stretches"] = stretches
        return made

    @lazy
    def stretches(self) -> Stretches:
        """Sources and frames of the rows, without an array of them."""
        return Stretches.of([(self.source, self.frame, self.view)])

    @lazy
    def source(self) -> NDArray[np.int32]:
        """[R'] index into `sources`."""
        return self.stretches.columns()[0]

    @lazy
    def frame(self) -> NDArray[np.int32]:
        """[R'] frame number within the source."""
        return self.stretches.columns()[1]

    @lazy
    def view(self) -> NDArray[np.int16]:
        """[R'] 0 is the plain frame."""
        return self._view.astype(np.int16)

    def views_at(self, positions: NDArray[np.int64] | slice) -> NDArray[np.integer[Any]]:
        """Return the views of the rows at some positions, [n]."""
        return self._view[positions]

    def origin(self, position: int) -> Origin:
        """Return the origin of the row at a position of `Store.rows`."""
        source, frame = (int(value[0]) for value in self.stretches.at(np.array([position])))
        return Origin(self.sources[source], frame, int(self._view[position]))

    def source_columns(self, *names: str) -> Iterator[list[list[Any]]]:
        """Yield columns of the sources, a list a name, batch after batch: however they are held."""
        yield from self.columns_of(self.sources, *names)

    @staticmethod
    def columns_of(sources: Sequence[Source], *names: str) -> Iterator[list[list[Any]]]:
        """Yield columns of sources, as `source_columns` does."""
        if isinstance(sources, PackedSources):
            yield from sources.columns(*names)
            return
        yield [[getattr(source, name) for source in sources] for name in names]

    def source_column(self, name: str) -> NDArray[np.object_]:
        """Return a column of the sources, [S]; equal values are one object."""
        seen: dict[Any, Any] = {}
        values = np.empty(len(self.sources), dtype=object)
        first = 0
        for (batch,) in self.source_columns(name):
            values[first : first + len(batch)] = [seen.setdefault(value, value) for value in batch]
            first += len(batch)
        return values

    def content_hashes(self, sources: NDArray[np.int64]) -> list[str]:
        """Return the content hashes of some sources, ascending numbers."""
        found: list[str] = []
        first = 0
        for (batch,) in self.source_columns("content_hash"):
            low, high = np.searchsorted(sources, (first, first + len(batch)))
            found += [batch[number - first] for number in sources[low:high].tolist()]
            first += len(batch)
        return found

    def dataset_codes(self) -> NDArray[np.int32]:
        """Return a number per source, int32 [S], equal for those of one dataset, in the order in which they come."""
        numbers: dict[str, int] = {}
        parts = [np.empty(0, np.int32)]
        for (names,) in self.source_columns("dataset"):
            codes = (numbers.setdefault(name, len(numbers)) for name in names)
            parts.append(np.fromiter(codes, np.int32, len(names)))
        return np.concatenate(parts)

    def _column(self, name: str) -> NDArray[np.object_]:
        return self.source_column(name)[self.source]

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


def table_of(storage: Storage, segments: Sequence[Segment], rows: Runs) -> Table:
    """Return the table of the rows that exist, of all segments; raises DamageError as `read_tables`."""
    sources = Sources(storage, segments)
    views: list[NDArray[np.int8] | NDArray[np.int16]] = []
    stretches = Stretches.of(_chunks(storage, segments, sources, rows, views))
    return Table.packed(sources, stretches, np.concatenate([np.empty(0, np.int8), *views]))


def _chunks(
    storage: Storage,
    segments: Sequence[Segment],
    sources: Sources,
    rows: Runs,
    views: list[NDArray[np.int8] | NDArray[np.int16]],
) -> Iterator[Chunk]:
    """Yield the rows of segments that exist, batch after batch; their views are kept in `views`."""
    for segment, first, stop in zip(segments, sources.firsts[:-1].tolist(), sources.firsts[1:].tolist(), strict=True):
        row = segment.first_row
        with open_rows(storage, segment) as file:
            for source, frame, view in batches(RowTable, file, ("source", "frame", "view"), segment.rows):
                if len(source) and not 0 <= source.min() <= source.max() < stop - first:
                    raise _not_of_its_sources(storage, segment)
                kept = rows.within(row, row + len(source))
                row += len(source)
                chosen = slice(None) if kept is None else kept
                narrow = view[chosen].astype(np.int16)
                small = 0 <= narrow.min(initial=0) <= narrow.max(initial=0) < 128
                views.append(narrow.astype(np.int8) if small else narrow)
                yield source[chosen] + np.int32(first), frame[chosen], narrow
        if row != segment.first_row + segment.rows:
            raise _not_of_its_sources(storage, segment)


def spacing_of(storage: Storage, segments: Sequence[Segment], rows: Runs) -> NDArray[np.float64]:
    """Return the millimetres per stored pixel, down and across [R', 2], of the rows that exist.

    NaN where that is not known. Raises DamageError as `read_tables`.
    """
    return np.concatenate([np.empty((0, 2)), *spacing_in_batches(storage, segments, rows)])


def spacing_in_batches(storage: Storage, segments: Sequence[Segment], rows: Runs) -> Iterator[NDArray[np.float64]]:
    """Yield what `spacing_of` returns in parts, [n, 2] each."""
    for segment in segments:
        row = segment.first_row
        with open_rows(storage, segment) as file:
            for columns in batches(RowTable, file, ("spacing_down", "spacing_across"), segment.rows):
                kept = rows.within(row, row + len(columns[0]))
                row += len(columns[0])
                yield np.stack(columns, axis=1)[slice(None) if kept is None else kept]


def spacing_text(spacing: NDArray[np.float64]) -> str:
    """Return how many rows of a spacing [R, 2] have one, and its range."""
    return spacing_told([spacing])


def spacing_told(parts: Iterable[NDArray[np.float64]]) -> str:
    """Return how many rows of a spacing have one, and its range, from parts of it, [n, 2] each."""
    count = known = 0
    least, most = np.inf, -np.inf
    for part in parts:
        found = part[~np.isnan(part).any(axis=1)]
        count, known = count + len(part), known + len(found)
        least, most = found.min(initial=least), found.max(initial=most)
    if not known:
        return f"spacing: known of none of {count:,} rows"
    return f"spacing: known of {known:,} of {count:,} rows, {least:.4g} to {most:.4g} mm per stored pixel"


def origin_of(storage: Storage, segments: Sequence[Segment], row: int) -> Origin:
    """Return the origin of one row; raises DamageError as `read_tables`, StopIteration where no segment has the row."""
    segment = next(s for s in segments if s.first_row <= row < s.first_row + s.rows)
    every_row = Runs.of(np.array([segment.first_row]), np.array([segment.rows]))
    return table_of(storage, [segment], every_row).origin(row - segment.first_row)


def read_tables(storage: Storage, segment: Segment) -> tuple[SourceTable, RowTable]:
    """Return a segment's tables; raises DamageError when they are not the ones that were written."""
    with open_sources(storage, segment) as described, open_rows(storage, segment) as lines:
        sources = SourceTable.from_parquet(described.read())
        rows = RowTable.from_parquet(lines.read(), most=segment.rows)
    source = rows.source
    if len(source) != segment.rows or (len(source) and not 0 <= source.min() <= source.max() < len(sources)):
        raise _not_of_its_sources(storage, segment)
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
        yield from _lists(file, names)


def _lists(file: BinaryIO, names: Sequence[str]) -> Iterator[list[list[Any]]]:
    for columns in batches(SourceTable, file, names):
        yield [column.tolist() for column in columns]


def _not_of_its_sources(storage: Storage, segment: Segment) -> DamageError:
    return DamageError(f"{storage.url}/{segment.folder}: its tables do not hold {segment.rows:,} rows of its sources.")
